"""The references of NMS and of the post-process: by hand and against torchvision."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from conftest import random_boxes, random_priors
from oracles import torchvision_ssd

from ssd_cuda import DetectConfig
from ssd_cuda.reference.boxes import box_iou, to_xyxy
from ssd_cuda.reference.detect import detect
from ssd_cuda.reference.nms import batched_nms, nms
from ssd_cuda.reference.soft_nms import soft_nms

NAN, INF = math.nan, math.inf


def boxes_for_nms(kind, n):
    """[n, 4] boxes and [n] scores."""
    boxes, scores = random_boxes(n, size=100), torch.rand(n)
    if kind == "dense":
        boxes = 20 + boxes * 0.1 + torch.tensor([0.0, 0, 30, 30])
    if kind == "duplicates":
        boxes, scores = boxes[torch.arange(n) % 7], scores[torch.arange(n) % 5]
    if kind == "equal scores":
        scores = torch.ones(n)
    if kind == "nan scores":
        scores[::3] = NAN
    if kind == "bad boxes":
        boxes[::4, 2:] = boxes[::4, :2]
        boxes[1::5] = NAN
        boxes[2::7, 3] = INF
        boxes[3::6, 0] = boxes[3::6, 2] + 1
    if kind == "chain":  # each box suppresses the next one only, so every other one stays
        x = torch.arange(n) * 0.3
        boxes, scores = torch.stack([x, x * 0, x + 1, x * 0 + 1], 1), torch.linspace(1, 0, n)
    return boxes, scores


KINDS = ["random", "dense", "duplicates", "equal scores", "nan scores", "bad boxes", "chain"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.45, 1.0])
def test_nms_is_torchvisions(kind, threshold):
    ops = pytest.importorskip("torchvision.ops")
    for n in (0, 1, 2, 150):
        boxes, scores = boxes_for_nms(kind, n)
        assert torch.equal(nms(boxes, scores, threshold), ops.nms(boxes, scores, threshold))


def test_nms_on_the_device_is_nms_on_the_cpu(device):
    for kind in KINDS:
        boxes, scores = boxes_for_nms(kind, 200)
        kept = nms(boxes.to(device), scores.to(device), 0.45)
        assert torch.equal(kept.cpu(), nms(boxes, scores, 0.45))
        labels = torch.arange(200) % 3
        kept = batched_nms(boxes.to(device), scores.to(device), labels.to(device), 0.45)
        assert torch.equal(kept.cpu(), batched_nms(boxes, scores, labels, 0.45))


def test_nms_by_hand(device):
    """IoU of neighbours 1/3: 1 overlaps 0 and 2; 3 stands apart."""
    boxes = torch.tensor([[0.0, 0, 2, 1], [1, 0, 3, 1], [2, 0, 4, 1], [8, 0, 9, 1]], device=device)
    scores = torch.tensor([0.5, 0.9, 0.7, 0.7], device=device)
    assert nms(boxes, scores, 0.3).tolist() == [1, 3]
    assert nms(boxes, scores, 0.34).tolist() == [1, 2, 3, 0]
    assert nms(boxes, -scores, 0.3).tolist() == [0, 2, 3]
    assert nms(boxes, scores, 0.3, iou_eps=1.0).tolist() == [1, 2, 3, 0]  # 1 / (3 + 1)
    assert nms(boxes, scores, 0.39, pixel_offset=1.0).tolist() == [1, 3]  # 2 * 2 / (6 + 6 - 4)


def test_the_threshold_is_compared_in_float64(device):
    """An IoU of exactly float32(0.1), which is larger than 0.1."""
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 1, 1]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert box_iou(boxes[:1], boxes[1:]).item() == torch.tensor(0.1).item() > 0.1
    assert nms(boxes, scores, 0.1).tolist() == [0]
    assert nms(boxes, scores, torch.tensor(0.1).item()).tolist() == [0, 1]
    assert nms(boxes, scores, torch.tensor(0.1).item(), inclusive=True).tolist() == [0]
    half = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]], device=device)
    assert nms(half, scores, 0.5).tolist() == [0, 1]
    assert nms(half, scores, 0.5, inclusive=True).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_classes_never_leak(device, dtype):
    """Negative coordinates and half precision, where an offset by class would merge neighbours."""
    boxes = (random_boxes(300, size=300) - 150).to(dtype).to(device)
    scores, labels = torch.rand(300).to(device), (torch.arange(300) % 90).to(device)
    kept = batched_nms(boxes, scores, labels, 0.45)
    assert (scores[kept].diff() <= 0).all()
    alone = [
        (labels == c).nonzero()[:, 0][nms(boxes[labels == c].double(), scores[labels == c], 0.45)]
        for c in range(90)
    ]
    if dtype in (torch.float32, torch.float64):
        assert sorted(kept.tolist()) == sorted(torch.cat(alone).tolist())
    wide = batched_nms(boxes.float(), scores, labels, 0.45)
    assert dtype == torch.float64 or torch.equal(kept, wide)


def test_batched_nms_is_torchvisions():
    ops = pytest.importorskip("torchvision.ops")
    for kind in ("random", "dense", "duplicates", "chain"):
        boxes, scores = boxes_for_nms(kind, 1100)  # past 1000 boxes it takes the classes one by one
        labels = torch.randint(0, 4, (1100,))
        scores = torch.rand(1100)
        assert torch.equal(
            batched_nms(boxes, scores, labels, 0.45), ops.batched_nms(boxes, scores, labels, 0.45)
        )


def test_soft_nms_by_hand(device):
    boxes = torch.tensor([[0.0, 0, 2, 1], [1, 0, 3, 1], [8, 0, 9, 1]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.3], device=device)
    decayed = 0.8 * math.exp(-(1 / 9) / 0.5)
    index, values = soft_nms(boxes, scores, 0.01, 0.5)
    assert index.tolist() == [0, 1, 2] and values.tolist() == pytest.approx([0.9, decayed, 0.3])
    index, _ = soft_nms(boxes, scores, 0.01, 0.05)
    assert index.tolist() == [0, 2, 1]
    index, _ = soft_nms(boxes, scores, 0.1, 0.05)
    assert index.tolist() == [0, 2]
    assert soft_nms(boxes[:0], scores[:0], 0.1, 0.05)[0].shape == (0,)
    boxes[0] = NAN  # its IoU decays nothing
    index, values = soft_nms(boxes, scores, 0.01, 0.5)
    assert index.tolist() == [0, 1, 2] and torch.equal(values, scores)


# ---------------------------------------------------------------- detect


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_detect_is_torchvisions(sharpness):
    """sharpness 0.3: every class passes .01, as at the start of training. On torch's own softmax: that of the
    ops differs by units in the last place (tests/test_exponential.py)."""
    pytest.importorskip("torchvision")
    loc, conf = torch.randn(2, 300, 4), torch.randn(2, 300, 21) * sharpness
    priors = random_boxes(300, size=300)
    loc[0, :20] *= 30  # past the clamp of the sizes, and outside of the image
    want = torchvision_ssd.postprocess(torchvision_ssd.bare_ssd(), loc, conf, priors)
    config = DetectConfig.preset("torchvision", scores="given")
    boxes, scores, labels, _, counts = detect(loc, conf.softmax(-1), priors, **asdict(config))
    for b, image in enumerate(want):
        n = int(counts[b])
        assert n == len(image["scores"])
        assert torch.equal(scores[b, :n], image["scores"]) and torch.equal(labels[b, :n], image["labels"])
        torch.testing.assert_close(boxes[b, :n], image["boxes"], rtol=1e-5, atol=1e-4)


def simple(device, num_priors=6, num_classes=3):
    """Priors far apart, no offsets: every candidate survives and box i is prior i."""
    centers = torch.arange(num_priors) * 10.0
    priors = torch.stack([centers, centers, *torch.ones(2, num_priors)], 1)
    loc = torch.zeros(1, num_priors, 4)
    return loc.to(device), torch.zeros(1, num_priors, num_classes, device=device), priors.to(device)


def rows(result):
    """(label, prior) of the detections of image 0."""
    _, _, labels, indices, counts = result
    return list(zip(labels[0, : counts[0]].tolist(), indices[0, : counts[0]].tolist(), strict=True))


def test_order_is_score_then_label_then_prior(device):
    loc, conf, priors = simple(device)
    conf[0, :, 1:] = torch.tensor([[0.5, 0.9], [0.5, 0.5], [0.9, 0.1], [0.5, 0.0], [0.2, 0.5], [0, 0]])
    found = detect(loc, conf, priors, scores="given", score_threshold=0.1)
    assert rows(found) == [(1, 2), (2, 0), (1, 0), (1, 1), (1, 3), (2, 1), (2, 4), (1, 4)]
    assert found[0].shape == (1, 200, 4) and [x.dtype for x in found[2:]] == [torch.int64] * 3
    assert torch.equal(found[0][0, :8], to_xyxy(priors)[found[3][0, :8]])
    assert found[1][0, 8:].eq(0).all() and found[2][0, 8:].eq(-1).all() and found[3][0, 8:].eq(-1).all()
    assert rows(detect(loc, conf, priors, scores="given", detections_per_image=3)) == rows(found)[:3]
    assert rows(detect(loc, conf, priors, scores="given", top_k=2)) == [(1, 2), (2, 0), (1, 0), (2, 1)]


def test_size_of_the_padding(device):
    loc, conf, priors = simple(device)

    def width(**options):
        return detect(loc, conf, priors, **options)[0].shape[1]

    assert width() == 200 and width(detections_per_image=7) == 7
    assert width(detections_per_image=None) == 400 * 2
    assert width(detections_per_image=None, top_k=None) == 6 * 2
    assert width(detections_per_image=None, top_k=None, background="none") == 6 * 3
    assert width(detections_per_image=None, class_agnostic=True) == 400
    assert width(detections_per_image=None, class_agnostic=True, top_k=None) == 6 * 2


def test_background_column(device):
    loc, conf, priors = simple(device, num_priors=1)
    conf[0, 0] = torch.tensor([0.5, 0.6, 0.7])
    given = {"scores": "given"}
    assert rows(detect(loc, conf, priors, **given)) == [(2, 0), (1, 0)]
    assert rows(detect(loc, conf, priors, **given, background="last")) == [(1, 0), (0, 0)]
    assert rows(detect(loc, conf, priors, **given, background="none")) == [(2, 0), (1, 0), (0, 0)]


def test_scores(device):
    loc, conf, priors = simple(device, num_priors=1)
    conf[0, 0] = torch.tensor([0.0, 1.0, -1.0])
    softmax, sigmoid = (
        detect(loc, conf, priors, scores=s)[1][0, :2].tolist() for s in ("softmax", "sigmoid")
    )
    total = 1 + math.e + 1 / math.e
    assert softmax == pytest.approx([math.e / total, 1 / math.e / total])
    assert sigmoid == pytest.approx([1 / (1 + 1 / math.e), 1 / (1 + math.e)])


def test_the_score_threshold_is_strict_and_rounded_to_float32(device):
    loc, conf, priors = simple(device)
    conf[0, :, 1] = torch.tensor([0.05, 0.0501, 0.0499, NAN, INF, -INF])
    assert rows(detect(loc, conf, priors, scores="given", score_threshold=0.05)) == [(1, 4), (1, 1)]


def test_nan_is_dropped(device):
    """A NaN logit makes the whole row NaN; a NaN offset leaves a box that nothing suppresses."""
    loc, conf, priors = simple(device)
    conf[0, 0, 2] = NAN
    loc[0, 1, 0] = NAN
    found = detect(loc, conf, priors)
    assert sorted({prior for _, prior in rows(found)}) == [1, 2, 3, 4, 5]


def test_class_agnostic(device):
    """Both classes of one prior are one box: the better stays."""
    loc, conf, priors = simple(device, num_priors=2)
    conf[0, :, 1:] = torch.tensor([[0.3, 0.6], [0.5, 0.5]])
    found = rows(detect(loc, conf, priors, scores="given", class_agnostic=True))
    assert found == [(2, 0), (1, 1)]
    assert rows(detect(loc, conf, priors, scores="given", class_agnostic=True, top_k=1)) == [(2, 0)]


def test_clipping_before_and_after(device):
    """Outside the image both boxes are alike: clipped before NMS one goes, clipped after both stay."""
    priors = torch.tensor([[0.0, 0.5, 2.0, 1.0], [0.0, 0.5, 8.0, 1.0]], device=device)
    loc = torch.zeros(1, 2, 4, device=device)
    conf = torch.tensor([[[0, 0.9], [0, 0.8]]], device=device)
    options = {"scores": "given", "clip_size": (1.0, 1.0)}
    assert rows(detect(loc, conf, priors, clip="before", **options)) == [(1, 0)]
    boxes, *_, counts = detect(loc, conf, priors, clip="after", **options)
    assert counts.item() == 2 and boxes[0, :2].tolist() == [[0, 0, 1, 1]] * 2
    assert detect(loc, conf, priors, **options)[0][0, 0].tolist() == [-1, 0, 1, 1]


def test_layout_and_priors_per_image(device):
    loc, conf = torch.randn(2, 40, 4).to(device), torch.randn(2, 40, 3).to(device)
    priors = random_priors(80).reshape(2, 40, 4).to(device)
    both = detect(loc, conf, priors)
    flipped = detect(loc.transpose(1, 2), conf.transpose(1, 2), priors, layout="bcp")
    assert all(torch.equal(a, b) for a, b in zip(both, flipped, strict=True))
    for b in range(2):
        one = detect(loc[b : b + 1], conf[b : b + 1], priors[b])
        assert all(torch.equal(x[0], y[b]) for x, y in zip(one, both, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(device, dtype):
    loc, conf = torch.randn(1, 50, 4).to(device, dtype), torch.randn(1, 50, 3).to(device, dtype)
    priors = random_priors(50).to(device)
    half, full = detect(loc, conf, priors), detect(loc.float(), conf.float(), priors)
    assert all(torch.equal(a, b) for a, b in zip(half, full, strict=True))


def test_detect_of_nothing(device):
    loc, conf, priors = simple(device)
    for found in (
        detect(loc[:0], conf[:0], priors),
        detect(loc[:, :0], conf[:, :0], priors[:0]),
        detect(loc, conf[..., :1], priors),
        detect(loc, conf * NAN, priors),
    ):
        assert found[0].shape[1:] == (200, 4) and (found[4] == 0).all()


def test_all_logits_equal_at_81_classes(device):
    """At the start of training every class passes .01: 1/81 = .0123, and the lowest labels win."""
    loc, conf, priors = simple(device, num_priors=20, num_classes=81)
    found = rows(detect(loc, conf, priors))
    assert found == [(label, prior) for label in range(1, 11) for prior in range(20)]
