"""diou_nms: the op and the emulated kernels against the reference, and torchvision's DIoU."""

from __future__ import annotations

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from simd_levels import at_every_level
from soft_nms_cases import odd_scene, scene

from ssd_cuda import ops, reference

RULES = [{}, {"inclusive": True, "iou_eps": 1e-5}, {"inclusive": True, "pixel_offset": 1.0}]
DEFAULT = {"inclusive": False, "iou_eps": 0.0, "pixel_offset": 0.0}


def same(boxes, scores, threshold, idxs=None, **rule):
    expected = reference.diou_nms.diou_nms(boxes, scores, threshold, idxs, **rule)
    assert torch.equal(ops.diou_nms(boxes, scores, threshold, idxs=idxs, **rule), expected)
    keep, count = ops.diou_nms_padded(boxes, scores, threshold, idxs=idxs, **rule)
    assert keep.shape == scores.shape and count == len(expected)
    assert torch.equal(keep[:count], expected) and bool((keep[count:] == -1).all())
    return len(expected)


def same_emulated(boxes, scores, threshold, idxs=None, *, rows=None, seeds=(0, 2), **rule):
    expected = reference.diou_nms.diou_nms(boxes, scores, threshold, idxs, **rule)
    rows = len(boxes) if rows is None else rows
    options = {**DEFAULT, **rule, "iou_threshold": threshold, "max_output": rows}
    keep, _, count = kernels("soft_nms").with_seeds(*seeds).diou_nms(boxes, scores, idxs, options)
    found = min(rows, len(expected))
    assert int(count) == found and torch.equal(keep[:found], expected[:rows])
    assert bool((keep[found:] == -1).all())


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_is_the_reference(device, threshold, rule):
    for n in (0, 1, 30, 170):
        boxes, scores, idxs = (t.to(device) for t in scene(n, 3))
        same(boxes, scores, threshold, **rule)
        same(boxes, scores, threshold, idxs, **rule)
        same(boxes.double(), scores.half(), threshold, idxs, **rule)
        same(boxes.bfloat16(), scores, threshold, **rule)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_emulated(rule):
    for n in (0, 1, 60):
        boxes, scores, idxs = scene(n, 3)
        same_emulated(boxes, scores, 0.2, **rule)
        same_emulated(boxes, scores, 0.0, idxs, rows=n // 3, seeds=(2,), **rule)
        same_emulated(boxes.double(), scores.double(), 0.5, idxs, rows=n + 5, seeds=(1,), **rule)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_odd_boxes_and_scores(device, rule):
    boxes, scores = odd_scene()
    for threshold in (0.0, 0.3):
        same(boxes.to(device), scores.to(device), threshold, **rule)
        same_emulated(boxes, scores, threshold, seeds=(2,), **rule)


def test_by_hand(device):
    """IoU 3/5, d = 1, c^2 = 5^2 + 1: DIoU 0.6 - 1/26."""
    boxes = torch.tensor([[0.0, 0, 4, 1], [1, 0, 5, 1], [7, 7, 7, 7], [7, 7, 7, 7]], device=device)
    scores = torch.tensor([0.8, 0.9, 0.5, 0.5], device=device)
    assert ops.diou_nms(boxes, scores, 0.56).tolist() == [1, 2, 3]  # one point: 0 / 0
    assert ops.diou_nms(boxes, scores, 0.57).tolist() == [1, 0, 2, 3]
    idxs = torch.tensor([0, 1, 0, 0], device=device)
    assert ops.diou_nms(boxes, scores, 0.1, idxs=idxs, max_output=3).tolist() == [1, 0, 2]


def test_the_criterion_is_torchvisions():
    box_ops = pytest.importorskip("torchvision.ops")
    boxes = scene(60)[0].double()
    ours = reference.diou_nms.box_diou(boxes, boxes)
    torch.testing.assert_close(ours, box_ops.distance_box_iou(boxes, boxes), rtol=1e-6, atol=1e-6)


def test_every_instruction_set_gives_the_same():
    boxes, scores, idxs = scene(400, 2, extent=120.0)
    for wide in (boxes, boxes.double()):
        results = at_every_level(lambda wide=wide: ops.diou_nms(wide, scores, 0.3, idxs=idxs))
        assert all(torch.equal(results[0], other) for other in results)


@settings(deadline=None, max_examples=fuzz_examples(30))
@given(
    n=st.integers(0, 40),
    seed=st.integers(0, 2**31),
    threshold=st.sampled_from([0.0, 0.1, 0.45, 0.9]),
    classes=st.integers(0, 3),
)
def test_fuzz(n, seed, threshold, classes):
    torch.manual_seed(seed)
    boxes, scores, idxs = scene(n, classes, extent=20.0)
    same(boxes, scores, threshold, idxs)
    same_emulated(boxes, scores, threshold, idxs, rows=seed % 50, seeds=(seed % 5,))


def test_opcheck(device):
    boxes, scores, idxs = (t.to(device) for t in scene(40, 3))
    options = {**DEFAULT, "iou_threshold": 0.3, "max_output": 9}
    torch.library.opcheck(torch.ops.ssd_cuda.diou_nms.default, (boxes, scores, idxs), options)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"diou_threshold": -0.1}, ValueError, r"diou_threshold must lie in \[0.0, 1.0\], got -0.1"),
        ({"diou_threshold": 0.5, "iou_eps": -1.0}, ValueError, r"iou_eps must lie in \[0.0, inf\], got -1"),
        ({"diou_threshold": 0.5, "max_output": "all"}, TypeError, "max_output must be an integer, got str"),
    ],
)
def test_errors_name_argument_expectation_finding(options, error, words):
    with pytest.raises(error, match=words):
        ops.diou_nms(torch.zeros(3, 4), torch.zeros(3), **options)
