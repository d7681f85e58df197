"""lufficc/SSD.

Quirks: 1e-5 is added to the union of every IoU in matching; negatives are ranked by -log p_background
with the positives at -inf and without a cap, so a short image takes all its negatives; no floor under the
number of positives; no limit before NMS, 100 detections an image. Its NMS shifts boxes by class in
float32 to separate the classes; here each class is suppressed alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CENTER_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
IOU_THRESHOLD = 0.5


def area_of(low: Tensor, high: Tensor) -> Tensor:
    side = torch.clamp(high - low, min=0.0)
    return side[..., 0] * side[..., 1]


def iou_of(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """Broadcasting corners [..., 4]."""
    inter = area_of(torch.max(a[..., :2], b[..., :2]), torch.min(a[..., 2:], b[..., 2:]))
    return inter / (area_of(a[..., :2], a[..., 2:]) + area_of(b[..., :2], b[..., 2:]) - inter + eps)


def corner_form(locations: Tensor) -> Tensor:
    half = locations[..., 2:] / 2
    return torch.cat([locations[..., :2] - half, locations[..., :2] + half], -1)


def assign(
    boxes: Tensor, labels: Tensor, priors: Tensor, iou_threshold: float = IOU_THRESHOLD
) -> tuple[Tensor, Tensor]:
    if len(boxes) == 0:
        none = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
        return none - 1, none
    ious = iou_of(boxes[None], corner_form(priors)[:, None], 1e-5)  # [P, G]
    best_target, best_target_index = ious.max(1)
    best_prior_index = ious.max(0).indices
    for target_index, prior_index in enumerate(best_prior_index):
        best_target_index[prior_index] = target_index
    best_target.index_fill_(0, best_prior_index, 2)
    target = labels[best_target_index]
    target[best_target < iou_threshold] = 0
    return torch.where(best_target < iou_threshold, -1, best_target_index), target


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return torch.cat(
        [
            (center - priors[:, :2]) / priors[:, 2:] / CENTER_VARIANCE,
            torch.log(size / priors[:, 2:]) / SIZE_VARIANCE,
        ],
        1,
    )


def hard_negative_mining(key: Tensor, labels: Tensor) -> Tensor:
    """key: [B, P], labels: [B, P] -> bool [B, P], positives and three times as many of the hardest others."""
    positive = labels > 0
    num_negatives = positive.long().sum(1, keepdim=True) * 3
    key = key.clone()
    key[positive] = float("-inf")
    indices = key.sort(dim=1, descending=True, stable=True).indices
    return positive | (indices.sort(1).indices < num_negatives)


def loss(
    loc: Tensor,
    conf: Tensor,
    boxes: list[Tensor],
    labels: list[Tensor],
    priors: Tensor,
    iou_threshold: float = IOU_THRESHOLD,
) -> tuple[Tensor, Tensor]:
    owners, targets = zip(
        *(assign(b, n, priors, iou_threshold) for b, n in zip(boxes, labels, strict=True)), strict=True
    )
    label = torch.stack(targets)
    with torch.no_grad():
        mask = hard_negative_mining(-F.log_softmax(conf, 2)[..., 0], label)
    classification = F.cross_entropy(conf[mask], label[mask], reduction="sum")
    localization = loc.sum() * 0
    for i, owner in enumerate(owners):
        rows = label[i] > 0
        gt = encode(boxes[i][owner[rows]], priors[rows])
        localization = localization + F.smooth_l1_loss(loc[i][rows], gt, reduction="sum")
    positives = (label > 0).sum()
    return localization / positives, classification / positives


def decode(loc: Tensor, priors: Tensor) -> Tensor:
    center = loc[:, :2] * CENTER_VARIANCE * priors[:, 2:] + priors[:, :2]
    size = torch.exp(loc[:, 2:] * SIZE_VARIANCE) * priors[:, 2:]
    return corner_form(torch.cat([center, size], 1))


def greedy(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    left = scores.sort(descending=True, stable=True).indices
    keep = []
    while len(left):
        current, left = left[0], left[1:]
        keep.append(int(current))
        left = left[~(iou_of(boxes[left], boxes[current], 0.0) > threshold)]
    return keep


def detect(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    boxes, scores = decode(loc, priors), torch.softmax(conf, 1)
    kept = []
    for c in range(1, conf.shape[1]):
        rows = (scores[:, c] > 0.01).nonzero()[:, 0]
        rows = rows[greedy(boxes[rows], scores[rows, c], 0.45)]
        kept += [(float(scores[r, c]), c, int(r)) for r in rows]
    kept.sort(key=lambda row: -row[0])
    label = torch.tensor([row[1] for row in kept[:100]], dtype=torch.int64, device=loc.device)
    prior = torch.tensor([row[2] for row in kept[:100]], dtype=torch.int64, device=loc.device)
    return boxes[prior], scores[prior, label], label, prior
