"""weighted_boxes_fusion: the reference, the package ensemble-boxes, cases by hand, padding, errors."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from fusion_cases import RULES, scene
from oracles.packages import ensemble_boxes
from simd_levels import at_every_level

from ssd_cuda import ops, reference
from ssd_cuda.ops.fusion import op_options


def expected(boxes, scores, labels, rule, real=None):
    """The reference image by image, padded."""
    models = scores.shape[1]
    options = {"weights": (1.0,) * models, **rule}
    wide = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    boxes, scores = boxes.to(wide), scores.to(wide)
    for b in range(len(boxes)):
        yield reference.fusion.weighted_boxes_fusion(
            boxes[b], scores[b], labels[b], **options, real=None if real is None else real[b]
        )


def assert_same(found, boxes, scores, labels, rule, real=None, rtol=1e-5):
    for b, (want_boxes, want_scores, want_labels, rows) in enumerate(
        expected(boxes, scores, labels, rule, real)
    ):
        count = int(found.counts[b])
        assert count == len(want_scores)
        assert torch.equal(found.clusters[b].cpu(), rows)
        assert torch.equal(found.labels[b, :count].cpu(), want_labels)
        torch.testing.assert_close(found.boxes[b, :count].cpu(), want_boxes, rtol=rtol, atol=1e-6)
        torch.testing.assert_close(found.scores[b, :count].cpu(), want_scores, rtol=rtol, atol=0)
        assert (found.labels[b, count:] == -1).all() and (found.boxes[b, count:] == 0).all()


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_the_references_fusion(device, rule, dtype):
    case = scene(dtype=dtype)
    found = ops.weighted_boxes_fusion(*(t.to(device) for t in case), **rule)
    assert found.counts.min() > 2
    assert_same(found, *case, rule)


@pytest.mark.parametrize("conf_type", ["avg", "max", "box_and_model_avg", "absent_model_aware_avg"])
def test_scores_without_a_mean(device, conf_type):
    """Infinite, NaN once a weight of 0 is on them, below 0, and sums of 0: in the order of NMS, NaN first."""
    boxes, scores, labels = scene(models=2, each=40)
    for place, score in enumerate([math.inf, 0.0, -0.5, -math.inf, math.nan]):
        scores[..., place::9] = score
    rule = {"weights": (0.5, 0.0), "skip_box_thr": -math.inf, "iou_thr": 0.2, "conf_type": conf_type}
    found = ops.weighted_boxes_fusion(*(t.to(device) for t in (boxes, scores, labels)), **rule)
    assert found.scores.isnan().any()
    wanted = [torch.nan_to_num(t, 77.0, 88.0, 99.0) for t in (found.boxes, found.scores)]
    for b, (want_boxes, want_scores, want_labels, rows) in enumerate(expected(boxes, scores, labels, rule)):
        count = int(found.counts[b])
        assert torch.equal(found.clusters[b].cpu(), rows)
        assert torch.equal(found.labels[b, :count].cpu(), want_labels)
        for ours, theirs in zip(wanted, (want_boxes, want_scores), strict=True):
            theirs = torch.nan_to_num(theirs, 77.0, 88.0, 99.0)
            torch.testing.assert_close(ours[b, :count].cpu(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in RULES if "clip_size" not in rule], ids=str)
def test_is_the_packages_fusion(rule):
    boxes, scores, labels = scene(images=4, each=60, dtype=torch.float64)
    assert_is_theirs(boxes, scores, labels, rule)


def test_is_the_packages_fusion_of_five_models_of_300_boxes():
    assert_is_theirs(*scene(images=1, models=5, each=300, labels=80, things=150, dtype=torch.float64), {})


def assert_is_theirs(boxes, scores, labels, rule):
    module = ensemble_boxes("ensemble_boxes_wbf")
    if module is None:
        pytest.skip("the package ensemble-boxes is not installed")
    wbf = module.weighted_boxes_fusion
    boxes = boxes.clamp(0.001, 0.999)
    if 0.0 in rule.get("weights", ()):  # there a cluster of such boxes is nan
        rule = {**rule, "weights": (1.0, 0.2, 3.0)}
    found = ops.weighted_boxes_fusion(boxes, scores, labels, **rule)
    for b in range(len(boxes)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it exchanges and leaves out
            theirs = wbf(*(t[b].numpy() for t in (boxes, scores, labels)), **rule)
        count = int(found.counts[b])
        ours = (found.boxes[b, :count], found.scores[b, :count], found.labels[b, :count])
        for mine, other in zip(ours, theirs, strict=True):  # theirs rounds fused boxes to float32
            torch.testing.assert_close(mine.double(), torch.from_numpy(other).double(), rtol=1e-6, atol=1e-6)


def test_by_hand(device):
    """Two models, weights 3 and 1: .8 * 3 = 2.4 and .6 of a box that is shifted by .1; another label."""
    boxes = torch.tensor(
        [[[[0.0, 0, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]], [[0.1, 0, 0.6, 0.5], [0.6, 0.6, 0.9, 0.9]]]]
    )
    scores, labels = torch.tensor([[[0.8, 0.5], [0.6, 0.5]]]), torch.tensor([[[1, 1], [1, 2]]])
    found = ops.weighted_boxes_fusion(
        boxes.to(device), scores.to(device), labels.to(device), weights=[3, 1], max_output=3
    )
    assert found.counts.tolist() == [3] and found.labels.tolist() == [[1, 1, 2]]
    assert found.clusters.tolist() == [[[0, 1], [0, 2]]]
    assert found.scores[0].tolist() == pytest.approx([3.0 / 4, 1.5 / 4, 0.5 / 4])
    assert found.boxes[0, 0].tolist() == pytest.approx([0.02, 0.0, 0.52, 0.5])
    first = ops.weighted_boxes_fusion(
        boxes.to(device), scores.to(device), labels.to(device), weights=[3, 1], max_output=1
    )
    assert first.clusters.tolist() == [[[0, -1], [0, -1]]] and first.counts.tolist() == [1]


def test_equal_scores_go_by_index_and_equal_overlaps_to_the_earlier(device):
    left, right, middle = [0.0, 0, 0.4, 0.4], [0.4, 0, 0.8, 0.4], [0.2, 0, 0.6, 0.4]
    boxes = torch.tensor([[[left, right, middle]]], device=device)
    found = ops.weighted_boxes_fusion(boxes, torch.full((1, 1, 3), 0.5, device=device), iou_thr=0.2)
    assert found.clusters.tolist() == [[[0, 1, 0]]]
    many = torch.tensor(left, device=device).expand(1, 2, 40, 4)
    apart = ops.weighted_boxes_fusion(many, torch.full((1, 2, 40), 0.5, device=device), iou_thr=1.0)
    assert apart.clusters.flatten().tolist() == list(range(80))


def test_padding_does_not_matter(device):
    boxes, scores, labels = scene(images=3)
    counts = torch.randint(0, 31, (3, 3))
    real = torch.arange(30) < counts[..., None]
    bad = boxes.masked_fill(~real[..., None], math.nan), scores.masked_fill(~real, 9.0)
    moved = [t.to(device) for t in (*bad, labels)]
    for options in ({"counts": counts.to(device)}, {"mask": real.to(device)}):
        found = ops.weighted_boxes_fusion(*moved, **options)
        assert_same(found, boxes, scores, labels, {}, real)
    alone = ops.weighted_boxes_fusion(*(t[1:2].to(device) for t in (boxes, scores, labels)))
    whole = ops.weighted_boxes_fusion(*(t.to(device) for t in (boxes, scores, labels)))
    assert torch.equal(alone.boxes[0], whole.boxes[1]) and torch.equal(alone.clusters[0], whole.clusters[1])


def test_bad_boxes_take_no_part(device):
    """Not finite, without an area, outside; corners the wrong way round are exchanged."""
    inf = math.inf
    rows = [
        [0.5, 0.5, 0.1, 0.1], [0.1, 0.1, 0.1, 0.5], [math.nan, 0, 1, 1], [1.5, 0, 2, 1], [0.1, 0.1, 0.5, inf],
        [0.1, 0.1, 0.5, 0.5],
    ]  # fmt: skip
    boxes = torch.tensor(rows, device=device)[None, None]
    scores = torch.tensor([[[0.9, 0.8, 0.7, 0.6, math.nan, 0.4]]], device=device)
    found = ops.weighted_boxes_fusion(boxes, scores)
    assert found.clusters.tolist() == [[[0, -1, -1, -1, -1, 0]]]
    assert found.boxes[0, 0].tolist() == pytest.approx([0.1, 0.1, 0.5, 0.5])
    whole = ops.weighted_boxes_fusion(boxes, scores, clip_size=None)
    assert whole.clusters.tolist() == [[[0, -1, -1, 1, -1, 0]]]


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 2, 0), (1, 1, 1)])
def test_sizes(device, shape):
    boxes = torch.tensor([0.1, 0.1, 0.5, 0.5], device=device).expand(*shape, 4)
    found = ops.weighted_boxes_fusion(boxes, torch.ones(shape, device=device), max_output=4)
    assert found.boxes.shape == (shape[0], 4, 4) and found.clusters.shape == shape
    assert found.counts.tolist() == [int(shape[2] > 0)] * shape[0]


def test_the_same_bits_at_every_instruction_set():
    case = scene(images=3, each=80, labels=2)
    at_every_level(lambda: list(ops.weighted_boxes_fusion(*case)))


def test_opcheck(device):
    boxes, scores, labels = (t.to(device).flatten(1, 2) for t in scene())
    options = op_options(None, 3, 0.55, 0.0, "avg", False, None)
    torch.library.opcheck(
        torch.ops.ssd_cuda.weighted_boxes_fusion.default,
        (boxes, scores, labels, None),
        {**options, "max_output": 20},
    )


ONE = torch.tensor([0.0, 0, 1, 1]).expand(1, 2, 3, 4), torch.ones(1, 2, 3)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"weights": [1.0]}, ValueError, "weights must hold a number for each of the 2 models, got 1"),
        ({"weights": [1.0, -1.0]}, ValueError, r"weights\[1\] must lie in \[0.0, inf\], got -1.0"),
        ({"weights": [0, 0]}, ValueError, "weights must not all be 0"),
        ({"iou_thr": 1.5}, ValueError, r"iou_thr must lie in \[0.0, 1.0\], got 1.5"),
        ({"conf_type": "mean"}, ValueError, "conf_type must be one of 'avg', 'max', .*, got 'mean'"),
        ({"clip_size": (1.0,)}, ValueError, "clip_size must be two positive numbers"),
        ({"counts": torch.ones(1, 2).long(), "mask": torch.ones(1, 2, 3).bool()}, ValueError, "got both"),
        ({"mask": torch.ones(1, 2, 3)}, TypeError, "mask must be bool"),
        ({"labels": torch.zeros(1, 2, 3)}, TypeError, "labels must be int64"),
        ({"max_output": -1}, ValueError, r"max_output must lie in \[0, inf\], got -1"),
    ],
)
def test_errors(options, error, words):
    with pytest.raises(error, match=words):
        ops.weighted_boxes_fusion(*ONE, **options)
