"""What the tests of the MultiBox loss share: batches, and the comparison with the reference."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import MiningConfig, MultiBoxConfig, ops, reference

# Options that have kernels of their own.
OTHER_KERNELS = [
    {"label_smoothing": 0.1},
    {"loc_loss": "giou"},
    {"mining": MiningConfig(scope="batch")},
]


def with_zeros(call):
    """call() with the zeros of the gradient prepared by the forward on any device, as on a card."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ops.multibox, "_wants_zeros", lambda conf: conf.requires_grad and torch.is_grad_enabled()
        )
        return call()


def batch_of(
    config: MultiBoxConfig, counts, width=150, classes=6, dtype=torch.float32, device="cpu", ties=False
):
    """loc, conf, gt, priors of a batch whose image i holds counts[i] boxes."""
    batch, total = len(counts), sum(counts)
    loc = torch.randn(batch, width, 4).to(device, dtype)
    conf = (2 * torch.randn(batch, width, classes)).to(device, dtype)
    if ties:  # few distinct rows: equal keys have equal logits, so every way of rounding ties them
        conf = conf[:, :3][:, torch.randint(0, min(width, 3), (width,))]
    first = 0 if config.label_offset or config.background == "last" else 1
    labels = torch.randint(first, first + classes - 1, (total,))
    boxes = random_boxes(total)
    gt = ops.GroundTruth.from_list(boxes.split(list(counts)), labels.split(list(counts))).to(device)
    priors = random_priors(width).to(device)
    if config.match.prior_format == "xyxy":
        priors = reference.boxes.to_xyxy(priors)
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()
    return loc, conf, gt, priors


def targets_with_ignored(ignored, width=120, classes=5, device="cpu"):
    """loc, conf (both differentiable), loc_target, conf_target of three images for the seed's loss: a share
    of the rows is ignored, and many positives let the mining reach the zeros."""
    loc, loc_target = torch.randn(2, 3, width, 4, device=device)
    conf = 2 * torch.randn(3, width, classes, device=device)
    conf[:, :9, 0] = 200.0  # negatives among the zeros
    target = torch.randint(1, classes, (3, width), device=device)
    target[torch.rand(3, width, device=device) < 0.5] = 0
    target[1, 3:] = 0
    target[torch.rand(3, width, device=device) < ignored] = -100
    return loc.requires_grad_(), conf.requires_grad_(), loc_target, target


def certain_negatives(device="cpu"):
    """config, (loc, conf, gt, priors): negatives of loss 0 among the zeros of the positives, all of them
    selected, and a normaliser that counts them."""
    mining = MiningConfig(cap="all", positive_fill="zero", ratio=50.0)
    config = MultiBoxConfig(mining=mining, normalizer="selected")
    loc, conf, gt, priors = batch_of(config, (3, 2), width=40, device=device)
    conf[:, ::2, 0] = 200.0
    return config, (loc, conf, gt, priors)


def reference_loss(loc, conf, gt, priors, config, **changes):
    options = {**dataclasses.asdict(config), **changes}
    return reference.multibox.multibox_loss(loc, conf, gt.boxes, gt.labels, gt.offsets, priors, **options)


def gradients(losses, loc, conf, weights=(1.5, 0.7)):
    total = losses[0] * weights[0] + losses[1] * weights[1]
    return torch.autograd.grad(total, (loc, conf))


def assert_same_loss(loc, conf, gt, priors, config, **changes):
    """Values and gradients of the op are those of the reference."""
    half = loc.dtype in (torch.float16, torch.bfloat16)
    loc, conf = loc.clone().requires_grad_(), conf.clone().requires_grad_()
    result = ops.multibox_loss(loc, conf, gt, priors, config, **changes)
    expected = reference_loss(loc, conf, gt, priors, config, **changes)
    wide = torch.float64 if loc.dtype == torch.float64 else torch.float32
    assert result.localization.dtype == result.classification.dtype == wide
    assert result.num_positives.item() == expected[2].item()
    for mine, theirs in zip(result[:2], expected[:2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
    if not result.localization.isfinite() or not result.classification.isfinite():
        return
    for mine, theirs in zip(gradients(result, loc, conf), gradients(expected, loc, conf), strict=True):
        tolerance = dict(rtol=1e-2, atol=1e-6) if half else dict(rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mine, theirs, **tolerance)
        assert torch.equal(mine == 0, theirs == 0) or half  # zero rows are exactly zero
