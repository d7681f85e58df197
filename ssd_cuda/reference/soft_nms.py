"""Soft-NMS in plain PyTorch (Bodla et al. 2017, "Soft-NMS").

Scores at or below ``score_threshold`` are dropped. Then the highest score is chosen (a NaN before every
number, ties to the lowest index), every other score is lowered by its IoU with the choice, what falls to the
threshold is dropped, and so on. Gaussian: s * exp(-iou^2 / sigma). Linear: s * (1 - iou) where the IoU is >
``iou_threshold``, compared as in NMS. A NaN IoU lowers nothing; a weight of 0 makes an infinite score 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import box_iou
from .exponential import exp
from .nms import exceeds, order_by_score


def weights(
    iou: Tensor, method: str, sigma: float, iou_threshold: float = 0.3, inclusive: bool = False
) -> Tensor:
    """What remains of a score by its IoU with the chosen box."""
    one = torch.ones_like(iou)
    if method == "linear":
        return torch.where(exceeds(iou, iou_threshold, inclusive), (1 - iou).clamp(min=0), one)
    # By a tensor: on a card torch divides by a Python number as a product with its rounded inverse.
    return torch.where(iou.isnan(), one, exp(-(iou * iou) / torch.full_like(iou, sigma)))


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    sigma: float,
    *,
    method: str = "gaussian",
    iou_threshold: float = 0.3,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """[N, 4], [N] -> (int64 indices in the order of choice, their scores at that moment)."""
    wide = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    boxes, scores = boxes.to(wide), scores.to(wide).clone()
    left = (~(scores <= score_threshold)).nonzero()[:, 0]
    chosen, values = [left[:0]], [scores[:0]]
    while len(left):
        best = order_by_score(scores[left])[0]
        current = left[best]
        chosen.append(current[None])
        values.append(scores[current][None].clone())
        left = torch.cat([left[:best], left[best + 1 :]])
        iou = box_iou(boxes[current][None], boxes[left], iou_eps, pixel_offset)[0]
        weight = weights(iou, method, sigma, iou_threshold, inclusive)
        infinite = scores[left].isposinf() & (weight == 0)
        scores[left] = torch.where(infinite, 0, scores[left] * weight)
        left = left[~(scores[left] <= score_threshold)]
    return torch.cat(chosen), torch.cat(values)


def batched_soft_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, score_threshold: float, sigma: float, **options
) -> tuple[Tensor, Tensor]:
    """Soft-NMS of each class alone, in one order for all: (score descending, index ascending)."""
    wide = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    final = torch.zeros(len(scores), dtype=wide, device=scores.device)
    kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    for label in idxs.unique():
        rows = (idxs == label).nonzero()[:, 0]
        index, values = soft_nms(boxes[rows], scores[rows], score_threshold, sigma, **options)
        final[rows[index]], kept[rows[index]] = values, True
    order = order_by_score(final)
    order = order[kept[order]]
    return order, final[order]
