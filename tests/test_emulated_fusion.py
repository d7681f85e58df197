"""The kernels of weighted boxes fusion on a CPU: the reference's clusters and the bits of the CPU kernel."""

from __future__ import annotations

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from fusion_cases import RULES, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fusion import assert_same

from ssd_cuda import is_available
from ssd_cuda.ops.fusion import FusedBoxes, op_options


def check(boxes, scores, labels, rule, real=None, max_output=None, seeds=(0, 3)):
    models, each = scores.shape[1:]
    names = ("weights", "iou_thr", "skip_box_thr", "conf_type", "allows_overflow", "clip_size")
    defaults = (None, 0.55, 0.0, "avg", False, (1.0, 1.0))
    values = {**dict(zip(names, defaults, strict=True)), **rule}
    options = op_options(*(values[name] for name in names[:1]), models, *(values[n] for n in names[1:]))
    options["max_output"] = models * each if max_output is None else max_output
    flat = [t.flatten(1, 2).contiguous() for t in (boxes, scores, labels)]
    own = None if real is None else real.flatten(1, 2)
    found = kernels("fusion").with_seeds(*seeds).fuse(*flat, own, options)
    if is_available():
        for ours, theirs in zip(
            found, torch.ops.ssd_cuda.weighted_boxes_fusion(*flat, own, **options), strict=True
        ):
            assert torch.equal(ours, theirs)
    if max_output is None:
        fused = FusedBoxes(*found[:4], found[4].unflatten(1, (models, each)))
        assert_same(fused, boxes, scores, labels, rule, real)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rules(rule):
    check(*scene(each=20), rule)
    check(*scene(each=12, dtype=torch.float64), rule, seeds=(0,))


@pytest.mark.parametrize(
    "images, models, each, labels", [(0, 2, 3, 1), (2, 2, 0, 1), (1, 1, 1, 1), (2, 3, 45, 40)]
)
def test_sizes(images, models, each, labels):
    check(*scene(images, models, each, labels), {}, seeds=(0,))


def test_more_clusters_than_a_block_has_threads():
    check(*scene(1, 2, 66, 1, things=132), {"iou_thr": 0.9}, seeds=(0,))


def test_more_weights_than_travel_with_one_launch():
    weights = torch.rand(70).tolist()
    check(*scene(1, 70, 2, 1), {"weights": weights, "conf_type": "box_and_model_avg"}, seeds=(0,))


def test_equal_scores():
    boxes, _, labels = scene(1, 2, 40, 2)
    check(boxes, torch.full((1, 2, 40), 0.5), labels, {})
    check(boxes.clamp(0.2, 0.3), torch.zeros(1, 2, 40), labels, {})


def test_equal_overlaps():
    """A box between two clusters, of which the later is on a lower lane too."""
    side = [[0.05 * k, 0.0, 0.05 * k + 0.4, 0.4] for k in (0, 8, 4)]
    for apart in (0, 127):  # more clusters before them
        far = [[0.9, 0.5 + k * 1e-3, 0.95, 0.5 + k * 1e-3 + 5e-4] for k in range(apart)]
        boxes = torch.tensor([*side[:1], *far, *side[1:]])[None, None]
        check(
            boxes, torch.full((1, 1, apart + 3), 0.5), torch.zeros(1, 1, apart + 3).long(), {"iou_thr": 0.2}
        )


def test_padding_and_few_rows():
    boxes, scores, labels = scene()
    real = torch.rand(scores.shape) < 0.6
    boxes[~real] = float("nan")
    check(boxes, scores, labels, {}, real)
    for rows in (0, 1, 5, 300):
        check(boxes, scores, labels, {}, real, max_output=rows)


@settings(max_examples=fuzz_examples(6), deadline=None)
@given(
    seed=st.integers(0, 2**31),
    models=st.integers(1, 4),
    each=st.integers(1, 30),
    labels=st.integers(1, 6),
    rule=st.sampled_from([rule for rule in RULES if "weights" not in rule]),
    ties=st.booleans(),
)
def test_fuzz(seed, models, each, labels, rule, ties):
    torch.manual_seed(seed)
    boxes, scores, kinds = scene(2, models, each, labels)
    check(boxes, (scores * 4).round() / 4 if ties else scores, kinds, rule, seeds=(seed % 5,))
