"""nms and batched_nms take what torchvision's take; the cases of torchvision's own tests, through ours."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from ssd_cuda import ops


def reference(boxes, scores, threshold):
    """The loop of the definition: keep the best that is left, drop what overlaps it too much."""
    order = scores.sort(descending=True, stable=True).indices.tolist()
    keep = []
    while order:
        best, *rest = order
        keep.append(best)
        overlap = ops.box_iou(boxes[best : best + 1], boxes[rest])[0] if rest else torch.empty(0)
        order = [i for i, value in zip(rest, overlap.tolist(), strict=True) if value <= threshold]
    return torch.tensor(keep, dtype=torch.int64)


def crowded(n, threshold):
    """Boxes of which the first and the last have an overlap next to the threshold."""
    boxes = torch.rand(n, 4) * 100
    boxes[:, 2:] += boxes[:, :2]
    boxes[-1] = boxes[0]
    x1, _, x2, _ = boxes[-1].tolist()
    boxes[-1, 2] += (x2 - x1) * (1 - threshold) / (threshold + 1e-5)
    return boxes, torch.rand(n)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_the_definition(threshold, seed):
    torch.manual_seed(seed)
    boxes, scores = crowded(600, threshold)
    assert torch.equal(ops.nms(boxes, scores, threshold), reference(boxes, scores, threshold))


@pytest.mark.parametrize(
    "boxes, scores",
    [((4,), (3,)), ((3, 5), (3,)), ((3, 4), (3, 2)), ((3, 4), (4,))],
    ids=str,
)
def test_shapes_that_torchvision_refuses_too(boxes, scores):
    box_ops = pytest.importorskip("torchvision.ops")
    for nms, error in ((ops.nms, ValueError), (box_ops.nms, RuntimeError)):
        with pytest.raises(error):
            nms(torch.rand(boxes), torch.rand(scores), 0.5)


def test_quantized_boxes_get_one_sentence():
    boxes = torch.quantize_per_tensor(torch.rand(3, 4), 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match="boxes must be float32, float64, float16, bfloat16, got quint8"):
        ops.nms(boxes, torch.rand(3), 0.5)


def test_half_keeps_what_float_keeps(device):
    boxes = torch.tensor(
        [
            [285.3538, 185.5758, 1193.5110, 851.4551],
            [285.1472, 188.7374, 1192.4984, 851.0669],
            [279.2440, 197.9812, 1189.4746, 849.2019],
        ],
        device=device,
    )
    scores = torch.tensor([0.6370, 0.7569, 0.3966], device=device)
    keep = ops.nms(boxes, scores, 0.2)
    assert keep.tolist() == [1] and torch.equal(ops.nms(boxes.half(), scores.half(), 0.2), keep)


def test_classes_apart(device):
    boxes = torch.cat([torch.rand(1000, 2), torch.rand(1000, 2) + 10], 1).to(device)
    scores, idxs = torch.rand(1000, device=device), torch.randint(0, 4, (1000,), device=device)
    parts = [torch.where(idxs == c)[0] for c in range(4)]
    kept = torch.cat([part[ops.nms(boxes[part], scores[part], 0.9)] for part in parts])
    expected = kept[scores[kept].sort(descending=True).indices]
    assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.9), expected)


def test_nothing_needs_no_scores(device):
    for empty in (torch.empty(0, dtype=torch.int64), torch.empty(0, 4)):
        keep = ops.batched_nms(empty.to(device), None, None, None)
        assert keep.dtype == torch.int64 and keep.shape == (0,) and keep.device.type == device.type
    with pytest.raises(TypeError, match="idxs must be a tensor, got NoneType"):
        ops.batched_nms(torch.rand(1, 4), None, None, None)


FORMS = [np.float32, np.float64, np.float16, torch.tensor, Fraction]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_thresholds_of_other_types(form):
    boxes, scores = crowded(300, 0.5)
    threshold = form(0.375)  # the same number in every type
    expected = ops.nms(boxes, scores, 0.375)
    idxs = torch.zeros(300, dtype=torch.int64)
    assert torch.equal(ops.nms(boxes, scores, threshold), expected)
    assert torch.equal(ops.batched_nms(boxes, scores, idxs, threshold), expected)
    assert torch.equal(ops.nms_padded(boxes, scores, threshold)[0][: len(expected)], expected)


@pytest.mark.parametrize(
    "bad", [True, np.bool_(True), torch.tensor(True), torch.tensor([0.5]), np.ones(1), "0.5", None]
)
def test_thresholds_that_are_no_number(bad):
    with pytest.raises(TypeError, match="iou_threshold must be a number, got "):
        ops.nms(torch.rand(3, 4), torch.rand(3), bad)
    with pytest.raises(ValueError, match=r"iou_threshold must lie in \[0.0, 1.0\], got 1.5"):
        ops.nms(torch.rand(3, 4), torch.rand(3), np.float32(1.5))


def test_bools_are_two_classes(device):
    boxes, scores = (t.to(device) for t in crowded(300, 0.5))
    idxs = torch.rand(300, device=device) > 0.4
    expected = ops.batched_nms(boxes, scores, idxs.long(), 0.3)
    assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.3), expected)
    assert torch.equal(ops.nms_padded(boxes, scores, 0.3, idxs=idxs)[0][: len(expected)], expected)


@pytest.mark.parametrize("op", [ops.nms, ops.nms_padded, ops.diou_nms, ops.soft_nms])
def test_a_flag_that_is_none_is_named(op):
    threshold = () if op is ops.soft_nms else (0.5,)
    with pytest.raises(TypeError, match="inclusive must be True or False, got 'no'"):
        op(torch.rand(3, 4), torch.rand(3), *threshold, inclusive="no")
