"""Matrix NMS in plain PyTorch (Wang et al. 2020, SOLOv2): the whole matrix, as the authors have it.

In the order of NMS, c(i) is the greatest IoU of box i with a better box of its class. The score of j becomes
s * min over better i of its class of f(IoU(i, j)) / f(c(i)), at most s; gaussian f(x) = exp(-sigma x^2),
linear f(x) = 1 - x. A NaN IoU is 0, a NaN quotient 1; an infinite score times 0 is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import box_iou
from .exponential import exp
from .nms import order_by_score


def matrix_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None = None,
    *,
    method: str = "gaussian",
    sigma: float = 2.0,
    score_threshold: float = 0.05,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """[N, 4], [N], [N] -> (int64 indices, lowered scores) by (score descending, index ascending)."""
    wide = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    order = order_by_score(scores)
    boxes, lowered = boxes.to(wide)[order], scores.to(wide)[order]
    iou = box_iou(boxes, boxes, iou_eps, pixel_offset)
    iou = torch.where(iou > 0, iou, 0).triu(1)
    if idxs is not None:
        iou = torch.where(idxs[order][:, None] == idxs[order], iou, 0)
    if len(boxes):
        c = iou.amax(0)[:, None]
        if method == "linear":
            quotient = (1 - iou).clamp(min=0) / (1 - c).clamp(min=0)
        else:
            quotient = exp(sigma * (c * c - iou * iou))
        quotient = torch.where((iou > 0) & (quotient < 1), quotient, 1)
        least = quotient.amin(0)
        product = lowered * least
        lowered = torch.where(lowered.isinf() & (least == 0), 0, product)
    final = torch.empty_like(lowered)
    final[order] = lowered
    left = ~(final <= score_threshold)
    order = order_by_score(final)
    order = order[left[order]]
    return order, final[order]
