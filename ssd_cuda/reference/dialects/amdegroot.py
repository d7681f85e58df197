"""amdegroot/ssd.pytorch: the port that most later PyTorch code descends from.

Quirks: labels start at 0 and get 1 added inside; several ground truths that claim one prior: the last has
it; positives take part in the mining with the key 0; the losses are divided by the positives of the batch
without a floor, so a batch without any gives nan; 200 detections per class, and no limit per image. Its
log-sum-exp subtracts the maximum of the whole batch; here that of the row, the same number wherever that
one does not underflow. Its NMS drops a box whose IoU is NaN; here such a box stays.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

VARIANCES = (0.1, 0.2)


def point_form(boxes: Tensor) -> Tensor:
    return torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """[A, 4], [B, 4] corners -> [A, B]."""
    high = torch.min(a[:, None, 2:], b[None, :, 2:])
    low = torch.max(a[:, None, :2], b[None, :, :2])
    side = torch.clamp(high - low, min=0)
    inter = side[..., 0] * side[..., 1]
    area_a = ((a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]))[:, None]
    area_b = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]))[None]
    return inter / (area_a + area_b - inter)


def encode(matched: Tensor, priors: Tensor) -> Tensor:
    center = (matched[:, :2] + matched[:, 2:]) / 2 - priors[:, :2]
    center = center / (VARIANCES[0] * priors[:, 2:])
    size = torch.log((matched[:, 2:] - matched[:, :2]) / priors[:, 2:]) / VARIANCES[1]
    return torch.cat([center, size], 1)


def decode(loc: Tensor, priors: Tensor) -> Tensor:
    boxes = torch.cat(
        (
            priors[:, :2] + loc[:, :2] * VARIANCES[0] * priors[:, 2:],
            priors[:, 2:] * torch.exp(loc[:, 2:] * VARIANCES[1]),
        ),
        1,
    )
    boxes[:, :2] -= boxes[:, 2:] / 2
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def assign(boxes: Tensor, labels: Tensor, priors: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    if len(boxes) == 0:
        none = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
        return none - 1, none
    overlaps = jaccard(boxes, point_form(priors))
    best_prior_idx = overlaps.max(1).indices
    best_truth_overlap, best_truth_idx = overlaps.max(0)
    best_truth_overlap.index_fill_(0, best_prior_idx, 2)
    for j in range(len(best_prior_idx)):
        best_truth_idx[best_prior_idx[j]] = j
    target = labels[best_truth_idx] + 1
    target[best_truth_overlap < threshold] = 0
    return torch.where(best_truth_overlap < threshold, -1, best_truth_idx), target


def loss(
    loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    batch, num_priors, num_classes = conf.shape
    loc_t = torch.zeros_like(loc)
    conf_t = torch.zeros(batch, num_priors, dtype=torch.int64, device=conf.device)
    for i in range(batch):
        owner, conf_t[i] = assign(boxes[i], labels[i], priors)
        if len(boxes[i]):
            loc_t[i] = encode(boxes[i][owner.clamp(min=0)], priors)
    pos = conf_t > 0
    loss_l = F.smooth_l1_loss(loc[pos], loc_t[pos], reduction="sum")

    flat = conf.reshape(-1, num_classes)
    loss_c = torch.logsumexp(flat, 1, keepdim=True) - flat.gather(1, conf_t.view(-1, 1))
    loss_c = loss_c.detach().view(batch, -1)
    loss_c[pos] = 0
    loss_idx = loss_c.sort(dim=1, descending=True, stable=True).indices
    idx_rank = loss_idx.sort(1).indices
    num_pos = pos.long().sum(1, keepdim=True)
    num_neg = torch.clamp(3 * num_pos, max=num_priors - 1)
    neg = idx_rank < num_neg.expand_as(idx_rank)
    picked = pos | neg
    loss_c = F.cross_entropy(conf[picked], conf_t[picked], reduction="sum")
    total = num_pos.sum()
    return loss_l / total, loss_c / total


def nms(boxes: Tensor, scores: Tensor, overlap: float = 0.45, top_k: int = 200) -> list[int]:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    idx = scores.sort(descending=True, stable=True).indices[:top_k]
    keep = []
    while len(idx):
        i, idx = int(idx[0]), idx[1:]
        keep.append(i)
        low = torch.max(boxes[idx, :2], boxes[i, :2])
        high = torch.min(boxes[idx, 2:], boxes[i, 2:])
        side = torch.clamp(high - low, min=0)
        inter = side[:, 0] * side[:, 1]
        iou = inter / ((area[idx] - inter) + area[i])
        idx = idx[~(iou > overlap)]
    return keep


def detect(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    decoded = decode(loc, priors)
    scores = torch.softmax(conf, 1)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for cl in range(1, conf.shape[1]):
        rows = scores[:, cl].gt(0.01).nonzero()[:, 0]
        rows = rows[nms(decoded[rows], scores[rows, cl])]
        found.append((decoded[rows], scores[rows, cl], torch.full_like(rows, cl), rows))
    boxes, score, label, prior = (torch.cat(column) for column in zip(*found, strict=True))
    return boxes, score, label, prior
