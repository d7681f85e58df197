"""open-mmlab/mmdetection: SSDHead with MaxIoUAssigner, PseudoSampler and DeltaXYWHBBoxCoder.

Quirks: foreground classes are 0 .. C-2 and the background is the last; the union of an IoU is at least
1e-6; the normaliser is the sum over the images of max(1, positives), so an empty image counts as one; dw,
dh are clamped on both sides; boxes are clipped to the image before NMS. That code cuts each level at its
1000 best (prior, class) pairs before NMS, over all classes together; the preset cuts each class at 1000.
Both are the same while no level has more than 1000 candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

STDS = (0.1, 0.1, 0.2, 0.2)
IMAGE = (300.0, 300.0)


def bbox_overlaps(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    low = torch.max(a[:, None, :2], b[None, :, :2])
    high = torch.min(a[:, None, 2:], b[None, :, 2:])
    side = (high - low).clamp(min=0)
    overlap = side[..., 0] * side[..., 1]
    union = area_a[:, None] + area_b[None] - overlap
    return overlap / torch.max(union, union.new_tensor([eps]))


def assign(boxes: Tensor, labels: Tensor, priors: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """priors: corners in pixels; num_classes: of the foreground; assigned: j + 1 for truth j, else 0."""
    assigned = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
    if len(boxes):
        overlaps = bbox_overlaps(boxes, priors)
        max_overlaps, argmax_overlaps = overlaps.max(0)
        gt_max_overlaps, gt_argmax_overlaps = overlaps.max(1)
        positive = max_overlaps >= 0.5
        assigned[positive] = argmax_overlaps[positive] + 1
        for i in range(len(boxes)):
            if gt_max_overlaps[i] >= 0.0:
                assigned[gt_argmax_overlaps[i]] = i + 1
    target = torch.full_like(assigned, num_classes)
    target[assigned > 0] = labels[assigned[assigned > 0] - 1]
    return assigned - 1, target


def bbox2delta(priors: Tensor, gt: Tensor) -> Tensor:
    p_center, p_size = (priors[:, :2] + priors[:, 2:]) * 0.5, priors[:, 2:] - priors[:, :2]
    g_center, g_size = (gt[:, :2] + gt[:, 2:]) * 0.5, gt[:, 2:] - gt[:, :2]
    deltas = torch.cat([(g_center - p_center) / p_size, torch.log(g_size / p_size)], 1)
    return deltas / deltas.new_tensor(STDS)


def smooth_l1(pred: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    diff = (pred - target).abs()
    return torch.where(diff < beta, 0.5 * diff * diff / beta, diff - 0.5 * beta)


def loss(
    loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    num_classes = conf.shape[2] - 1
    assigned = [assign(b, n, priors, num_classes) for b, n in zip(boxes, labels, strict=True)]
    avg_factor = sum(max(int((owner >= 0).sum()), 1) for owner, _ in assigned)
    losses_cls, losses_bbox = [], []
    for i, (owner, target) in enumerate(assigned):
        loss_cls_all = F.cross_entropy(conf[i], target, reduction="none")
        pos_inds = ((target >= 0) & (target < num_classes)).nonzero().reshape(-1)
        neg_inds = (target == num_classes).nonzero().view(-1)
        num_neg_samples = min(3 * pos_inds.size(0), neg_inds.size(0))
        order = loss_cls_all[neg_inds].sort(descending=True, stable=True).indices
        hard = neg_inds[order[:num_neg_samples]]
        losses_cls.append((loss_cls_all[pos_inds].sum() + loss_cls_all[hard].sum()) / avg_factor)
        delta = bbox2delta(priors[pos_inds], boxes[i][owner[pos_inds]])
        losses_bbox.append(smooth_l1(loc[i][pos_inds], delta).sum() / avg_factor)
    return torch.stack(losses_bbox).sum(), torch.stack(losses_cls).sum()


def delta2bbox(priors: Tensor, deltas: Tensor, wh_ratio_clip: float = 16 / 1000) -> Tensor:
    denorm = deltas * deltas.new_tensor(STDS)
    p_center, p_size = (priors[:, :2] + priors[:, 2:]) * 0.5, priors[:, 2:] - priors[:, :2]
    max_ratio = abs(math.log(wh_ratio_clip))
    center = p_center + p_size * denorm[:, :2]
    size = p_size * denorm[:, 2:].clamp(min=-max_ratio, max=max_ratio).exp()
    boxes = torch.cat([center - size * 0.5, center + size * 0.5], 1)
    boxes[:, 0::2].clamp_(min=0, max=IMAGE[0])
    boxes[:, 1::2].clamp_(min=0, max=IMAGE[1])
    return boxes


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    order = scores.sort(descending=True, stable=True).indices.tolist()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep: list[int] = []
    for i in order:
        side = torch.min(boxes[keep, 2:], boxes[i, 2:]) - torch.max(boxes[keep, :2], boxes[i, :2])
        inter = side.clamp(min=0).prod(1)
        if not bool((inter / (area[keep] + area[i] - inter) > threshold).any()):
            keep.append(i)
    return keep


def detect(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level. priors: corners in pixels."""
    scores = conf.softmax(-1)[:, :-1]
    valid = (scores > 0.02).nonzero()
    flat, order = scores[scores > 0.02].sort(descending=True, stable=True)
    valid = valid[order[:1000]]
    score, (prior, label) = flat[:1000], valid.T
    bboxes = delta2bbox(priors[prior], loc[prior])
    kept = []
    for c in range(scores.shape[1]):
        rows = (label == c).nonzero()[:, 0]
        kept += [int(rows[i]) for i in nms(bboxes[rows], score[rows], 0.45)]
    kept.sort(key=lambda row: -float(score[row]))
    rows = torch.tensor(kept[:200], dtype=torch.int64, device=loc.device)
    return bboxes[rows], score[rows], label[rows], prior[rows]
