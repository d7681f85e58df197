"""biubug6/Pytorch_Retinaface: faces, two classes.

Quirks: threshold 0.35; a ground truth whose best IoU is below 0.2 is not forced, yet the loop that names
the owner of a best prior runs over all of them, so such a ground truth takes over a prior that is matched
anyway; any label but 0 is a face (-1: one without landmarks); seven negatives a positive; twice the
localisation loss; NMS counts a side as x2 - x1 + 1 pixels and compares in float32. The landmark loss is
not part of this.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_CLASSES = 2
VARIANCE = (0.1, 0.2)
LOC_WEIGHT = 2.0


def point_form(boxes: Tensor) -> Tensor:
    return torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    size = (len(a), len(b), 2)
    high = torch.min(a[:, 2:].unsqueeze(1).expand(size), b[:, 2:].unsqueeze(0).expand(size))
    low = torch.max(a[:, :2].unsqueeze(1).expand(size), b[:, :2].unsqueeze(0).expand(size))
    side = torch.clamp(high - low, min=0)
    inter = side[:, :, 0] * side[:, :, 1]
    area_a = ((a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])).unsqueeze(1).expand_as(inter)
    area_b = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])).unsqueeze(0).expand_as(inter)
    return inter / (area_a + area_b - inter)


def assign(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    none = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
    if len(boxes) == 0:
        return none - 1, none
    overlaps = jaccard(boxes, point_form(priors))
    best_prior_overlap, best_prior_idx = overlaps.max(1, keepdim=True)
    valid_gt = best_prior_overlap[:, 0] >= 0.2
    best_prior_idx_filter = best_prior_idx[valid_gt, :]
    if best_prior_idx_filter.shape[0] <= 0:
        return none - 1, none
    best_truth_overlap, best_truth_idx = overlaps.max(0)
    best_truth_overlap.index_fill_(0, best_prior_idx_filter[:, 0], 2)
    for j in range(best_prior_idx.size(0)):
        best_truth_idx[best_prior_idx[j, 0]] = j
    target = labels[best_truth_idx]
    target[best_truth_overlap < 0.35] = 0
    return torch.where(best_truth_overlap < 0.35, -1, best_truth_idx), target


def encode(matched: Tensor, priors: Tensor) -> Tensor:
    center = (matched[:, :2] + matched[:, 2:]) / 2 - priors[:, :2]
    center = center / (VARIANCE[0] * priors[:, 2:])
    size = torch.log((matched[:, 2:] - matched[:, :2]) / priors[:, 2:]) / VARIANCE[1]
    return torch.cat([center, size], 1)


def loss(
    loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    batch, num_priors, num_classes = conf.shape
    conf_t = torch.zeros(batch, num_priors, dtype=torch.int64, device=conf.device)
    loc_t = torch.zeros_like(loc)
    for i in range(batch):
        owner, conf_t[i] = assign(boxes[i], labels[i], priors)
        rows = owner >= 0
        loc_t[i, rows] = encode(boxes[i][owner[rows]], priors[rows])
    pos = conf_t != 0
    conf_t[pos] = 1
    loss_l = F.smooth_l1_loss(loc[pos], loc_t[pos], reduction="sum")

    flat = conf.reshape(-1, num_classes)
    key = torch.logsumexp(flat, 1, keepdim=True) - flat.gather(1, conf_t.view(-1, 1))
    key = key.detach()
    key[pos.view(-1, 1)] = 0
    loss_idx = key.view(batch, -1).sort(dim=1, descending=True, stable=True).indices
    idx_rank = loss_idx.sort(1).indices
    num_pos = pos.long().sum(1, keepdim=True)
    num_neg = torch.clamp(7 * num_pos, max=num_priors - 1)
    neg = idx_rank < num_neg.expand_as(idx_rank)
    picked = (pos.int() + neg.int()).gt(0)
    loss_c = F.cross_entropy(conf[picked].view(-1, num_classes), conf_t[picked], reduction="sum")
    total = max(float(num_pos.sum()), 1)
    return LOC_WEIGHT * loss_l / total, loss_c / total


def decode(loc: Tensor, priors: Tensor) -> Tensor:
    center = priors[:, :2] + loc[:, :2] * VARIANCE[0] * priors[:, 2:]
    boxes = torch.cat((center, priors[:, 2:] * torch.exp(loc[:, 2:] * VARIANCE[1])), 1)
    boxes[:, :2] -= boxes[:, 2:] / 2
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def py_cpu_nms(dets: Tensor, thresh: float) -> list[int]:
    """dets: [N, 5] corners in pixels and score."""
    x1, y1, x2, y2, scores = dets.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = scores.sort(descending=True, stable=True).indices
    keep = []
    while len(order):
        i = order[0]
        keep.append(int(i))
        rest = order[1:]
        w = (torch.minimum(x2[i], x2[rest]) - torch.maximum(x1[i], x1[rest]) + 1).clamp(min=0)
        h = (torch.minimum(y2[i], y2[rest]) - torch.maximum(y1[i], y1[rest]) + 1).clamp(min=0)
        inter = w * h
        order = rest[inter / (areas[i] + areas[rest] - inter) <= thresh]
    return keep


def detect(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """priors: in pixels, as all boxes are when NMS sees them there."""
    boxes, scores = decode(loc, priors), torch.softmax(conf, 1)[:, 1]
    rows = (scores > 0.02).nonzero()[:, 0]
    rows = rows[scores[rows].sort(descending=True, stable=True).indices[:5000]]
    keep = py_cpu_nms(torch.cat([boxes[rows], scores[rows, None]], 1), 0.4)[:750]
    rows = rows[keep]
    return boxes[rows], scores[rows], torch.ones_like(rows), rows
