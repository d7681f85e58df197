"""dmlc/gluon-cv: SSDTargetGenerator and SSDMultiBoxLoss.

Quirks: bipartite matching first (its floor is 1e-12), then the threshold; negatives are ranked by cross
entropy with the positives at 0 and without a cap; both losses are divided by max(1, positives of all
devices). Its detection is not transcribed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STDS = (0.1, 0.1, 0.2, 0.2)


def corners(priors: Tensor) -> Tensor:
    return torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    side = (torch.min(a[:, None, 2:], b[:, 2:]) - torch.max(a[:, None, :2], b[:, :2])).clamp(min=0)
    inter = side.prod(2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    return inter / (area_a[:, None] + area_b - inter)


def bipartite_matching(iou: Tensor, threshold: float) -> Tensor:
    """iou: [P, G] -> [P] matched column or -1: all pairs in falling order, each taken while both are free."""
    match = torch.full((len(iou),), -1, dtype=torch.int64, device=iou.device)
    taken: set[int] = set()
    flat = iou.flatten()
    for pair in flat.sort(descending=True, stable=True).indices.tolist():
        anchor, truth = divmod(pair, iou.shape[1])
        if flat[pair] <= threshold or len(taken) == iou.shape[1]:
            break
        if match[anchor] < 0 and truth not in taken:
            match[anchor] = truth
            taken.add(truth)
    return match


def assign(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    owner = torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)
    usable = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero()[:, 0]  # the others it would turn into nan
    if len(usable):
        iou = box_iou(corners(priors), boxes[usable])
        first = bipartite_matching(iou, 1e-12)
        best, second = iou.max(1)
        second[best < 0.5] = -1
        owner = torch.where(first >= 0, first, second)
        owner = torch.where(owner >= 0, usable[owner], -1)
    target = torch.zeros_like(owner)
    target[owner >= 0] = labels[owner[owner >= 0]]
    return owner, target


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    code = torch.cat([(center - priors[:, :2]) / priors[:, 2:], torch.log(size / priors[:, 2:])], 1)
    return code / code.new_tensor(STDS)


def loss(
    loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    pairs = [assign(b, n, priors) for b, n in zip(boxes, labels, strict=True)]
    target = torch.stack([t for _, t in pairs])
    positive = target > 0
    total = max(1.0, float(positive.sum()))

    cls_loss = -F.log_softmax(conf, 2).gather(2, target[..., None])[..., 0]
    key = cls_loss.detach() * (positive.to(conf) - 1)  # ascending: the hardest negative first
    rank = key.sort(dim=1, stable=True).indices.sort(1).indices
    hard_negative = rank < positive.sum(1, keepdim=True) * 3.0
    cls_loss = torch.where(positive | hard_negative, cls_loss, torch.zeros_like(cls_loss))

    box_loss = loc.sum() * 0
    for i, (owner, _) in enumerate(pairs):
        rows = positive[i]
        x = (loc[i][rows] - encode(boxes[i][owner[rows]], priors[rows])).abs()
        box_loss = box_loss + torch.where(x > 1.0, x - 0.5, 0.5 * x * x).sum()
    return box_loss / total, cls_loss.sum() / total
