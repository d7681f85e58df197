"""Sizes of inputs that a traced program leaves open: rows of a result follow from them, none is fixed."""

from __future__ import annotations

import pytest
import torch
from conftest import random_boxes, random_priors
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._pytree import tree_leaves

from ssd_cuda import DetectConfig, ops

ALL = DetectConfig(top_k=None, detections_per_image=None, score_threshold=0.3)
TOGETHER = DetectConfig(top_k=None, detections_per_image=None, class_agnostic=True)


def boxes_of(n):
    return random_boxes(n, size=30), torch.rand(n), torch.randint(0, 3, (n,))


def batch_of(n):
    boxes, scores, idxs = boxes_of(2 * n)
    return boxes.view(2, n, 4), scores.view(2, n), idxs.view(2, n)


def head_of(n):
    return torch.randn(2, n, 4), torch.randn(2, n, 3), random_priors(n)


def classes_of(n):
    return torch.randn(2, 20, 4), torch.randn(2, 20, n), random_priors(20)


# name -> the call, its arguments for a size, the place of the size in each (None: of fixed sizes)
CALLS = {
    "nms_padded": (lambda b, s, i: ops.nms_padded(b, s, 0.5, idxs=i), boxes_of, (0, 0, 0)),
    "nms_batch": (lambda b, s, i: ops.nms_batch(b, s, 0.5, idxs=i), batch_of, (1, 1, 1)),
    "soft_nms_padded": (lambda b, s, i: ops.soft_nms_padded(b, s, idxs=i), boxes_of, (0, 0, 0)),
    "soft_nms": (lambda b, s, i: ops.batched_soft_nms(b, s, i), boxes_of, (0, 0, 0)),
    "diou_nms_padded": (lambda b, s, i: ops.diou_nms_padded(b, s, 0.5, idxs=i), boxes_of, (0, 0, 0)),
    "diou_nms": (lambda b, s, i: ops.diou_nms(b, s, 0.5, idxs=i), boxes_of, (0, 0, 0)),
    "matrix_nms_padded": (lambda b, s, i: ops.matrix_nms_padded(b, s, idxs=i), boxes_of, (0, 0, 0)),
    "matrix_nms": (lambda b, s, i: ops.matrix_nms(b, s, idxs=i), boxes_of, (0, 0, 0)),
    "weighted_boxes_fusion": (
        lambda b, s, i: ops.weighted_boxes_fusion(b[:, None], s[:, None], i[:, None]),
        batch_of,
        (1, 1, 1),
    ),
    "detect": (lambda *head: ops.detect(*head, ALL), head_of, (1, 1, 0)),
    "detect, all classes together": (
        lambda *head: ops.detect(*head, TOGETHER),
        head_of,
        (1, 1, 0),
    ),
    "detect, classes": (lambda *head: ops.detect(*head, ALL), classes_of, (None, 2, None)),
    "detect, classes with a number of rows": (lambda *head: ops.detect(*head), classes_of, (None, 2, None)),
    "rows that follow": (
        lambda b, s, i: ops.nms_padded(b, s, 0.5, idxs=i, max_output=b.shape[0] // 2),
        boxes_of,
        (0, 0, 0),
    ),
}
DATA_DEPENDENT = {"soft_nms", "diou_nms", "matrix_nms"}  # their rows are those that are kept
SIZES = (5, 40, 4, 17, 100, 33, 9, 61, 8, 250)  # more than the 8 programs that torch makes of a function


def tensors(result):
    return [part for part in tree_leaves(result) if isinstance(part, torch.Tensor)]


def assert_same(found, expected):
    found, expected = tensors(found), tensors(expected)
    assert len(found) == len(expected)
    assert all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def exported(name, strict):
    call, arguments, places = CALLS[name]

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return call(*tensors)

    rows = Dim("rows", min=4)
    shapes = (tuple(None if place is None else {place: rows} for place in places),)
    return export(Module(), arguments(30), dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_an_exported_program_takes_any_size(name, strict, tmp_path):
    call, arguments, _ = CALLS[name]
    torch.export.save(exported(name, strict), tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    for size in SIZES:
        inputs = arguments(size)
        assert_same(loaded(*inputs), call(*inputs))


@pytest.mark.parametrize("name", CALLS)
def test_one_program_of_the_compiler_serves_every_size(name):
    call, arguments, _ = CALLS[name]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=counter)
        compiled(*arguments(SIZES[0]))
        first = counter.frame_count
        for size in SIZES:
            inputs = arguments(size)
            assert_same(compiled(*inputs), call(*inputs))
    assert counter.frame_count == first >= 1


def hint(size):
    """The number that an open size stands for here."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


def opened(mode, tensor, place):
    """A fake of the tensor whose size at this place is a symbol; equal ones are one symbol."""
    kinds = [DimDynamic.DUCK if d == place else DimDynamic.STATIC for d in range(tensor.dim())]
    return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(kinds))


@pytest.mark.parametrize("name", sorted(set(CALLS) - DATA_DEPENDENT))
def test_a_fake_kernel_keeps_the_size_open(name):
    """What it tells follows from the open size, and is what a call gives."""
    call, arguments, places = CALLS[name]
    inputs = arguments(30)
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        found = tensors(call(*(opened(mode, t, place) for t, place in zip(inputs, places, strict=True))))
    if name != "detect, classes with a number of rows":
        assert any(isinstance(size, torch.SymInt) for tensor in found for size in tensor.shape)
    for told, true in zip(found, tensors(call(*inputs)), strict=True):
        assert tuple(map(hint, told.shape)) == true.shape


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nms_padded", "nms_batch", "soft_nms_padded", "detect"])
def test_a_package_of_aotinductor_takes_any_size(name, tmp_path):
    call, arguments, _ = CALLS[name]
    path = torch._inductor.aoti_compile_and_package(
        exported(name, strict=False), package_path=str(tmp_path / "package.pt2")
    )
    loaded = torch._inductor.aoti_load_package(path)
    for size in SIZES:
        inputs = arguments(size)
        assert_same(loaded(*inputs), call(*inputs))
