"""The MultiBox loss as a training script composes it of torch's and torchvision's functions: matching,
cross_entropy with its options, the two sorts of torchvision's ``compute_loss``, a localisation loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .torchvision_ssd import bare_ssd, match


def _localization(model, loc: Tensor, truth: Tensor, priors: Tensor, loc_loss: str) -> Tensor:
    """loc, truth, priors: [N, 4] of the positives."""
    if loc_loss != "smooth_l1":
        import torchvision.ops as tv

        losses = {
            "giou": tv.generalized_box_iou_loss,
            "diou": tv.distance_box_iou_loss,
            "ciou": tv.complete_box_iou_loss,
        }
        return losses[loc_loss](model.box_coder.decode_single(loc, priors), truth, reduction="sum")
    return F.smooth_l1_loss(loc, model.box_coder.encode_single(truth, priors), reduction="sum")


def composed_loss(
    loc: Tensor,
    conf: Tensor,
    boxes: list[Tensor],
    labels: list[Tensor],
    priors: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    loc_loss: str = "smooth_l1",
    whole: bool = False,
) -> tuple[Tensor, Tensor]:
    """(localization, classification), both over the positives. priors: [P, 4] corners; 0: background.
    whole: the batch is mined as one row."""
    model = bare_ssd()
    matched = match(model, boxes, priors)
    positive = torch.stack(matched) >= 0
    target = torch.zeros_like(positive, dtype=torch.int64)
    for row, codes, label in zip(target, matched, labels, strict=True):
        row[codes >= 0] = label[codes[codes >= 0]]
    losses = F.cross_entropy(
        conf.flatten(0, 1), target.flatten(), weight, label_smoothing=label_smoothing, reduction="none"
    ).view_as(target)
    keys = losses.detach().masked_fill(positive, -math.inf)
    if whole:
        keys = keys.view(1, -1)
    rank = keys.sort(1, descending=True).indices.sort(1).indices
    count = positive.view(len(keys), -1).sum(1, keepdim=True)
    negative = (rank < model.neg_to_pos_ratio * count).view_as(positive)
    truth = torch.cat([b[codes[codes >= 0]] for b, codes in zip(boxes, matched, strict=True)])
    own = priors.expand(len(loc), -1, -1)[positive]
    total = positive.sum().clamp(min=1)
    localization = _localization(model, loc[positive], truth, own, loc_loss)
    return localization / total, (losses[positive].sum() + losses[negative].sum()) / total
