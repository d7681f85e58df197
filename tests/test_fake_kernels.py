"""Fake kernels, by which torch.compile plans memory, tell shapes, dtypes and strides of what ops give."""

from __future__ import annotations

import pytest
import torch
from fake_kernels import FakesCompared
from focal_cases import without_gradients
from multibox_cases import with_zeros
from workloads import WORKLOADS, make

from ssd_cuda import PriorSpec, export, ops  # noqa: F401 (export tells the shape of its op)
from ssd_cuda.ops.priors import op_options as prior_options

PAPER = PriorSpec.preset("paper")

NAMES = {
    schema.name.split("::")[1]
    for schema in torch._C._jit_get_all_schemas()
    if schema.name.startswith("ssd_cuda::")
}


def _apart(tensor):
    """The same numbers, two apart in memory."""
    return torch.stack([tensor, tensor], -1)[..., 0]


def _turned(tensor):
    """The same numbers, the first two dimensions changed in memory."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1) if tensor.dim() > 1 else tensor


CHANGES = {
    "as they are": lambda name, tensor: tensor,
    "apart": lambda name, tensor: _apart(tensor),
    "turned": lambda name, tensor: _turned(tensor),
    "float64": lambda name, tensor: tensor.double() if tensor.is_floating_point() else tensor,
    "bfloat16": lambda name, tensor: tensor.bfloat16() if name in ("loc", "conf", "keys") else tensor,
}


def compared(call, inputs):
    with FakesCompared() as mode:
        call(inputs)
    return mode.met


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_fake_kernel_tells_what_the_op_gives(device, workload, change):
    inputs = {name: CHANGES[change](name, tensor) for name, tensor in make(workload, device).items()}
    assert compared(workload.call, inputs)


def more_calls(device):
    """Of ops that no workload has: in place, of a size that depends on the data, with the zeros of a
    gradient, without the gradients of a forward; a gradient that is one number everywhere."""
    boxes = torch.rand(40, 4, device=device)
    boxes[:, 2:] += boxes[:, :2]
    loc = torch.rand(40, 4, device=device, requires_grad=True)
    loss = next(workload for workload in WORKLOADS if workload.name == "loss")
    focal = next(workload for workload in WORKLOADS if workload.name == "focal loss")
    return [
        lambda: ops.nms(boxes, boxes[:, 0], 0.3),
        lambda: torch.ops.ssd_cuda.fill_priors(torch.empty(8732, 4, device=device), **prior_options(PAPER)),
        lambda: ops.decode(loc, boxes).sum().backward(),
        lambda: torch.ops.ssd_cuda.checked_input(
            boxes[:, :, None].mT, name="loc", size=[1, 4], dtype="float32", most=40
        ),
        lambda: with_zeros(lambda: loss.call(make(loss, device))),
        lambda: without_gradients(lambda: focal.call(make(focal, device))),
    ]


def test_every_op_was_compared(device):
    with FakesCompared() as mode:
        for workload in WORKLOADS:
            workload.call(make(workload, device))
        for call in more_calls(device):
            call()
    assert mode.met == NAMES
