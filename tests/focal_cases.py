"""What the tests of the focal loss share: batches, configs, and the reference."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import FocalConfig, ops, reference

CHANGES = [
    {},
    {"form": "softmax"},
    {"gamma": 0.0, "alpha": None},
    {"gamma": 1.0},
    {"gamma": 1.5},
    {"form": "softmax", "gamma": 0.7, "alpha": 0.6},
    {"form": "softmax", "gamma": 0.0, "alpha": None},
    {"form": "softmax", "background": "last", "label_offset": -1},
    {"background": "none", "label_offset": -1},
    {"background": "last", "label_offset": -1},
    {"match": {"candidate_max_iou": 0.2}, "normalizer": "selected"},
    {"form": "softmax", "match": {"candidate_max_iou": 0.2}, "normalizer": "selected"},
    {"ignore_label": 2, "zero_label": "localize", "label_offset": -1},
    {"form": "softmax", "ignore_label": 2, "zero_label": "localize", "label_offset": -1},
    {"zero_label": "positive", "label_offset": -1},
    {"form": "softmax", "zero_label": "positive", "label_offset": -1, "normalizer": "selected"},
    {"normalizer": "per_image", "loc_loss": "l1", "loc_weight": 2.0},
    {"normalizer": "batch_min_one", "loc_reduction": "mean4", "beta": 0.11},
]
WEIGHTS = (1.5, 0.7)


def without_gradients(call):
    """call() whose forward leaves no gradients: the backward makes them, as on a card."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops.focal, "_wants_gradients", lambda conf: False)
        return call()


def batch_of(config, counts=(4, 0, 7), width=150, classes=6, dtype=torch.float32):
    """loc, conf, gt, priors of a batch whose image i holds counts[i] boxes; labels from 1 on."""
    loc = torch.randn(len(counts), width, 4).to(dtype)
    conf = (3 * torch.randn(len(counts), width, classes)).to(dtype)
    labels = torch.randint(1, max(classes, 2), (sum(counts),))
    boxes = random_boxes(sum(counts))
    gt = ops.GroundTruth.from_list(boxes.split(list(counts)), labels.split(list(counts)))
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()
    return loc, conf, gt, random_priors(width)


def reference_of(loc, conf, gt, priors, config: FocalConfig):
    """The reference's losses and gradients, in float32 (float64)."""
    wide = torch.float64 if conf.dtype == torch.float64 else torch.float32
    loc, conf = (t.detach().to(wide).requires_grad_() for t in (loc, conf))
    boxes, priors = gt.boxes.to(wide), priors.to(wide)
    losses = reference.focal.focal_loss(loc, conf, boxes, gt.labels, gt.offsets, priors, **asdict(config))
    total = losses[0] * WEIGHTS[0] + losses[1] * WEIGHTS[1]
    return losses, torch.autograd.grad(total, (loc, conf))


def assert_close(found, expected, dtype):
    """Losses and gradients; the gradients in ``dtype``."""
    losses, gradients = found
    for ours, theirs in zip(losses[:2], expected[0][:2], strict=True):
        torch.testing.assert_close(ours.reshape(()).cpu(), theirs, rtol=2e-6, atol=2e-6, equal_nan=True)
    assert losses[2].item() == expected[0][2].item()
    if not all(loss.isfinite() for loss in expected[0][:2]):
        return
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float64: 1e-10}.get(dtype, 2e-5)
    for ours, theirs in zip(gradients, expected[1], strict=True):
        ours = ours.cpu().to(theirs.dtype)
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance / 100)
        if dtype not in (torch.float16, torch.bfloat16):
            # Rows that count nowhere are 0. So may be one of two gradients of a probability that rounds to 1.
            tiny = torch.maximum(ours.abs(), theirs.abs()).amax(-1) < 2.0**-23
            assert torch.equal((ours == 0).all(-1) | tiny, (theirs == 0).all(-1) | tiny)
