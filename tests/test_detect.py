"""detect: the fused post-process against the reference, torchvision and hand-worked cases."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import random_priors

from ssd_cuda import DetectConfig, ops, reference

PRESETS = [
    "paper",
    "torchvision",
    "amdegroot",
    "nvidia",
    "lufficc",
    "qfgaohao",
    "retinaface",
    "sgrvinod",
    "mmdet",
]
OPTIONS = [
    {},
    {"class_agnostic": True},
    {"class_agnostic": True, "top_k": None},
    {"class_agnostic": True, "detections_per_image": None, "top_k": 50},
    {"soft_nms": "gaussian"},
    {"soft_nms": "linear", "iou_threshold": 0.3, "top_k": 50},
    {"soft_nms": "gaussian", "class_agnostic": True, "top_k": 100, "iou_eps": 1e-5},
    {"scores": "sigmoid", "background": "none"},
    {"scores": "given", "score_threshold": -1.0},
    {"background": "last"},
    {"clip": "before", "clip_size": (0.8, 0.6)},
    {"clip": "after", "clip_size": (0.8, 0.6)},
    {"score_threshold": 0.0, "detections_per_image": 1},
    {"top_k": 1},
    {"top_k": None, "detections_per_image": None, "iou_threshold": 0.0},
    {"iou_threshold": 1.0, "inclusive": True},
    {"layout": "bcp", "scores": "sigmoid"},
    {"variances": (0.1, 0.15, 0.2, 0.25), "max_log_scale": 0.1, "symmetric_log_scale": True},
]


def head(batch, num_priors, classes, *, scale=3.0, background=4.0, dtype=torch.float32):
    """Random offsets, logits that look trained (a confident background) and priors."""
    loc = torch.randn(batch, num_priors, 4)
    conf = torch.randn(batch, num_priors, classes) * scale
    if classes:
        conf[..., 0] += background
    return loc.to(dtype), conf.to(dtype), random_priors(num_priors)


def check(loc, conf, priors, config):
    """The op against the reference: membership, order and labels exactly, numbers to rounding."""
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()
    found = ops.detect(loc, conf, priors, config)
    boxes, scores, labels, prior_indices, counts = reference.detect.detect(
        loc.cpu(), conf.cpu(), priors.cpu(), **dataclasses.asdict(config)
    )
    assert torch.equal(found.counts.cpu(), counts)
    assert torch.equal(found.labels.cpu(), labels)
    assert torch.equal(found.prior_indices.cpu(), prior_indices)
    torch.testing.assert_close(found.boxes.cpu(), boxes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.scores.cpu(), scores, rtol=2e-6, atol=1e-7)
    return found


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("num_priors, classes", [(50, 3), (700, 21), (33, 17), (120, 91)])
def test_presets(device, name, num_priors, classes):
    loc, conf, priors = (t.to(device) for t in head(2, num_priors, classes))
    found = check(loc, conf, priors, DetectConfig.preset(name))
    assert found.counts.min() > 0


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_options(device, options, dtype):
    config = dataclasses.replace(DetectConfig(), **options)
    for num_priors, classes, scale, background in [(60, 3, 3, 3), (300, 21, 3, 4), (250, 5, 0.5, 0)]:
        loc, conf, priors = head(2, num_priors, classes, scale=scale, background=background, dtype=dtype)
        check(loc.to(device), conf.to(device), priors.to(device), config)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 1), (1, 1, 2), (2, 3, 0)])
@pytest.mark.parametrize("options", [{}, {"detections_per_image": None}, {"class_agnostic": True}], ids=str)
def test_empty_inputs(device, shape, options):
    batch, _, classes = shape
    loc, conf, priors = (t.to(device) for t in head(*shape))
    found = check(loc, conf, priors, dataclasses.replace(DetectConfig(), **options))
    assert found.boxes.shape[0] == batch
    if classes < 2:
        assert found.counts.sum() == 0


def test_nothing_passes(device):
    loc, conf, priors = (t.to(device) for t in head(3, 40, 5))
    found = ops.detect(loc, conf, priors, DetectConfig(score_threshold=1.0))
    assert found.counts.tolist() == [0, 0, 0]
    assert (found.labels == -1).all() and (found.prior_indices == -1).all()
    assert (found.boxes == 0).all() and (found.scores == 0).all()
    assert [len(image["boxes"]) for image in found.to_list()] == [0, 0, 0]


@pytest.mark.parametrize("options", [{}, {"detections_per_image": None}, {"class_agnostic": True}], ids=str)
def test_equal_logits_are_taken_in_order(device, options):
    """At initialisation every class of every prior passes (1/81 > .01) and every score ties."""
    loc, priors = torch.zeros(1, 200, 4, device=device), random_priors(200).to(device)
    conf = torch.zeros(1, 200, 81, device=device)
    found = check(loc, conf, priors, dataclasses.replace(DetectConfig(), **options))
    assert found.labels[0, 0] == 1 and found.prior_indices[0, 0] == 0
    assert torch.all(found.labels[0, 1 : found.counts[0]] >= found.labels[0, : found.counts[0] - 1])


def test_a_window_that_does_not_fill_the_rows_is_continued(device):
    """Identical boxes: each class keeps one, so that every candidate must be looked at."""
    loc, conf, _ = head(2, 1500, 21, scale=0.3, background=0)
    priors = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(1500, 4).contiguous()
    for top_k in (400, None):
        config = DetectConfig(score_threshold=0.001, top_k=top_k)
        found = check(torch.zeros_like(loc).to(device), conf.to(device), priors.to(device), config)
        assert found.counts.tolist() == [20, 20]


@pytest.mark.parametrize("candidates", [0, 1, 1024, 1025, 2047, 2049])
@pytest.mark.parametrize("apart", [False, True])
def test_candidates_about_a_window(device, candidates, apart):
    """The CPU kernel keeps 1,024 candidates of an image at a time, the CUDA kernel 512 of a slice. Boxes that
    suppress all others of their class, or none."""
    num_priors, classes = 1000, 4
    conf = torch.zeros(1, num_priors, classes)
    scores = torch.zeros(3 * num_priors)
    scores[torch.randperm(3 * num_priors)[:candidates]] = 0.5 + 0.5 * torch.rand(candidates)
    conf[0, :, 1:] = scores.reshape(num_priors, 3)
    x = torch.arange(num_priors) * (2.0 if apart else 0.0)
    priors = torch.stack([x, 0 * x, 0 * x + 1, 0 * x + 1], 1)
    config = DetectConfig(scores="given", top_k=None, score_threshold=0.25, detections_per_image=200)
    check(torch.zeros(1, num_priors, 4, device=device), conf.to(device), priors.to(device), config)


@pytest.mark.parametrize("candidates", [2047, 2048, 2049, 2100])
def test_what_a_cut_left_out_is_looked_at(device, candidates):
    """The best 1,024 suppress each other; the CPU kernel cuts to these when it has twice as many."""
    num_priors, classes = 700, 4
    scores = torch.zeros(num_priors * (classes - 1))
    scores[:candidates] = torch.linspace(1.0, 0.3, candidates)
    conf = torch.cat([torch.zeros(num_priors, 1), scores.reshape(num_priors, -1)], 1)[None]
    x = torch.arange(num_priors) * 2.0
    x[:342] = 0
    priors = torch.stack([x, 0 * x, 0 * x + 1, 0 * x + 1], 1)
    config = DetectConfig(scores="given", top_k=None, score_threshold=0.25, detections_per_image=200)
    loc = torch.zeros(1, num_priors, 4, device=device)
    assert check(loc, conf.to(device), priors.to(device), config).counts.item() == 200


def test_what_a_cut_left_out_behind_a_sample_without_candidates(device):
    """As above with 2,048, none of them in a sixteenth row: the CPU kernel cuts, and has no bound."""
    rows = torch.arange(800)[torch.arange(800) % 16 > 0]
    scores = torch.zeros(len(rows) * 3)
    scores[:2048] = torch.linspace(1.0, 0.3, 2048)
    conf = torch.zeros(1, 800, 4)
    conf[0, rows, 1:] = scores.reshape(-1, 3)
    x = torch.arange(800) * 2.0
    x[rows[:342]] = -10
    priors = torch.stack([x, 0 * x, 0 * x + 1, 0 * x + 1], 1)
    config = DetectConfig(scores="given", top_k=None, score_threshold=0.25, detections_per_image=200)
    loc = torch.zeros(1, 800, 4, device=device)
    assert check(loc, conf.to(device), priors.to(device), config).counts.item() == 200


@pytest.mark.parametrize("classes", [3, 20])
@pytest.mark.parametrize("best", [0, 3])
def test_a_sample_that_is_wrong(device, best, classes):
    """The CPU kernel looks at every sixteenth row for a bound, in slices of 1,024 and then in all: these rows
    have the best scores of a slice here, and their boxes suppress each other."""
    num_priors = 5 * 1024
    better = 1024 * best + torch.arange(1024)
    conf = torch.zeros(1, num_priors, classes + 1)
    conf[0, :, 1:] = 0.3 + 0.1 * torch.rand(num_priors, classes)
    conf[0, better, 1:] = 0.5 + 0.2 * torch.rand(1024, classes)
    conf[0, better[::16], 1:] = 0.8 + 0.2 * torch.rand(64, classes)
    x = torch.arange(num_priors) * 2.0
    x[better[::16]] = -10
    priors = torch.stack([x, 0 * x, 0 * x + 1, 0 * x + 1], 1)
    loc = torch.zeros(1, num_priors, 4, device=device)
    config = DetectConfig(scores="given", top_k=None, score_threshold=0.25, detections_per_image=200)
    found = ops.detect(loc, conf.to(device), priors.to(device), config)
    one_a_class = conf[0, better[::16], 1:].amax(0)
    conf[0, better[::16]] = 0
    others = conf[0, :, 1:].flatten().topk(200 - classes).values
    expected = torch.cat([one_a_class.sort(descending=True).values, others])
    assert found.counts.item() == 200 and torch.equal(found.scores[0].cpu(), expected)


def test_a_fresh_head_of_several_images(device):
    """Every class of every prior passes: 28,000 candidates an image, which a sample thins out."""
    loc, conf, priors = (t.to(device) for t in head(3, 1400, 21, background=0))
    for options in ({}, {"class_agnostic": True}, {"top_k": 5}):
        check(loc, conf, priors, DetectConfig(score_threshold=0.001, **options))


def test_a_window_begins_behind_the_last_candidate_of_the_one_before(device):
    """The best 1,024 suppress each other, and top_k has room for one more: that is the 1,025th."""
    num_priors = 2200
    conf = torch.zeros(1, num_priors, 2)
    conf[0, :, 1] = torch.linspace(1.0, 0.3, num_priors)
    x = torch.arange(num_priors) * 2.0
    x[:1024] = 0
    priors = torch.stack([x, 0 * x, 0 * x + 1, 0 * x + 1], 1)
    loc = torch.zeros(1, num_priors, 4, device=device)
    config = DetectConfig(scores="given", top_k=1025, score_threshold=0.25, detections_per_image=200)
    found = check(loc, conf.to(device), priors.to(device), config)
    assert found.prior_indices[0, : found.counts[0]].tolist() == [0, 1024]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_scores_one_unit_above_the_threshold(device, dtype, scores):
    """A candidate's score is above the threshold, exactly: no screen before the test may drop it."""
    conf = 4 * torch.randn(150, 1, 3, dtype=dtype)
    loc, priors = torch.zeros(1, 1, 4, dtype=dtype, device=device), random_priors(1, dtype=dtype).to(device)
    config = DetectConfig(scores=scores, score_threshold=0.0)
    for row in conf.to(device):
        score = ops.detect(loc, row[None], priors, config).scores[0, 0]
        below = torch.nextafter(score, torch.zeros_like(score)).item()
        for threshold, count in ((below, 1), (score.item(), 0)):
            found = ops.detect(loc, row[None], priors, dataclasses.replace(config, score_threshold=threshold))
            assert min(found.counts.item(), 1) == count


@pytest.mark.parametrize("scores", ["sigmoid", "given"])
def test_ties(device, scores):
    """Scores from a handful of values: they tie within and across classes."""
    loc, conf, priors = head(2, 400, 7)
    conf = conf.clamp(-1, 1).round() / 2 + 0.5
    for options in ({}, {"top_k": 30}, {"class_agnostic": True}, {"detections_per_image": None, "top_k": 20}):
        config = DetectConfig(scores=scores, **options)
        check(loc.to(device), conf.to(device), priors.to(device), config)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid", "given"])
def test_non_finite_numbers(device, scores):
    loc, conf, priors = head(2, 300, 6)
    bad = torch.tensor([math.nan, math.inf, -math.inf, 200.0, -200.0])
    for k in range(60):
        conf[k % 2, (7 * k) % 300, k % 6] = bad[k % 5]
    conf[0, 3] = -math.inf
    conf[1, 4] = math.inf
    if scores == "given":
        conf = conf.nan_to_num(math.nan, 1.0, 0.0)
    config = DetectConfig(scores=scores)
    found = check(loc.to(device), conf.to(device), priors.to(device), config)
    assert not found.scores.isnan().any()


def test_non_finite_boxes_suppress_nothing(device):
    loc, conf, priors = head(1, 200, 4)
    loc[0, ::7, 0] = math.nan
    loc[0, 3::11, 2] = math.inf
    loc[0, 5::13, 1] = -math.inf
    found = ops.detect(loc.to(device), conf.to(device), priors.to(device))
    expected = reference.detect.detect(loc, conf, priors)
    assert torch.equal(found.prior_indices.cpu(), expected[3])
    torch.testing.assert_close(found.boxes.cpu(), expected[0], rtol=1e-5, atol=1e-5, equal_nan=True)


def test_strides_are_accepted(device):
    loc, conf, priors = (t.to(device) for t in head(2, 90, 7))
    joined = torch.cat([loc, conf], -1)  # one head for both: rows of 11 numbers
    expected = ops.detect(loc, conf, priors)
    views = [
        (joined[..., :4], joined[..., 4:]),
        (loc.transpose(1, 2).contiguous().transpose(1, 2), conf.transpose(1, 2).contiguous().transpose(1, 2)),
        (loc.transpose(0, 1).contiguous().transpose(0, 1), conf.transpose(0, 1).contiguous().transpose(0, 1)),
    ]
    for view in views:
        assert all(
            torch.equal(a, b) for a, b in zip(ops.detect(*view, priors)[:5], expected[:5], strict=True)
        )
    one = ops.detect(loc[:1].expand(2, -1, -1), conf[:1].expand(2, -1, -1), priors)
    assert torch.equal(one.boxes[0], expected.boxes[0]) and torch.equal(one.boxes[1], expected.boxes[0])


def test_priors_of_each_image(device):
    loc, conf, _ = (t.to(device) for t in head(3, 80, 5))
    priors = torch.stack([random_priors(80) for _ in range(3)]).to(device)
    together = ops.detect(loc, conf, priors)
    for b in range(3):
        alone = ops.detect(loc[b : b + 1], conf[b : b + 1], priors[b])
        for x, y in zip(together[:5], alone[:5], strict=True):
            assert torch.equal(x[b], y[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_extra_columns_travel_along(device, dtype):
    loc, conf, priors = (t.to(device) for t in head(2, 60, 4))
    extra = torch.arange(2 * 60 * 10, device=device).reshape(2, 60, 10).to(dtype)
    found = ops.detect(loc, conf, priors, extra=extra)
    for b, image in enumerate(found.to_list()):
        index = found.prior_indices[b, : found.counts[b]]
        assert torch.equal(image["extra"], extra[b][index])
        assert (found.extra[b, found.counts[b] :] == 0).all()
    nothing = ops.detect(loc[:, :0], conf[:, :0], priors[:0], extra=extra[:, :0])
    assert nothing.extra.shape == (2, 200, 10)


def test_by_hand(device):
    """Three priors, two classes: a duplicate goes, a weaker class of the same box stays."""
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]], device=device)
    given = torch.tensor([[[0.0, 0.9, 0.3], [0.0, 0.8, 0.0], [0.0, 0.01, 0.7]]], device=device)
    loc = torch.zeros(1, 3, 4, device=device)
    found = ops.detect(loc, given, priors, DetectConfig(scores="given", detections_per_image=5))
    assert found.counts.tolist() == [3]
    assert found.labels.tolist() == [[1, 2, 2, -1, -1]]
    assert found.prior_indices.tolist() == [[0, 2, 0, -1, -1]]
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.7, 0.3, 0, 0])
    assert found.boxes[0, 0].tolist() == pytest.approx([0.4, 0.4, 0.6, 0.6])
    agnostic = DetectConfig(scores="given", detections_per_image=5, class_agnostic=True)
    assert ops.detect(loc, given, priors, agnostic).prior_indices[0].tolist() == [0, 2, -1, -1, -1]


def test_iou_at_the_threshold(device):
    """IoU exactly 1/2: kept at >, suppressed at >=."""
    priors = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]], device=device)
    given = torch.tensor([[[0.0, 0.9], [0.0, 0.8]]], device=device)
    loc = torch.zeros(1, 2, 4, device=device)
    config = DetectConfig(scores="given", prior_format="xyxy", iou_threshold=0.5)
    assert ops.detect(loc, given, priors, config).counts.tolist() == [2]
    inclusive = dataclasses.replace(config, inclusive=True)
    assert ops.detect(loc, given, priors, inclusive).counts.tolist() == [1]
    with_eps = dataclasses.replace(inclusive, iou_eps=1e-5)
    assert ops.detect(loc, given, priors, with_eps).counts.tolist() == [2]
    pixels = dataclasses.replace(config, pixel_offset=1.0)  # (2 * 2) / (3 * 2) = 2/3
    assert ops.detect(loc, given, priors, pixels).counts.tolist() == [1]
