"""DIoU-NMS in plain PyTorch (Zheng et al. 2020): NMS by IoU - d^2 / c^2."""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import box_iou
from .nms import exceeds, order_by_score


def box_diou(a: Tensor, b: Tensor, iou_eps: float = 0.0, pixel_offset: float = 0.0) -> Tensor:
    """[N, 4], [M, 4] -> [N, M]: d the distance of the centres, c the diagonal of the box around both."""
    twice = (a[:, None, :2] + a[:, None, 2:]) - (b[:, :2] + b[:, 2:])
    size = torch.maximum(a[:, None, 2:], b[:, 2:]) - torch.minimum(a[:, None, :2], b[:, :2])
    d, c = (v * v for v in (twice, size))
    distance = (d[..., 0] + d[..., 1]) / (4 * (c[..., 0] + c[..., 1]))
    return box_iou(a, b, iou_eps, pixel_offset) - distance


def diou_nms(
    boxes: Tensor,
    scores: Tensor,
    diou_threshold: float,
    idxs: Tensor | None = None,
    *,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> Tensor:
    """[N, 4], [N], [N] -> int64 indices of the kept boxes, in the order of NMS."""
    wide = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    order = order_by_score(scores)
    boxes = boxes.to(wide)[order]
    classes = torch.zeros_like(order) if idxs is None else idxs[order]
    removed = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes)):
        if not removed[i]:
            diou = box_diou(boxes[i : i + 1], boxes[i + 1 :], iou_eps, pixel_offset)[0]
            same = classes[i + 1 :] == classes[i]
            removed[i + 1 :] |= exceeds(diou, diou_threshold, inclusive) & same
    return order[~removed]
