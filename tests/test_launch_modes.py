"""Every op in every way that people launch it: eager, under torch.compile, in a CUDA graph: the same bits."""

from __future__ import annotations

import pytest
import torch
from workloads import WORKLOADS, make

from ssd_cuda import PriorSpec, ops, reference


def expect(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_launch_gives_the_bits_of_eager(device, launch, workload):
    inputs = make(workload, device, seed=7)
    expect(launch(workload.call, inputs), workload.call(inputs))


def test_priors(device, launch):
    spec = PriorSpec.preset("paper")

    def call(inputs):
        return [ops.generate_priors(spec, inputs["like"].device), inputs["like"] * 1]

    found = launch(call, {"like": torch.ones(3, device=device)})
    expect(found[:1], [reference.priors.generate_priors(spec).to(device, torch.float32)])


def test_nms_whose_size_depends_on_the_data(device, launch, request):
    """It waits for the card, so no graph holds it."""
    if "graph" in request.node.name:
        pytest.skip("nms_padded is for graphs")
    corners = torch.rand(300, 2, generator=torch.Generator().manual_seed(1))
    inputs = {
        "boxes": torch.cat([corners, corners + 0.2], 1).to(device),
        "scores": torch.rand(300).to(device),
    }

    def call(inputs):
        return [ops.nms(inputs["boxes"], inputs["scores"], 0.3)]

    expect(launch(call, inputs), [reference.nms.nms(inputs["boxes"], inputs["scores"], 0.3)])
