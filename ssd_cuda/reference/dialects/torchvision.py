"""torchvision 0.26 to 0.29: SSDMatcher, SSD.compute_loss, SSD.postprocess_detections.

Quirks: the forced match has no floor; a prior matched to a label 0 counts in the normaliser and in the
box loss and is mined as a negative; mining takes ceil(3 * positives) rows with the positives at -inf and
without a cap, so that a short image counts some positives twice; boxes are clipped to the image before
NMS.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
IMAGE = (300.0, 300.0)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    def area(boxes: Tensor) -> Tensor:
        return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

    side = (torch.min(a[:, None, 2:], b[:, 2:]) - torch.max(a[:, None, :2], b[:, :2])).clamp(min=0)
    inter = side[:, :, 0] * side[:, :, 1]
    return inter / (area(a)[:, None] + area(b) - inter)


def assign(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """priors: corners in pixels."""
    owner = torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)
    if boxes.numel():
        quality = box_iou(boxes, priors)
        values, owner = quality.max(0)
        owner[values < 0.5] = -1
        for truth, prior in enumerate(quality.max(1).indices.tolist()):
            owner[prior] = truth
    target = torch.zeros_like(owner)
    target[owner >= 0] = labels[owner[owner >= 0]]
    return owner, target


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    p_size, g_size = priors[:, 2:] - priors[:, :2], boxes[:, 2:] - boxes[:, :2]
    p_center, g_center = priors[:, :2] + 0.5 * p_size, boxes[:, :2] + 0.5 * g_size
    center = WEIGHTS[0] * (g_center - p_center) / p_size
    return torch.cat([center, WEIGHTS[2] * torch.log(g_size / p_size)], 1)


def loss(
    loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    num_foreground, bbox_loss, cls_targets = 0, loc.sum() * 0, []
    for i in range(len(loc)):
        owner, target = assign(boxes[i], labels[i], priors)
        rows = torch.where(owner >= 0)[0]
        num_foreground += rows.numel()
        regression = encode(boxes[i][owner[rows]], priors[rows])
        bbox_loss = bbox_loss + F.smooth_l1_loss(loc[i, rows], regression, reduction="sum")
        cls_targets.append(target)
    targets = torch.stack(cls_targets)
    cls_loss = F.cross_entropy(conf.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    foreground = targets > 0
    num_negative = 3.0 * foreground.sum(1, keepdim=True)
    negative_loss = cls_loss.detach().clone()
    negative_loss[foreground] = -math.inf
    idx = negative_loss.sort(dim=1, descending=True, stable=True).indices
    background = idx.sort(1).indices < num_negative
    n = max(1, num_foreground)
    return bbox_loss / n, (cls_loss[foreground].sum() + cls_loss[background].sum()) / n


def decode(loc: Tensor, priors: Tensor) -> Tensor:
    size = priors[:, 2:] - priors[:, :2]
    center = priors[:, :2] + 0.5 * size
    center = loc[:, :2] / WEIGHTS[0] * size + center
    size = torch.exp(torch.clamp(loc[:, 2:] / WEIGHTS[2], max=math.log(1000.0 / 16))) * size
    return torch.cat([center - 0.5 * size, center + 0.5 * size], 1)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    overlaps = box_iou(boxes, boxes).tolist()
    keep: list[int] = []
    for i in scores.sort(descending=True, stable=True).indices.tolist():
        if not any(overlaps[k][i] > threshold for k in keep):
            keep.append(i)
    return keep


def detect(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """priors: corners in pixels."""
    boxes = decode(loc, priors)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(min=0, max=IMAGE[0])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(min=0, max=IMAGE[1])
    scores = F.softmax(conf, -1)
    kept_priors, kept_labels = [], []
    for c in range(1, conf.shape[1]):
        rows = torch.where(scores[:, c] > 0.01)[0]
        rows = rows[scores[rows, c].sort(descending=True, stable=True).indices[:400]]
        rows = rows[nms(boxes[rows], scores[rows, c], 0.45)]
        kept_priors.append(rows)
        kept_labels.append(torch.full_like(rows, c))
    prior, label = torch.cat(kept_priors), torch.cat(kept_labels)
    keep = scores[prior, label].sort(descending=True, stable=True).indices[:200]
    prior, label = prior[keep], label[keep]
    return boxes[prior], scores[prior, label], label, prior
