"""RetinaNet of torchvision: its head's losses and gradients from focal_loss, on its own matches.

Where every image has a truth: torchvision divides the loss of one without by 1, "per_image" leaves it out.
"""

from __future__ import annotations

import pytest
import torch
from conftest import random_boxes

from ssd_cuda import FocalConfig, ops

retinanet = pytest.importorskip("torchvision.models.detection.retinanet")
Matcher = retinanet.det_utils.Matcher
# Labels are columns, 0 among them; boxes coded without variances; each image by its own positives.
CONFIG = FocalConfig(
    match={"prior_format": "xyxy", "iou_threshold": 0.5, "candidate_max_iou": 0.4, "degenerate": "keep"},
    variances=(1.0, 1.0),
    loc_loss="l1",
    normalizer="per_image",
    zero_label="positive",
)
COUNTS = (5, 2, 3)


@pytest.fixture
def batch(device):
    """Head outputs, anchors and targets of three images."""
    loc, conf = torch.randn(3, 400, 4, device=device), torch.randn(3, 400, 7, device=device)
    boxes = random_boxes(sum(COUNTS), size=300).to(device).split(COUNTS)
    anchors = random_boxes(400, size=300).to(device)
    for image, own in enumerate(boxes):  # some that overlap well
        anchors[40 * image : 40 * image + len(own)] = own + 3
    labels = torch.randint(0, 7, (sum(COUNTS),), device=device).split(COUNTS)
    return loc.requires_grad_(), conf.requires_grad_(), boxes, labels, anchors


def matches(boxes, anchors):
    """-1: background, -2: between the thresholds, as the codes of match()."""
    return [Matcher(0.5, 0.4, True)(retinanet.box_ops.box_iou(own, anchors)) for own in boxes]


@pytest.mark.parametrize("box_loss", ["l1", "smooth_l1"])
def test_the_heads_losses_and_gradients(batch, box_loss):
    loc, conf, boxes, labels, anchors = batch
    theirs = retinanet.RetinaNetHead(8, 9, 7)
    theirs.regression_head._loss_type = box_loss
    found = matches(boxes, anchors)
    assert {-2, -1} < set(torch.cat(found).tolist())
    targets = [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]
    outputs = {"cls_logits": conf, "bbox_regression": loc}
    expected = theirs.compute_loss(targets, outputs, [anchors] * 3, found)
    want = [expected["bbox_regression"], expected["classification"]]
    config = FocalConfig(**{**CONFIG.__dict__, "loc_loss": box_loss})
    gt = ops.GroundTruth.from_list(list(boxes), list(labels))
    ours = ops.focal_loss(loc, conf, gt, anchors, config, codes=torch.stack(found).int())
    for mine, other in zip(ours, want, strict=False):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad(sum(losses[:2]), (loc, conf)) for losses in (ours, want))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)
