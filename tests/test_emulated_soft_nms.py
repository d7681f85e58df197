"""The soft-NMS kernels' device code on the CPU against the reference: classes, rules, sizes, schedules."""

from __future__ import annotations

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from soft_nms_cases import RULES, odd_scene, scene

from ssd_cuda import reference

DEFAULT = {
    "method": "gaussian",
    "sigma": 0.5,
    "iou_threshold": 0.3,
    "inclusive": False,
    "iou_eps": 0.0,
    "pixel_offset": 0.0,
    "score_threshold": 0.001,
}


@pytest.fixture(scope="module")
def emulated():
    return kernels("soft_nms").with_seeds(0, 2)


def same(emulated, boxes, scores, idxs=None, rows=None, **rule):
    """The kernels give the reference's choices and scores; returns how many."""
    rule = {**DEFAULT, **rule}
    if idxs is None:
        index, values = reference.soft_nms.soft_nms(boxes, scores, **rule)
    else:
        index, values = reference.soft_nms.batched_soft_nms(boxes, scores, idxs, **rule)
    rows = len(boxes) if rows is None else rows
    options = {**rule, "soft_sigma": rule["sigma"], "soft_linear": rule["method"] == "linear"}
    del options["sigma"], options["method"]
    keep, kept, count = emulated.soft_nms(boxes, scores, idxs, {**options, "max_output": rows})
    found = min(rows, len(index))
    assert int(count) == found and torch.equal(keep[:found], index[:rows])
    close = {"rtol": 1e-12, "atol": 0} if kept.dtype == torch.float64 else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(kept[:found], values[:rows], equal_nan=True, **close)
    assert bool((keep[found:] == -1).all()) and not kept[found:].any()
    return found


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rules(emulated, rule):
    boxes, scores, idxs = scene(45, 3)
    same(emulated, boxes, scores, **rule)
    same(emulated, boxes, scores, idxs, **rule)


@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 257])
def test_sizes(emulated, n):
    """Around the threads of a block, with one class; rows fewer and more than the choices."""
    boxes, scores, _ = scene(n, extent=30.0)
    for rows in (0, 3, n + 300):
        same(emulated.with_seeds(2), boxes, scores, rows=rows, score_threshold=0.4)


def test_many_boxes_have_a_wide_block(emulated):
    boxes, scores, _ = scene(1100, extent=30.0)
    same(emulated.with_seeds(2), boxes, scores, sigma=0.1, score_threshold=0.5, rows=12)


def test_classes_of_every_size(emulated):
    """One box, a few, more than a block holds; classes begin anywhere."""
    boxes, scores, _ = scene(300, extent=40.0)
    idxs = torch.where(torch.rand(300) < 0.8, 7, torch.randint(-30, 30, (300,)))
    same(emulated.with_seeds(2), boxes, scores, idxs, score_threshold=0.3)


def test_float64(emulated):
    boxes, scores, idxs = scene(40, 2)
    for rule in (RULES[0], RULES[-1]):
        same(emulated, boxes.double(), scores.double(), idxs, **rule)


def test_odd_boxes_and_scores(emulated):
    boxes, scores = odd_scene()
    same(emulated, boxes, scores, score_threshold=0.2)
    same(emulated.with_seeds(2), boxes, scores, torch.arange(len(scores)) % 3, method="linear")


def test_equal_scores_go_by_index(emulated):
    boxes, _, idxs = scene(150, 4, extent=3000.0)
    same(emulated.with_seeds(2), boxes, torch.full((150,), 0.5), idxs, rows=40)


@settings(deadline=None, max_examples=fuzz_examples(12))
@given(
    n=st.integers(0, 60),
    seed=st.integers(0, 2**31),
    rule=st.sampled_from(RULES),
    classes=st.integers(0, 4),
)
def test_fuzz(n, seed, rule, classes):
    torch.manual_seed(seed)
    boxes, scores, idxs = scene(n, classes, extent=25.0)
    emulated = kernels("soft_nms").with_seeds(0, seed % 5 + 1)
    same(emulated, boxes, scores, idxs, rows=seed % 70, **rule)
