"""GroundTruth among PyTorch's tools: data loaders, comparisons, dtypes, pytrees, torchvision's boxes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from conftest import random_boxes
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from ssd_cuda import ops
from ssd_cuda.ops import GroundTruth

NAMES = ("boxes", "labels", "offsets")


def truth(counts=(2, 0, 1)):
    return GroundTruth.from_list([random_boxes(n) for n in counts], [torch.full((n,), 3) for n in counts])


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in NAMES)


def test_what_a_data_loader_does_to_pin_it(monkeypatch):
    """A stand-in for page-locked memory, which needs a card: each of the three tensors is pinned, once."""
    pinned = []

    def pin(tensor, *args):
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    gt = truth()
    _, copied = pin_memory((torch.rand(3, 1), gt))
    assert isinstance(copied, GroundTruth) and same(copied, gt) and len(pinned) == 4
    assert {id(tensor) for tensor in pinned[1:]} == {id(getattr(gt, name)) for name in NAMES}


@pytest.mark.gpu
def test_a_data_loader_pins_it():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    loader = DataLoader([truth(), truth()], batch_size=None, pin_memory=True)
    for gt in loader:
        assert gt.boxes.is_pinned() and gt.labels.is_pinned() and gt.offsets.is_pinned()


def test_equality_is_identity():
    gt = truth()
    assert gt == gt and gt != copy.deepcopy(gt) and gt != 3
    assert gt in [truth(), gt] and len({gt, gt, truth()}) == 2


def test_copies_and_pickles():
    gt = truth()
    assert same(copy.deepcopy(gt), gt) and same(pickle.loads(pickle.dumps(gt)), gt)


@pytest.mark.parametrize("call", [lambda t: t.to(torch.float64), lambda t: t.to(dtype=torch.float64)])
def test_a_dtype_is_that_of_the_boxes(call):
    gt = truth()
    moved = call(gt)
    assert moved.boxes.dtype == torch.float64 and torch.equal(moved.boxes.float(), gt.boxes)
    assert moved.labels.dtype == torch.int64 and moved.offsets.dtype == torch.int32


def test_a_device_and_a_dtype(device):
    moved = truth().to(device, non_blocking=True, dtype=torch.float16)
    assert moved.device.type == device.type and moved.boxes.dtype == torch.float16
    assert truth().to(device=device).device.type == device.type
    with pytest.raises(TypeError, match=r"dtype must be floating point, .* got torch.int32"):
        truth().to(torch.int32)


def test_it_is_a_pytree():
    gt = truth()
    leaves, spec = pytree.tree_flatten({"gt": gt})
    assert len(leaves) == 3 and same(pytree.tree_unflatten(leaves, spec)["gt"], gt)
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec
    names = pytree.tree_map(lambda leaf: str(leaf.dtype), gt)  # leaves that its constructor would refuse
    assert names.labels == "torch.int64"
    paths, _ = pytree.tree_flatten_with_path(gt)
    assert [path[0].name for path, _ in paths] == list(NAMES)


@pytest.mark.parametrize("layout", ["XYXY", "XYWH", "CXCYWH"])
def test_box_tensors_that_say_how_they_are_written(layout):
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    from torchvision.transforms.v2.functional import convert_bounding_box_format

    corners = random_boxes(3, size=50)
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(60, 60))
    boxes = convert_bounding_box_format(boxes, new_format=layout)
    label = torch.ones(3, dtype=torch.int64)
    for gt in (
        GroundTruth.from_list([boxes], [label]),
        GroundTruth.from_dicts([{"boxes": boxes, "labels": label}]),
    ):
        assert type(gt.boxes) is torch.Tensor
        torch.testing.assert_close(gt.boxes, corners)
    calls = (
        lambda: GroundTruth(boxes, label, torch.tensor([0, 3]).int()),
        lambda: GroundTruth.from_padded(boxes[None] if layout == "XYXY" else boxes, label, label),
        lambda: ops.nms(boxes, torch.rand(3), 0.5),
        lambda: ops.box_iou(corners, boxes),
    )
    for index, call in enumerate(calls):
        if layout != "XYXY":
            with pytest.raises(ValueError, match=f"must hold x1, y1, x2, y2 .* of the format {layout}"):
                call()
        elif index != 1:
            call()


def test_rotated_box_tensors_are_refused():
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    boxes = tv_tensors.BoundingBoxes(torch.rand(2, 5), format="XYWHR", canvas_size=(60, 60))
    with pytest.raises(ValueError, match=r"boxes\[0\] must hold x1, y1, x2, y2 .* format XYWHR"):
        GroundTruth.from_list([boxes], [torch.ones(2, dtype=torch.int64)])
