"""Weighted boxes fusion in plain PyTorch (Solovyev et al. 2021, the package ensemble-boxes).

Per image and label the boxes of all models come by (score times the weight of their model descending, index
ascending). A box joins the cluster whose fused box it overlaps most, if by more than ``iou_thr``, the earlier
one on ties; else it begins one. A fused box is the mean of its boxes by their weighted scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .boxes import box_iou
from .nms import exceeds


@dataclass
class Cluster:
    label: int
    members: list[int] = field(default_factory=list)


def _descending(score: Tensor) -> tuple[bool, float]:
    """What sorts scores as NMS does: NaN, as of an infinite score and a weight of 0, before every number."""
    value = float(score)
    return (True, -value) if value == value else (False, 0.0)


def _clean(box: Tensor, clip_size: Sequence[float] | None) -> Tensor | None:
    """Corners in order, clipped; None for a box without an area or with a side that is not finite."""
    low, high = torch.minimum(box[:2], box[2:]), torch.maximum(box[:2], box[2:])
    if clip_size is not None:
        size = box.new_tensor(clip_size)
        low, high = (torch.minimum(x.clamp(min=0), size) for x in (low, high))
    usable = bool((high > low).all()) and bool(torch.cat([low, high]).isfinite().all())
    return torch.cat([low, high]) if usable else None


def _fused(members: list[int], boxes: Tensor, scores: Tensor) -> Tensor:
    """A sum of scores that is 0, or no number, leaves the box as it is."""
    fused, total, score = boxes[members[0]], torch.zeros_like(boxes[0]), torch.zeros_like(scores[0])
    for i in members:
        total, score = total + scores[i] * boxes[i], score + scores[i]
        if i != members[0] and score > 0:
            fused = total / score
    return fused


def _confidence(
    members: list[int], scores: Tensor, models: list[int], weights: Tensor, conf_type: str, overflow: bool
) -> Tensor:
    own = [models[i] for i in members]
    score = sum((scores[i] for i in members), scores.new_zeros(()))
    weight = sum((weights[m] for m in own), weights.new_zeros(()))
    present = sum((weights[m] for m in sorted(set(own))), weights.new_zeros(()))
    if conf_type == "max":
        return max(scores[i] for i in members) / weights.max()
    if conf_type == "box_and_model_avg":
        return score / weight * present / weights.sum()
    if conf_type == "absent_model_aware_avg":
        return score / (weight + (weights.sum() - present))
    if overflow or len(members) <= len(weights):
        return score / weights.sum()
    return score / len(members) * len(weights) / weights.sum()


def weighted_boxes_fusion(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    weights: Sequence[float],
    iou_thr: float = 0.55,
    skip_box_thr: float = 0.0,
    conf_type: str = "avg",
    allows_overflow: bool = False,
    clip_size: Sequence[float] | None = (1.0, 1.0),
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """boxes: [M, N, 4], scores, labels, real: [M, N] of one image -> boxes [K, 4], scores [K], labels [K] by
    (score descending, first box of the cluster ascending), and the row of every box, [M, N], -1 for none.
    """
    shape, own = scores.shape, scores.new_tensor(weights)
    per_model = shape[1]
    boxes, scores, labels = boxes.reshape(-1, 4).clone(), scores.flatten().clone(), labels.flatten()
    taken = []
    for i in range(len(scores)):
        box = _clean(boxes[i], clip_size)
        if box is None or not scores[i] >= skip_box_thr or (real is not None and not real.flatten()[i]):
            continue
        boxes[i], scores[i] = box, scores[i] * own[i // per_model]
        taken.append(i)
    taken.sort(key=lambda i: (_descending(scores[i]), i))
    clusters: list[Cluster] = []
    fused: list[Tensor] = []
    for i in taken:
        best, found = -1.0, -1
        for k, cluster in enumerate(clusters):
            if cluster.label != int(labels[i]):
                continue
            iou = box_iou(fused[k][None], boxes[i][None])[0, 0]
            if exceeds(iou, iou_thr) and float(iou) > best:
                best, found = float(iou), k
        if found < 0:
            clusters.append(Cluster(int(labels[i])))
            fused.append(boxes[i])
        clusters[found].members.append(i)
        fused[found] = _fused(clusters[found].members, boxes, scores)
    models = [i // per_model for i in range(len(scores))]
    values = [_confidence(c.members, scores, models, own, conf_type, allows_overflow) for c in clusters]
    order = sorted(range(len(clusters)), key=lambda k: (_descending(values[k]), clusters[k].members[0]))
    rows = torch.full((len(scores),), -1, dtype=torch.int64)
    for row, k in enumerate(order):
        rows[clusters[k].members] = row
    empty = boxes.new_zeros(0, 4), scores.new_zeros(0)
    return (
        torch.stack([fused[k] for k in order]) if order else empty[0],
        torch.stack([values[k] for k in order]) if order else empty[1],
        torch.tensor([clusters[k].label for k in order], dtype=torch.int64),
        rows.reshape(shape),
    )
