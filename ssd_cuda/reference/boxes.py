"""Boxes in plain PyTorch: format changes, IoU and the centre-size code."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .exponential import exp


def to_xyxy(boxes: Tensor) -> Tensor:
    """cx, cy, w, h -> x1, y1, x2, y2; [..., 4]."""
    center, half = boxes[..., :2], 0.5 * boxes[..., 2:]
    return torch.cat([center - half, center + half], -1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 -> cx, cy, w, h; [..., 4]."""
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes[..., :2] + 0.5 * size, size], -1)


def box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 0.0, pixel_offset: float = 0.0) -> Tensor:
    """[N, M] of x1, y1, x2, y2 boxes; ``pixel_offset`` 1 measures a side as x2 - x1 + 1."""

    def area(b: Tensor) -> Tensor:
        return (b[..., 2] - b[..., 0] + pixel_offset) * (b[..., 3] - b[..., 1] + pixel_offset)

    top_left = torch.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    inter = (bottom_right - top_left + pixel_offset).clamp(min=0).prod(-1)
    return inter / (area(boxes1)[:, None] + area(boxes2)[None] - inter + eps)


def _centers_and_variances(
    priors: Tensor, variances: Sequence[float] | Tensor, prior_format: str
) -> tuple[Tensor, Tensor]:
    centers = to_cxcywh(priors) if prior_format == "xyxy" else priors
    if not isinstance(variances, Tensor):
        numbers = list(variances)
        if len(numbers) == 2:
            numbers = [numbers[0], numbers[0], numbers[1], numbers[1]]
        variances = centers.new_tensor(numbers)
    return centers, variances


def encode(
    boxes: Tensor,
    priors: Tensor,
    variances: Sequence[float] | Tensor = (0.1, 0.2),
    prior_format: str = "cxcywh",
) -> Tensor:
    """[..., P, 4] boxes -> offsets."""
    centers, variance = _centers_and_variances(priors, variances, prior_format)
    target = to_cxcywh(boxes)
    offset = (target[..., :2] - centers[..., :2]) / centers[..., 2:]
    scale = torch.log(target[..., 2:] / centers[..., 2:])
    return torch.cat([offset, scale], -1) / variance


def decode(
    loc: Tensor,
    priors: Tensor,
    variances: Sequence[float] | Tensor = (0.1, 0.2),
    prior_format: str = "cxcywh",
    max_log_scale: float | None = None,
    symmetric_log_scale: bool = False,
) -> Tensor:
    """[..., P, 4] offsets -> x1, y1, x2, y2."""
    centers, variance = _centers_and_variances(priors, variances, prior_format)
    scaled = loc * variance
    limit = math.inf if max_log_scale is None else max_log_scale
    log_size = scaled[..., 2:].clamp(min=-limit if symmetric_log_scale else None, max=limit)
    center = centers[..., :2] + scaled[..., :2] * centers[..., 2:]
    size = centers[..., 2:] * exp(log_size)
    return to_xyxy(torch.cat([center, size], -1))
