"""Non-maximum suppression in plain PyTorch.

The order is (score descending, index ascending); a NaN score comes first, as torchvision's stable sort has
it. In that order every box that is not suppressed is kept and suppresses the later ones whose IoU with it
is ``> iou_threshold`` (``>=`` when inclusive).

One rule of comparison on both devices: the IoU has the dtype of the arithmetic (float32 for half inputs), the
threshold is the Python float, and the two are compared in float64. That is what torchvision does on a CPU;
its CUDA kernel rounds the threshold first, which differs where an IoU equals float32(threshold). A kernel
gets the same answer in float32 with a threshold rounded towards -inf for ``>`` and towards +inf for ``>=``.
A NaN IoU suppresses nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import box_iou


def exceeds(iou: Tensor, iou_threshold: float, inclusive: bool = False) -> Tensor:
    """The rule of comparison above."""
    return iou.double() >= iou_threshold if inclusive else iou.double() > iou_threshold


def order_by_score(scores: Tensor) -> Tensor:
    """[N] -> [N] indices by (score descending, index ascending), NaN first, -0 equal to +0."""
    return torch.sort(scores + 0.0, descending=True, stable=True).indices


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> Tensor:
    """boxes: [N, 4] x1, y1, x2, y2; scores: [N] -> int64 indices of the kept boxes in their order."""
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    order = order_by_score(scores)
    boxes = boxes[order]
    suppressed = torch.zeros(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if not suppressed[i]:
            iou = box_iou(boxes[i : i + 1], boxes[i + 1 :], iou_eps, pixel_offset)[0]
            suppressed[i + 1 :] |= exceeds(iou, iou_threshold, inclusive).cpu()
    return order[~suppressed.to(order.device)]


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    *,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> Tensor:
    """NMS within each class alone; idxs: [N] integer class -> int64 indices, in one order for all."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for label in idxs.unique():
        rows = (idxs == label).nonzero()[:, 0]
        keep = nms(
            boxes[rows],
            scores[rows],
            iou_threshold,
            inclusive=inclusive,
            iou_eps=iou_eps,
            pixel_offset=pixel_offset,
        )
        kept[rows[keep]] = True
    order = order_by_score(scores)
    return order[kept[order]]


def nms_batch(
    boxes: Tensor, scores: Tensor, iou_threshold: float, real: Tensor, idxs: Tensor | None = None, **options
) -> list[Tensor]:
    """boxes: [B, N, 4], scores, real, idxs: [B, N] -> the kept indices of each image among its real boxes."""
    kept = []
    for b in range(len(boxes)):
        rows = real[b].nonzero()[:, 0]
        classes = torch.zeros_like(rows) if idxs is None else idxs[b][rows]
        kept.append(rows[batched_nms(boxes[b][rows], scores[b][rows], classes, iou_threshold, **options)])
    return kept
