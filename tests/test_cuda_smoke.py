"""One small call of every path on a card: for compute-sanitizer, which slows kernels a hundredfold."""

from __future__ import annotations

import pytest
import torch
from workloads import WORKLOADS, make

from ssd_cuda import ops

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_runs(workload):
    outputs = workload.call(make(workload, torch.device("cuda")))
    torch.cuda.synchronize()
    assert all(t.device.type == "cuda" for t in outputs)


def boxes(count: int) -> torch.Tensor:
    a, b = torch.rand(2, count, 2)
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b) + 0.02], 1)


@pytest.mark.parametrize("num_priors, clusters", [(1100, True), (200_000, False)])
@pytest.mark.parametrize(
    "options",
    [{}, {"forced": "none"}, {"tie": "last", "forced_min_iou": 0.6, "relabel_unforced": True}],
    ids=str,
)
def test_matching(num_priors, clusters, options):
    """In clusters, which want no memory beside the codes, and by three kernels, the CPU's bits."""
    torch.manual_seed(0)
    images, priors = [boxes(n) for n in (7, 0, 130, 2)], boxes(num_priors)
    labels = [torch.ones(len(image), dtype=torch.long) for image in images]
    expected = ops.match(ops.GroundTruth.from_list(images, labels), priors, prior_format="xyxy", **options)
    on_card = ops.GroundTruth.from_list([i.cuda() for i in images], [label.cuda() for label in labels])
    where = priors.cuda()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = ops.match(on_card, where, prior_format="xyxy", **options)
    codes = -(-found.numel() * found.element_size() // 512) * 512  # as the allocator rounds
    if torch.cuda.get_device_capability() >= (9, 0):
        assert (torch.cuda.max_memory_allocated() - before == codes) == clusters
    assert torch.equal(found.cpu(), expected)
