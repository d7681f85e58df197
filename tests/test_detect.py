"""detect: the fused post-process against the reference, torchvision and hand-worked cases."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import DetectConfig, ops, reference
from ssd_cuda.nn.post_process import PostProcess

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


def torchvisions(loc, conf, priors, size=300):
    """``SSD.postprocess_detections`` of torchvision with SSD300's options."""
    ssd = pytest.importorskip("torchvision.models.detection.ssd")
    coder = pytest.importorskip("torchvision.models.detection._utils").BoxCoder((10.0, 10.0, 5.0, 5.0))
    self = SimpleNamespace(
        box_coder=coder, score_thresh=0.01, topk_candidates=400, nms_thresh=0.45, detections_per_img=200
    )
    outputs = {"bbox_regression": loc, "cls_logits": conf}
    images = len(loc)
    return ssd.SSD.postprocess_detections(self, outputs, [priors] * images, [(size, size)] * images)


@pytest.mark.parametrize("classes, scale, background", [(21, 3, 6), (91, 3, 8), (21, 0.5, 0), (91, 1, 0)])
def test_is_torchvisions_post_process(device, classes, scale, background):
    loc, conf, _ = (
        t.to(device) if t is not None else None
        for t in head(3, 2000, classes, scale=scale, background=background)
    )
    priors = random_boxes(2000, size=300).to(device)
    found = ops.detect(loc, conf, priors, DetectConfig.preset("torchvision")).to_list()
    for ours, theirs in zip(found, torchvisions(loc, conf, priors), strict=True):
        assert ours.keys() == theirs.keys()
        assert torch.equal(ours["labels"], theirs["labels"])
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=2e-6, atol=0)
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=1e-5, atol=1e-3)


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


def test_same_bits_for_any_number_of_threads():
    loc, conf, priors = head(3, 9000, 21, scale=1.0, background=1)
    threads = torch.get_num_threads()
    configs = [
        DetectConfig(),
        DetectConfig(detections_per_image=None),
        DetectConfig(soft_nms="gaussian", top_k=50),
    ]
    try:
        for config in configs:
            torch.set_num_threads(1)
            one = ops.detect(loc, conf, priors, config)
            torch.set_num_threads(3)
            many = ops.detect(loc, conf, priors, config)
            assert all(torch.equal(a, b) for a, b in zip(one[:5], many[:5], strict=True))
    finally:
        torch.set_num_threads(threads)


_HASH = """
import hashlib, torch
from ssd_cuda import DetectConfig, ops
torch.manual_seed(1)
loc, conf, priors = torch.randn(2, 700, 4), torch.randn(2, 700, 23), torch.rand(700, 4)
for options in ({}, {"scores": "sigmoid"}, {"soft_nms": "gaussian", "top_k": 40}, {"background": "none"}):
    for t in ops.detect(loc, conf, priors, DetectConfig(**options))[:5]:
        print(hashlib.sha256(t.numpy().tobytes()).hexdigest())
"""


def test_same_bits_for_every_instruction_set():
    results = {
        level: subprocess.run(
            [sys.executable, "-c", _HASH],
            env={**os.environ, "SSD_CUDA_SIMD": level},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for level in ("baseline", "avx2", "avx512")
    }
    assert results["baseline"] == results["avx2"] == results["avx512"]
    assert len(results["baseline"].split()) == 20


def test_module_detaches(device):
    loc, conf, priors = (t.to(device) for t in head(2, 50, 4))
    config = DetectConfig(top_k=20)
    module = PostProcess(config)
    found = module(loc.requires_grad_(), conf.requires_grad_(), priors)
    expected = ops.detect(loc.detach(), conf.detach(), priors, config)
    assert all(torch.equal(a, b) for a, b in zip(found[:5], expected[:5], strict=True))
    assert not found.boxes.requires_grad
    assert "top_k=20" in repr(module)


def _raw(device):
    loc, conf, priors = (t.to(device) for t in head(2, 40, 5))
    variance = [0.1, 0.1, 0.2, 0.2]
    numbers = (0, 0.01, 10, 0.45, False, 0.0, 0.0, 0.0, False, 1, 5, 7)
    return (loc, conf, priors, *numbers, variance, math.inf, False, False, 0, [1.0, 1.0], False)


def test_opcheck(device):
    torch.library.opcheck(torch.ops.ssd_cuda.detect.default, _raw(device))


def test_compiles_without_a_break(device):
    loc, conf, priors = (t.to(device) for t in head(2, 50, 4))
    extra = torch.rand(2, 50, 3, device=device)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(loc, conf):
        return ops.detect(loc, conf, priors, extra=extra)

    expected = ops.detect(loc, conf, priors, extra=extra)
    assert all(torch.equal(a, b) for a, b in zip(step(loc, conf), expected, strict=True))


def test_exports_with_static_shapes(device):
    loc, conf, priors = (t.to(device) for t in head(2, 50, 4))
    program = torch.export.export(PostProcess(), (loc, conf, priors))
    found = program.module()(loc, conf, priors)
    expected = ops.detect(loc, conf, priors)
    assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.counts, expected.counts)


LOC, CONF, PRIORS = torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), torch.zeros(3, 4)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ops.detect([1], CONF, PRIORS), TypeError, "loc must be a tensor, got list"),
        (
            lambda: ops.detect(LOC, CONF[0], PRIORS),
            ValueError,
            r"conf must have shape \[B, P, C\], got \[3, 5\]",
        ),
        (
            lambda: ops.detect(LOC[:1], CONF, PRIORS),
            ValueError,
            r"loc must have shape \[2, 3, 4\], got \[1, 3, 4\]",
        ),
        (
            lambda: ops.detect(LOC, CONF, PRIORS[:2]),
            ValueError,
            r"priors must have shape \[3, 4\], got \[2, 4\]",
        ),
        (lambda: ops.detect(LOC, CONF, PRIORS[None]), ValueError, r"priors must have shape \[2, 3, 4\]"),
        (lambda: ops.detect(LOC, CONF.int(), PRIORS), TypeError, "conf must be float32.*got int32"),
        (lambda: ops.detect(LOC, CONF, PRIORS, "paper"), TypeError, "config must be a DetectConfig, got str"),
        (
            lambda: ops.detect(LOC, CONF, PRIORS, extra=LOC[:1]),
            ValueError,
            r"extra must have shape \[2, 3, E\]",
        ),
        (lambda: ops.detect(LOC, CONF, PRIORS, extra=3), TypeError, "extra must be a tensor, got int"),
        (
            lambda: ops.detect(LOC, CONF.clone().requires_grad_(), PRIORS),
            ValueError,
            "conf must not require a gradient",
        ),
        (
            lambda: ops.detect(LOC, CONF.to("meta"), PRIORS),
            ValueError,
            "must be on one device, got cpu, meta",
        ),
        (lambda: DetectConfig(score_threshold=math.nan), ValueError, "score_threshold must lie in"),
        (
            lambda: DetectConfig(iou_threshold=1.5),
            ValueError,
            r"iou_threshold must lie in \[0.0, 1.0\], got 1.5",
        ),
        (lambda: DetectConfig(top_k=0), ValueError, r"top_k must lie in \[1, inf\], got 0"),
        (lambda: DetectConfig(iou_eps=-1.0), ValueError, r"iou_eps must lie in \[0.0, inf\], got -1.0"),
        (
            lambda: DetectConfig(max_log_scale=-1.0),
            ValueError,
            r"max_log_scale must lie in \[0.0, inf\], got -1.0",
        ),
        (
            lambda: DetectConfig(clip_size=(1.0,)),
            ValueError,
            r"clip_size must be two positive numbers, got \(1.0,\)",
        ),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()
