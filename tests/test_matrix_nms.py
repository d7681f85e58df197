"""matrix_nms: op and emulated kernels against the reference and the authors' code."""

from __future__ import annotations

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from simd_levels import at_every_level
from soft_nms_cases import odd_scene, scene

from ssd_cuda import ops, reference

RULES = [
    {},
    {"sigma": 0.5, "score_threshold": 0.3, "iou_eps": 1e-5},
    {"method": "linear"},
    {"method": "linear", "score_threshold": 0.0, "pixel_offset": 1.0},
]
DEFAULT = {"method": "gaussian", "sigma": 2.0, "score_threshold": 0.05, "iou_eps": 0.0, "pixel_offset": 0.0}


def close(ours, theirs):
    rtol = 1e-12 if ours.dtype == torch.float64 else 0  # float64 takes torch's exp in the reference
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0, equal_nan=True)


def same(boxes, scores, idxs=None, **rule):
    index, values = reference.matrix_nms.matrix_nms(boxes, scores, idxs, **rule)
    keep, kept_scores = ops.matrix_nms(boxes, scores, idxs=idxs, **rule)
    assert torch.equal(keep, index)
    close(kept_scores, values)
    rows, row_scores, count = ops.matrix_nms_padded(boxes, scores, idxs=idxs, **rule)
    assert count == len(index) and torch.equal(rows[:count], index) and bool((rows[count:] == -1).all())
    assert not row_scores[count:].any()
    return len(index)


def same_emulated(boxes, scores, idxs=None, *, rows=None, seeds=(0, 2), **rule):
    rule = {**DEFAULT, **rule}
    index, values = reference.matrix_nms.matrix_nms(boxes, scores, idxs, **rule)
    rows = len(boxes) if rows is None else rows
    options = {**rule, "linear": rule["method"] == "linear", "max_output": rows}
    del options["method"]
    keep, kept, count = kernels("soft_nms").with_seeds(*seeds).matrix_nms(boxes, scores, idxs, options)
    found = min(rows, len(index))
    assert int(count) == found and torch.equal(keep[:found], index[:rows])
    close(kept[:found], values[:rows])
    assert bool((keep[found:] == -1).all()) and not kept[found:].any()


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 23, 160])
def test_is_the_reference(device, n, rule):
    boxes, scores, idxs = (t.to(device) for t in scene(n, 4))
    same(boxes, scores, **rule)
    same(boxes, scores, idxs, **rule)
    same(boxes.half(), scores.half(), idxs, **rule)
    same(boxes.double(), scores, idxs, **rule)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 40, 129])
def test_emulated(n, rule):
    boxes, scores, idxs = scene(n, 3)
    same_emulated(boxes, scores, **rule)
    same_emulated(boxes, scores, idxs, rows=n // 2, seeds=(2,), **rule)
    same_emulated(boxes.double(), scores.double(), idxs, rows=n + 300, seeds=(1,), **rule)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_odd_boxes_and_scores(device, rule):
    boxes, scores = odd_scene()
    same(boxes.to(device), scores.to(device), **rule)
    same_emulated(boxes, scores, seeds=(2,), **rule)


def test_by_hand(device):
    """IoU of 0 with 1: 1/2; of 1 with 2: 1/2; of 0 with 2: 0. Box 1 was lowered, so it lowers box 2 less."""
    boxes = torch.tensor([[0.0, 0, 3, 1], [1, 0, 4, 1], [2, 0, 5, 1]], device=device)
    scores = torch.tensor([0.8, 0.6, 0.4], device=device)
    _, values = ops.matrix_nms(boxes, scores, method="linear")
    # c(1) = 1/2, IoU(0, 2) = 1/5: min((1 - 1/5) / 1, (1 - 1/2) / (1 - 1/2)) = 4/5
    assert values.tolist() == pytest.approx([0.8, 0.4 * 4 / 5, 0.6 / 2])
    keep, _ = ops.matrix_nms(boxes, scores, method="linear", max_output=1)
    assert keep.tolist() == [0]
    idxs = torch.tensor([0, 1, 0], device=device)
    _, values = ops.matrix_nms(boxes, scores, method="linear", idxs=idxs)
    assert values.tolist() == pytest.approx([0.8, 0.6, 0.32])


def solov2(iou, scores, labels, method, sigma):
    """The rows of the authors' matrix_nms, on IoUs of boxes: scores come sorted."""
    n = len(scores)
    iou = iou.triu(diagonal=1)
    label = labels.expand(n, n)
    decay_iou = iou * (label == label.T).float().triu(diagonal=1)
    compensate = decay_iou.max(0).values.expand(n, n).T
    if method == "gaussian":
        decay = (torch.exp(-sigma * decay_iou**2) / torch.exp(-sigma * compensate**2)).min(0).values
    else:
        decay = ((1 - decay_iou) / (1 - compensate)).min(0).values
    return scores * decay


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_is_that_of_the_authors(method):
    boxes, _, labels = scene(120, 3)
    boxes = boxes + torch.rand(120, 4)  # none covers another exactly
    scores = torch.linspace(0.99, 0.1, 120)
    theirs = solov2(reference.boxes.box_iou(boxes, boxes), scores, labels, method, 2.0)
    keep, values = ops.matrix_nms(boxes, scores, idxs=labels, method=method, score_threshold=0.0)
    torch.testing.assert_close(values, theirs[keep])


def test_every_instruction_set_gives_the_same():
    boxes, scores, idxs = scene(300, 2)
    for rule in RULES:
        results = at_every_level(
            lambda rule=rule: torch.cat(ops.matrix_nms(boxes, scores, idxs=idxs, **rule))
        )
        assert all(torch.equal(results[0], other) for other in results)


@settings(deadline=None, max_examples=fuzz_examples(30))
@given(
    n=st.integers(0, 40),
    seed=st.integers(0, 2**31),
    rule=st.sampled_from(RULES),
    classes=st.integers(0, 3),
)
def test_fuzz(n, seed, rule, classes):
    torch.manual_seed(seed)
    boxes, scores, idxs = scene(n, classes, extent=30.0)
    same(boxes, scores, idxs, **rule)
    same_emulated(boxes, scores, idxs, rows=seed % 50, seeds=(seed % 5,), **rule)


def test_opcheck(device):
    boxes, scores, idxs = (t.to(device) for t in scene(40, 3))
    options = {**DEFAULT, "linear": True, "max_output": 9}
    del options["method"]
    torch.library.opcheck(torch.ops.ssd_cuda.matrix_nms.default, (boxes, scores, idxs), options)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"method": "hard"}, ValueError, "method must be one of 'gaussian', 'linear', got 'hard'"),
        ({"sigma": 0.0}, ValueError, r"sigma must lie in \[1e-12, inf\], got 0.0"),
        ({"score_threshold": -1.0}, ValueError, r"score_threshold must lie in \[0.0, inf\], got -1.0"),
        ({"idxs": torch.zeros(2)}, ValueError, r"idxs must have shape \[3\], got \[2\]"),
    ],
)
def test_errors_name_argument_expectation_finding(options, error, words):
    with pytest.raises(error, match=words):
        ops.matrix_nms(torch.zeros(3, 4), torch.zeros(3), **options)
