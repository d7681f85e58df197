"""Every op once at the sizes of SSD300: 8,732 priors, a batch of three, on both devices.

Small inputs do not fill a grain of work, a slice of an image or a second window: these do.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import random_boxes
from focal_cases import assert_close, reference_of
from multibox_cases import assert_same_loss, batch_of, gradients, reference_loss
from test_focal import run as run_focal

from ssd_cuda import DetectConfig, FocalConfig, MatchConfig, MultiBoxConfig, PriorSpec, ops, reference

BATCH, PRIORS = 3, 8732


@pytest.fixture(scope="module")
def priors() -> torch.Tensor:
    return ops.generate_priors(PriorSpec.preset("paper"))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("per_prior", [False, True])
def test_encode_decode(device, priors, batched, per_prior):
    shape = (BATCH, PRIORS, 4) if batched else (PRIORS, 4)
    priors = priors.to(device)
    variances = 0.1 + torch.rand(PRIORS, 4, device=device) if per_prior else (0.1, 0.2)
    loc = torch.randn(shape, device=device, requires_grad=True)
    boxes = random_boxes(math.prod(shape[:-1])).reshape(shape).to(device).requires_grad_()
    for op, theirs, rows in (
        (ops.decode, reference.boxes.decode, loc),
        (ops.encode, reference.boxes.encode, boxes),
    ):
        result, expected = op(rows, priors, variances), theirs(rows, priors, variances)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        weights = torch.rand_like(result)
        (mine,) = torch.autograd.grad(result, rows, weights)
        (right,) = torch.autograd.grad(expected, rows, weights)
        torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-4)


def test_iou(device, priors):
    a, b = reference.boxes.to_xyxy(priors).to(device), random_boxes(67).to(device)
    assert torch.equal(ops.box_iou(a, b), reference.boxes.box_iou(a, b))
    assert torch.equal(ops.box_iou(b, a), reference.boxes.box_iou(b, a))


@pytest.mark.parametrize("forced", ["none", "argmax", "bipartite"])
def test_match(device, priors, forced):
    counts = (13, 0, 40)
    boxes = random_boxes(sum(counts)).split(counts)
    gt = ops.GroundTruth.from_list(list(boxes), [torch.ones(n, dtype=torch.int64) for n in counts])
    config = MatchConfig(forced=forced)
    result = ops.match(gt.to(device), priors.to(device), config=config)
    expected = reference.matching.match(gt.boxes, gt.offsets, priors, **dataclasses.asdict(config))
    assert torch.equal(result.cpu(), expected)


def test_mining(device):
    keys, positive = torch.rand(BATCH, PRIORS, device=device), torch.rand(BATCH, PRIORS, device=device) < 0.01
    keys[1] = (keys[1] * 50).round()
    k = torch.tensor([3000, 1, PRIORS], device=device)
    assert torch.equal(ops.top_k_threshold(keys, k).mask, reference.mining.top_k_per_row(keys, k))
    mine = ops.select_hard_negatives(keys, positive)
    assert torch.equal(mine, reference.mining.select_hard_negatives(keys, positive, ratio=3.0))


@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_multibox(device, priors, layout):
    config = MultiBoxConfig(layout=layout)
    loc, conf, gt, _ = batch_of(config, (9, 0, 30), width=PRIORS, classes=21, device=device)
    assert_same_loss(loc, conf, gt, priors.to(device), config)


@pytest.mark.parametrize("width, classes", [(8731, 91), (8732, 91), (PRIORS, 21)])
def test_gradients_are_written_to_their_last_byte(priors, width, classes):
    """Between 1 and 32 MB a gradient is cleared in memory that others have used, of any number of bytes."""
    config = MultiBoxConfig()
    loc, conf, gt, _ = batch_of(config, (9,), width=width, classes=classes, dtype=torch.bfloat16)
    loc, conf, own = loc.requires_grad_(), conf.requires_grad_(), priors[:width]
    expected = gradients(reference_loss(loc, conf, gt, own, config), loc, conf)
    losses = ops.multibox_loss(loc, conf, gt, own, config)
    for _ in range(3):  # a large block is reused once one as large was freed
        used = [torch.full_like(conf, torch.nan) for _ in range(3)]
        del used
    mine = gradients(losses, loc, conf)
    assert torch.equal(mine[1] != 0, expected[1] != 0)
    torch.testing.assert_close(mine[1], expected[1], rtol=1e-2, atol=1e-6)


def head(priors, classes=6):
    loc, conf = torch.randn(BATCH, PRIORS, 4), 3 * torch.randn(BATCH, PRIORS, classes)
    conf[..., 0] += 9
    return loc, conf, priors


@pytest.mark.parametrize("preset", ["paper", "amdegroot"])  # until the rows are full; class by class
def test_detect(device, priors, preset):
    config = DetectConfig.preset(preset)
    loc, conf, priors = (t.to(device) for t in head(priors))
    found = ops.detect(loc, conf, priors, config)
    expected = reference.detect.detect(loc, conf, priors, **dataclasses.asdict(config))
    assert torch.equal(found.counts, expected[4]) and found.counts.min() > 0
    assert torch.equal(found.labels, expected[2]) and torch.equal(found.prior_indices, expected[3])
    torch.testing.assert_close(found.boxes, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.scores, expected[1], rtol=1e-5, atol=1e-7)


def test_nms(device, priors):
    boxes, scores = reference.boxes.to_xyxy(priors).to(device), torch.rand(PRIORS, device=device)
    idxs = torch.randint(0, 20, (PRIORS,), device=device)
    assert torch.equal(ops.nms(boxes, scores, 0.45), reference.nms.nms(boxes, scores, 0.45))
    mine = ops.batched_nms(boxes, scores, idxs, 0.45)
    assert torch.equal(mine, reference.nms.batched_nms(boxes, scores, idxs, 0.45))


def test_the_other_rules_of_nms(device, priors):
    boxes, scores = reference.boxes.to_xyxy(priors).to(device), torch.rand(PRIORS, device=device)
    idxs = torch.randint(0, 20, (PRIORS,), device=device)
    mine = ops.diou_nms(boxes, scores, 0.0, idxs=idxs)
    assert torch.equal(mine, reference.diou_nms.diou_nms(boxes, scores, 0.0, idxs))
    soft = ops.batched_soft_nms(boxes, scores, idxs, score_threshold=0.8)
    expected = reference.soft_nms.batched_soft_nms(boxes, scores, idxs, 0.8, 0.5)
    assert torch.equal(soft[0], expected[0]) and torch.equal(soft[1], expected[1]) and len(soft[0]) > 100
    boxes, scores, idxs = boxes[::8], scores[::8], idxs[::8]  # the reference looks at every pair
    matrix = ops.matrix_nms(boxes, scores, idxs=idxs, score_threshold=0.8)
    expected = reference.matrix_nms.matrix_nms(boxes, scores, idxs, score_threshold=0.8)
    assert torch.equal(matrix[0], expected[0]) and torch.equal(matrix[1], expected[1]) and len(matrix[0]) > 9


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_focal_loss(device, priors, form):
    config = FocalConfig(form=form)
    loc, conf, gt, _ = batch_of(config, (9, 0, 30), width=PRIORS, classes=20)
    case = (loc, conf, gt, priors)
    assert_close(run_focal(*case, config, device), reference_of(*case, config), torch.float32)
