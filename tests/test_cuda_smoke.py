"""One small call of every path on a card: for compute-sanitizer, which slows kernels a hundredfold."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from workloads import WORKLOADS, make

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_runs(workload):
    outputs = workload.call(make(workload, torch.device("cuda")))
    torch.cuda.synchronize()
    assert all(t.device.type == "cuda" for t in outputs)


# Matching is chosen once in a process. Prints the scratch memory of each call: clusters want none.
MATCH = """
import torch
from ssd_cuda import ops

torch.manual_seed(0)

def boxes(count):
    a, b = torch.rand(2, count, 2)
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b) + 0.02], 1)

def truth(device):
    labels = [torch.ones(len(image), dtype=torch.long, device=device) for image in images]
    return ops.GroundTruth.from_list([image.to(device) for image in images], labels)

images, priors = [boxes(n) for n in (7, 0, 130, 2)], boxes(1100)
for options in ({}, {"forced": "none"}, {"tie": "last", "forced_min_iou": 0.6, "relabel_unforced": True}):
    expected = ops.match(truth("cpu"), priors, prior_format="xyxy", **options)
    given, where, found = truth("cuda"), priors.cuda(), None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = ops.match(given, where, prior_format="xyxy", **options)
    print(torch.cuda.max_memory_allocated() - before)
    assert torch.equal(found.cpu(), expected), options
"""


def match_in(form: str) -> list[int]:
    environment = {**os.environ, "SSD_CUDA_MATCH": form}
    done = subprocess.run([sys.executable, "-c", MATCH], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()[-3:]]


def test_matching_in_clusters():
    """It and the three kernels give the CPU's bits."""
    kernels = match_in("")
    if torch.cuda.get_device_capability() >= (9, 0):
        assert all(one < three for one, three in zip(match_in("cluster"), kernels, strict=True))
