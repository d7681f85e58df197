"""The localisation losses of boxes in plain PyTorch, differentiable by autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-7  # torchvision's


def _sides(boxes: Tensor) -> Tensor:
    return boxes[:, 2:] - boxes[:, :2]


def _angle(boxes: Tensor) -> Tensor:
    """The angle of a diagonal: atan(w / h)."""
    width, height = _sides(boxes).unbind(1)
    return torch.atan(width / height)


def iou_loss(boxes: Tensor, truth: Tensor, kind: str) -> Tensor:
    """boxes, truth: [N, 4] x1, y1, x2, y2 -> [N].

    kind: ``"giou"`` (Rezatofighi et al. 2019), ``"diou"`` or ``"ciou"`` (Zheng et al. 2020), as
    torchvision.ops' losses of the same names.
    """
    shared = torch.minimum(boxes[:, 2:], truth[:, 2:]) - torch.maximum(boxes[:, :2], truth[:, :2])
    common = torch.where((shared > 0).all(1), shared.prod(1), 0)
    union = _sides(boxes).prod(1) + _sides(truth).prod(1) - common
    iou = common / (union + EPS)
    hull = torch.maximum(boxes[:, 2:], truth[:, 2:]) - torch.minimum(boxes[:, :2], truth[:, :2])
    if kind == "giou":
        area = hull.prod(1)
        return 1 - iou + (area - union) / (area + EPS)
    away = (boxes[:, :2] + boxes[:, 2:]) / 2 - (truth[:, :2] + truth[:, 2:]) / 2
    loss = 1 - iou + away.square().sum(1) / (hull.square().sum(1) + EPS)
    if kind == "diou":
        return loss
    v = 4 / math.pi**2 * (_angle(truth) - _angle(boxes)).square()
    alpha = (v / (1 - iou + v + EPS)).detach()
    return loss + alpha * v
