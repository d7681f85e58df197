"""Presets: the reference and the ops with a preset equal the transcription of that codebase."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from conftest import random_boxes, random_priors
from torch import Tensor

from ssd_cuda import DetectConfig, MultiBoxConfig, PriorSpec, ops, reference
from ssd_cuda.reference import dialects

DIALECTS = [module.name for module in pkgutil.iter_modules(dialects.__path__)]


def dialect(name: str):
    return importlib.import_module(f"ssd_cuda.reference.dialects.{name}")


LOSSES = [name for name in DIALECTS if hasattr(dialect(name), "loss")]
DETECTIONS = [name for name in DIALECTS if hasattr(dialect(name), "detect")]


def num_classes_of(name: str, usual: int) -> int:
    return getattr(dialect(name), "NUM_CLASSES", usual)


@dataclass
class Batch:
    loc: Tensor  # [B, P, 4]
    conf: Tensor  # [B, P, C]
    boxes: list[Tensor]
    labels: list[Tensor]
    priors: Tensor  # [P, 4] cx, cy, w, h, normalised

    def ground_truth(self, device: torch.device) -> ops.GroundTruth:
        return ops.GroundTruth.from_list(self.boxes, self.labels, degenerate="keep", device=device)


def make_batch(kind: str, num_classes: int, dtype=torch.float32) -> Batch:
    """Four images; dtype is that of the geometry. By kind: random; ties: boxes and priors on a coarse grid,
    logits from few rows; equal: all logits equal; short: more positives than a quarter of the priors; empty:
    no image has a ground truth; small: areas of 1e-5; degenerate: some have no area, some are inverted."""
    num_priors = 12 if kind == "short" else 90
    counts = (0, 0, 0, 0) if kind == "empty" else (3, 0, 7, 1)
    priors = random_priors(num_priors)
    boxes = [random_boxes(n) for n in counts]
    conf = torch.randn(len(counts), num_priors, num_classes, dtype=torch.float64) * 3
    if kind == "ties":
        low = torch.randint(0, 6, (num_priors, 2)) / 8
        size = torch.randint(1, 4, (num_priors, 2)) / 8
        priors = torch.cat([low + size / 2, size], 1)
        low = [torch.randint(0, 6, (n, 2)) / 8 for n in counts]
        boxes = [torch.cat([a, a + torch.randint(1, 4, a.shape) / 8], 1) for a in low]
        conf = conf[:, :4][:, torch.randint(0, 4, (num_priors,))]
    if kind == "equal":
        conf = torch.zeros_like(conf)
    if kind == "small":  # areas about the size of the codebases' 1e-5
        priors, boxes = priors * 0.01, [b * 0.01 for b in boxes]
    if kind == "degenerate":
        for b in boxes:
            b[1::3, 2:] = b[1::3, :2]
            b[2::3, 0] = b[2::3, 2] + 0.1
    labels = [torch.randint(1, num_classes, (n,)) for n in counts]
    loc = torch.randn(len(counts), num_priors, 4, dtype=torch.float64)
    return Batch(loc, conf, [b.to(dtype) for b in boxes], labels, priors.to(dtype))


def in_dialect(name: str, batch: Batch) -> Batch:
    """The batch as a user of that codebase writes it: labels, units, order of the axes."""
    config = MultiBoxConfig.preset(name)
    if config.match.prior_format == "xyxy":  # these write priors and boxes as corners in pixels
        batch.priors = reference.boxes.to_xyxy(batch.priors) * 300
        batch.boxes = [b * 300 for b in batch.boxes]
    if config.label_offset or config.background == "last":
        batch.labels = [n - 1 for n in batch.labels]
    if config.single_class:
        batch.labels = [torch.where(n % 2 == 0, -1, 1) for n in batch.labels]
    if config.zero_label == "localize":
        batch.labels = [torch.where(n == 1, 0, n) for n in batch.labels]
    if config.layout == "bcp":
        batch.loc, batch.conf = (x.transpose(1, 2).contiguous() for x in (batch.loc, batch.conf))
    return batch


def match(how: str, batch: Batch, config: MultiBoxConfig, device: torch.device) -> Tensor:
    gt, priors = batch.ground_truth(device), batch.priors.to(device)
    if how == "ops":
        return ops.match(gt, priors, config=config.match).cpu()
    return reference.matching.match(gt.boxes, gt.offsets, priors, **asdict(config.match)).cpu()


def multibox_loss(how: str, loc, conf, batch: Batch, config: MultiBoxConfig, device: torch.device) -> Tensor:
    """[2]: localisation, classification."""
    gt, priors = batch.ground_truth(device), batch.priors.to(device)
    loc, conf = loc.to(device), conf.to(device)
    if how == "ops":
        losses = ops.multibox_loss(loc, conf, gt, priors, config)
    else:
        targets = gt.boxes, gt.labels, gt.offsets, priors
        losses = reference.multibox.multibox_loss(loc, conf, *targets, **asdict(config))
    return torch.stack([losses[0], losses[1]]).cpu()


def detect(how: str, loc, conf, priors, config: DetectConfig, device: torch.device) -> list[Tensor]:
    """boxes, scores, labels, prior indices, counts."""
    inputs = [x.to(device) for x in (loc, conf, priors)]
    if how == "reference":
        return [x.cpu() for x in reference.detect.detect(*inputs, **asdict(config))]
    found = ops.detect(*inputs, config)
    return [x.cpu() for x in (found.boxes, found.scores, found.labels, found.prior_indices, found.counts)]


KINDS = ["random", "ties", "equal", "short", "empty", "small", "degenerate"]
both = pytest.mark.parametrize("how", ["reference", "ops"])


@both
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_matching(device, how, name, kind):
    num_classes, config = num_classes_of(name, 5), MultiBoxConfig.preset(name)
    for _ in range(3):
        batch = in_dialect(name, make_batch(kind, num_classes))
        codes = match(how, batch, config, device)
        extra = (num_classes - 1,) if config.background == "last" else ()
        for b, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
            owner, _ = dialect(name).assign(boxes, labels, batch.priors, *extra)
            assert torch.equal(codes[b].clamp(min=-1).long(), owner)


@both
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients(device, how, name, kind):
    num_classes = num_classes_of(name, 5)
    for _ in range(3):
        batch = in_dialect(name, make_batch(kind, num_classes, torch.float64))
        ours = [x.clone().requires_grad_() for x in (batch.loc, batch.conf)]
        theirs = [x.clone().requires_grad_() for x in (batch.loc, batch.conf)]
        got = multibox_loss(how, *ours, batch, MultiBoxConfig.preset(name), device)
        want = torch.stack(dialect(name).loss(*theirs, batch.boxes, batch.labels, batch.priors))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12, equal_nan=True)
        for index in (0, 1):  # the localisation loss depends on loc, the classification loss on conf
            if not want[index].isfinite():
                continue  # a forced zero-area box, or nothing to divide by: that codebase's own nan or inf
            (mine,) = torch.autograd.grad(got[index], ours[index], retain_graph=True)
            (other,) = torch.autograd.grad(want[index], theirs[index], retain_graph=True)
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def sorted_rows(score: Tensor, label: Tensor, prior: Tensor) -> Tensor:
    """Order by (score desc, label asc, prior asc)."""
    order = torch.argsort(prior, stable=True)
    order = order[torch.argsort(label[order], stable=True)]
    return order[torch.argsort(score[order], descending=True, stable=True)]


def check_detections(how, device, config: DetectConfig, loc, conf, priors, transcription) -> int:
    boxes, scores, labels, indices, counts = detect(how, loc, conf, priors, config, device)
    for b in range(len(loc)):
        box, score, label, prior = transcription(loc[b], conf[b], priors)
        order = sorted_rows(score, label, prior)
        n = int(counts[b])
        assert n == len(order)
        assert torch.equal(labels[b, :n], label[order])
        assert torch.equal(indices[b, :n], prior[order])
        torch.testing.assert_close(scores[b, :n], score[order])
        atol = 1e-4 if priors.max() > 2 else 1e-6
        torch.testing.assert_close(boxes[b, :n], box[order], rtol=1e-5, atol=atol)
        assert (scores[b, n:] == 0).all() and (labels[b, n:] == -1).all() and (indices[b, n:] == -1).all()
    return int(counts.sum())


def class_dim(name: str) -> int:
    return 1 if DetectConfig.preset(name).layout == "bcp" else 2


def detection_inputs(name: str, sharpness: float, batch: int = 2, num_priors: int = 150):
    config = DetectConfig.preset(name)
    num_classes = num_classes_of(name, 4)
    loc = torch.randn(batch, num_priors, 4)
    conf = torch.randn(batch, num_priors, num_classes) * sharpness
    priors = random_priors(num_priors)
    if config.iou_eps:
        priors = priors * 0.01  # areas where 1e-5 in the union tells
    if config.prior_format == "xyxy":
        priors = reference.boxes.to_xyxy(priors) * 300
    if config.max_log_scale is not None:
        loc[:, ::9] *= 40
    if config.pixel_offset:
        priors = priors * torch.tensor([320.0, 240, 320, 240])
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2), conf.transpose(1, 2)
    return loc, conf, priors


@both
@pytest.mark.parametrize("sharpness", [1.0, 4.0])
@pytest.mark.parametrize("name", DETECTIONS)
def test_detection(device, how, name, sharpness):
    inputs = detection_inputs(name, sharpness)
    assert check_detections(how, device, DetectConfig.preset(name), *inputs, dialect(name).detect) > 20


@both
@pytest.mark.parametrize("name", DETECTIONS)
def test_detection_with_ties_and_duplicates(device, how, name):
    """Equal scores inside a class (different in different classes), and boxes that are there twice."""
    loc, conf, priors = detection_inputs(name, 2.0, num_priors=120)
    p = 3 - class_dim(name)
    twice = torch.arange(120) % 40
    loc, conf, priors = loc.index_select(p, twice) * 0.3, conf.index_select(p, twice), priors[twice]
    assert (
        check_detections(how, device, DetectConfig.preset(name), loc, conf, priors, dialect(name).detect) > 10
    )


@both
@pytest.mark.parametrize("name", DETECTIONS)
def test_detection_at_the_threshold(device, how, name):
    """Boxes with whole coordinates: many IoUs are exactly 1/2 or 2/5."""
    loc, conf, _ = detection_inputs(name, 1.0)
    low = torch.randint(0, 6, (150, 2))
    corners = torch.cat([low, low + torch.randint(1, 5, (150, 2))], 1).float()
    corners_wanted = DetectConfig.preset(name).prior_format == "xyxy"
    priors = corners if corners_wanted else reference.boxes.to_cxcywh(corners)
    assert (
        check_detections(how, device, DetectConfig.preset(name), loc * 0, conf, priors, dialect(name).detect)
        > 10
    )


@both
@pytest.mark.parametrize("name", DETECTIONS)
def test_nothing_passes(device, how, name):
    loc, conf, priors = detection_inputs(name, 1.0)
    conf.zero_()
    conf.select(class_dim(name), -1 if DetectConfig.preset(name).background == "last" else 0).fill_(40)
    assert (
        check_detections(how, device, DetectConfig.preset(name), loc, conf, priors, dialect(name).detect) == 0
    )


LIMITS = {name: DetectConfig.preset(name).top_k for name in DETECTIONS}


@both
@pytest.mark.parametrize("name", [name for name, limit in LIMITS.items() if limit and limit <= 1500])
def test_top_k_cuts_before_nms(device, how, name):
    """As many copies of one box as pass, then boxes that stand apart with a lower score: only one stays."""
    config, limit = DetectConfig.preset(name), LIMITS[name]
    loc, conf, priors = detection_inputs(name, 0.0, batch=1, num_priors=limit + 16)
    scores = conf.select(class_dim(name), 0 if config.background == "last" else 1)
    conf -= 9
    scores.fill_(3)
    scores[:, limit:] = 1
    cell = torch.arange(len(priors)) % 16
    centers = torch.stack([cell % 4, cell // 4], 1) / 4 + 0.125
    centers[:limit] = 0.125
    priors = torch.cat([centers, torch.full_like(centers, 0.2)], 1)
    if config.prior_format == "xyxy":
        priors = reference.boxes.to_xyxy(priors) * 300
    assert check_detections(how, device, config, loc * 0, conf, priors, dialect(name).detect) == 1
    more = replace(config, top_k=None)
    assert detect(how, loc * 0, conf, priors, more, device)[4].sum() > 10


@both
def test_soft_nms_is_qfgaohaos(device, how):
    loc, conf, priors = detection_inputs("qfgaohao", 2.0)
    config = DetectConfig.preset("qfgaohao", soft_nms="gaussian", top_k=None)
    assert check_detections(how, device, config, loc, conf, priors, dialect("qfgaohao").detect_soft) > 100


def test_paper_is_caffe():
    assert MultiBoxConfig.preset("paper") == MultiBoxConfig.preset("caffe")
    assert DetectConfig.preset("paper") == DetectConfig.preset("caffe")
    assert PriorSpec.preset("paper") == PriorSpec.preset("caffe")


@pytest.mark.parametrize("name", PriorSpec.preset_names())
def test_priors_of_a_preset_fit_its_loss_and_its_detection(name):
    """Used together under one name they would else match wrongly in silence."""
    made = PriorSpec.preset(name).format
    if name in MultiBoxConfig.preset_names():
        assert MultiBoxConfig.preset(name).match.prior_format == made
    if name in DetectConfig.preset_names():
        assert DetectConfig.preset(name).prior_format == made


def test_a_retinaface_truth_below_its_floor_takes_over_a_matched_prior():
    """By hand: prior 0 matches truth 0 at IoU 1; truth 1 reaches only 0.19 with it and still renames it."""
    priors = torch.tensor([[0.5, 0.5, 1.0, 1.0], [4.5, 4.5, 1.0, 1.0]])
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0.38, 0.5]])
    offsets = torch.tensor([0, 2])
    config = MultiBoxConfig.preset("retinaface").match
    assert reference.matching.match(boxes, offsets, priors, **asdict(config)).tolist() == [[1, -1]]
    config = replace(config, relabel_unforced=False)
    assert reference.matching.match(boxes, offsets, priors, **asdict(config)).tolist() == [[0, -1]]
