"""Thresholds by class in detect: the reference's result, each class as if it were alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import random_priors

from ssd_cuda import DetectConfig, nn, ops, reference
from ssd_cuda.ops.detect import op_options

SCORES = (0.9, 0.05, 0.5, 0.0, 0.2, 0.1)
IOUS = (0.0, 0.1, 0.3, 0.45, 0.7, 1.0)
RULES = [
    {"score_threshold": SCORES},
    {"iou_threshold": IOUS},
    {"score_threshold": SCORES, "iou_threshold": IOUS},
    {"score_threshold": SCORES, "iou_threshold": IOUS, "background": "last", "inclusive": True},
    {"score_threshold": SCORES, "background": "none", "scores": "sigmoid", "top_k": 20},
    {"score_threshold": SCORES, "iou_threshold": IOUS, "layout": "bcp", "top_k": 9},
    {"score_threshold": SCORES, "class_agnostic": True},
    {"score_threshold": SCORES, "soft_nms": "gaussian", "top_k": 30},
    {"score_threshold": SCORES, "iou_threshold": IOUS, "soft_nms": "linear", "top_k": 30},
]  # fmt: skip


def head(num_priors=150, classes=6):
    conf = 2 * torch.randn(2, num_priors, classes)
    conf[..., 0] += 1
    return torch.randn(2, num_priors, 4), conf, random_priors(num_priors)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_the_references_result(device, rule, dtype):
    config, (loc, conf, priors) = DetectConfig(**rule), head()
    loc, conf = loc.to(dtype), conf.to(dtype)
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()
    found = ops.detect(*(t.to(device) for t in (loc, conf, priors)), config)
    expected = reference.detect.detect(loc, conf, priors, **dataclasses.asdict(config))
    assert found.counts.min() > 0
    for got, want in zip(found[2:5], expected[2:], strict=True):
        assert torch.equal(got.cpu(), want)
    for got, want in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-5, atol=1e-5)


def test_each_class_is_as_with_its_thresholds_for_all(device):
    loc, conf, priors = (t.to(device) for t in head())
    every = {"detections_per_image": None, "top_k": 50}
    found = ops.detect(loc, conf, priors, DetectConfig(score_threshold=SCORES, iou_threshold=IOUS, **every))
    for label in range(1, 6):
        config = DetectConfig(score_threshold=SCORES[label], iou_threshold=IOUS[label], **every)
        alone = ops.detect(loc, conf, priors, config)
        for image in range(2):
            rows, own = found.labels[image] == label, alone.labels[image] == label
            assert own.any()
            assert torch.equal(found.prior_indices[image][rows], alone.prior_indices[image][own])
            assert torch.equal(found.scores[image][rows], alone.scores[image][own])


def test_equal_thresholds_are_one_threshold(device):
    loc, conf, priors = (t.to(device) for t in head())
    for soft in (None, "linear"):
        one = DetectConfig(score_threshold=0.1, iou_threshold=0.4, soft_nms=soft)
        many = dataclasses.replace(one, score_threshold=(0.1,) * 6, iou_threshold=(0.4,) * 6)
        for got, want in zip(*(ops.detect(loc, conf, priors, c)[:5] for c in (many, one)), strict=True):
            assert torch.equal(got, want)


def test_by_hand(device):
    """IoU 1/3 twice: the first class is strict, the second is not; the third wants a score above .8."""
    corners = torch.tensor([[0.0, 0, 2, 2], [0, 1, 2, 3], [5, 5, 6, 6]], device=device)
    conf = torch.tensor([[[0.9, 0.8, 0.7], [0.6, 0.5, 0.9], [0.1, 0.2, 0.8]]], device=device)
    config = DetectConfig(
        scores="given", prior_format="xyxy", background="none", detections_per_image=9,
        score_threshold=[0.3, 0.3, 0.8], iou_threshold=[0.3, 0.4, 0.3],
    )  # fmt: skip
    found = nn.PostProcess(config)(torch.zeros(1, 3, 4, device=device), conf, corners)
    pairs = list(zip(found.labels[0].tolist(), found.prior_indices[0].tolist(), strict=True))
    assert pairs[: found.counts[0]] == [(0, 0), (2, 1), (1, 0), (1, 1)]


def test_a_threshold_of_a_background_is_not_looked_at(device):
    loc, conf, priors = (t.to(device) for t in head())
    results = [
        ops.detect(loc, conf, priors, DetectConfig(score_threshold=(own, *SCORES[1:])))
        for own in (-1.0, 0.0, 2.0)
    ]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0][:5], other[:5], strict=True))


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 5, 3), (2, 5, 1)])
def test_no_classes_and_no_priors(device, shape):
    batch, num_priors, classes = shape
    config = DetectConfig(score_threshold=(0.1,) * classes, iou_threshold=(0.5,) * classes)
    priors = random_priors(num_priors).to(device)
    loc, conf = torch.zeros(batch, num_priors, 4), torch.zeros(shape)
    found = ops.detect(loc.to(device), conf.to(device), priors, config)
    assert found.counts.tolist() == [0] * batch


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ops.detect(*head(), DetectConfig(score_threshold=(0.1, 0.2))),
         "score_threshold must be one number or one for each of the 6 columns of conf, got 2"),
        (lambda: ops.detect(*head(), DetectConfig(iou_threshold=(0.1,) * 7)),
         "iou_threshold must be one number or one for each of the 6 columns of conf, got 7"),
        (lambda: DetectConfig(score_threshold=()),
         "score_threshold must be a number or one for each class, got none"),
        (lambda: DetectConfig(iou_threshold=(0.5, 1.5)),
         r"iou_threshold\[1\] must lie in \[0.0, 1.0\], got 1.5"),
        (lambda: DetectConfig(iou_threshold=(0.5, 0.4), class_agnostic=True),
         "iou_threshold must be one number for class_agnostic, got 2"),
        (lambda: DetectConfig(score_threshold=(0.5, 0.4), class_agnostic=True, soft_nms="linear"),
         "score_threshold must be one number for class_agnostic with soft_nms, got 2"),
    ],
)  # fmt: skip
def test_errors(call, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        call()


def test_opcheck(device):
    inputs = tuple(t.to(device) for t in head(30))
    options = op_options(DetectConfig(score_threshold=SCORES, iou_threshold=IOUS), 30, 6)
    torch.library.opcheck(torch.ops.ssd_cuda.detect.default, inputs, options)


@pytest.mark.parametrize("background", ["first", "last"])
@pytest.mark.parametrize(
    "rule", [{}, {"class_agnostic": True}, {"soft_nms": "linear"}, {"detections_per_image": None}], ids=str
)
def test_given_scores_of_infinity(device, background, rule):
    """No column of the background takes part, whatever it holds: +inf equals the limit that keeps it out."""
    config = DetectConfig(scores="given", background=background, top_k=5, **rule)
    loc, conf, priors = head()
    conf = conf.sigmoid()
    conf[0, ::7], conf[1, ::9, 0], conf[1, ::9, -1] = float("inf"), float("inf"), float("inf")
    found = ops.detect(*(t.to(device) for t in (loc, conf, priors)), config)
    expected = reference.detect.detect(loc, conf, priors, **dataclasses.asdict(config))
    assert found.counts.min() > 0 and found.scores.isinf().any()
    for got, want in zip(found[1:5], expected[1:], strict=True):
        assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "limits", [float("inf"), -float("inf"), (0.0, float("inf"), -float("inf"), 0.5)], ids=str
)
@pytest.mark.parametrize("rule", [{}, {"soft_nms": "linear"}, {"detections_per_image": None}], ids=str)
def test_an_infinite_threshold_is_above_or_below_every_number(device, dtype, limits, rule):
    """The op is given finite numbers in its place, which scores may equal or pass."""
    config = DetectConfig(scores="given", score_threshold=limits, background="none", **rule)
    loc, conf, priors = head(classes=4)
    loc, conf, priors = loc.to(dtype), conf.sigmoid().to(dtype), priors.to(dtype)
    largest = torch.finfo(dtype).max
    for place, score in enumerate([float("inf"), largest, largest / 2, -largest, -float("inf"), 1e38]):
        conf[:, place::11] = score
    found = ops.detect(*(t.to(device) for t in (loc, conf, priors)), config)
    expected = reference.detect.detect(loc, conf, priors, **dataclasses.asdict(config))
    torch.testing.assert_close(found[1].cpu(), expected[1], rtol=1e-14, atol=0)  # float64 boxes may differ
    for got, want in zip(found[2:5], expected[2:], strict=True):
        assert torch.equal(got.cpu(), want)


def subnormal_tie(columns):
    """A logit below `columns` zeros whose probability is rounded up by more than a millionth."""
    for x in torch.linspace(-87.3, -86.5, 200):
        row = torch.zeros(columns + 1)
        row[-1] = x
        score = reference.detect.class_scores(row, "softmax")[-1].double()
        share = reference.exponential.exp(x[None])[0].double()
        if score * columns * (1 - 3e-6) > share:
            return x
    raise AssertionError("no such logit")


def test_subnormal_scores_that_tie(device):
    """A full pool takes what ties with its worst score and has a lower label, however that was rounded."""
    columns, width = 257, 1024
    loc, priors = torch.zeros(1, width, 4), random_priors(width)
    conf = torch.full((1, width, columns + 9), -100.0)
    conf[..., :columns] = 0  # the background, and classes whose threshold is above any score
    tie = subnormal_tie(columns)
    conf[:, :300, columns + 1 :], conf[:, 300:, columns] = tie, tie
    limits = (2.0,) * columns + (0.0,) * 9
    config = DetectConfig(score_threshold=limits, iou_threshold=1.0, top_k=None)
    found = ops.detect(*(t.to(device) for t in (loc, conf, priors)), config)
    expected = reference.detect.detect(loc, conf, priors, **dataclasses.asdict(config))
    assert (expected[2] == columns).all() and (expected[1] > 0).all()
    for got, want in zip(found[1:5], expected[1:], strict=True):
        assert torch.equal(got.cpu(), want)
