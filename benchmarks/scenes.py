"""A detector as its loss and its post-process see it: priors, targets, heads before and after training."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ssd_cuda import ops

SSD300_PRIORS = 8732
SSD300_MAPS = (38, 19, 10, 5, 3, 1)
# torchvision's DefaultBoxGenerator for them.
SSD300: dict[str, Any] = {
    "aspect_ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
    "scales": [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
    "steps": [8, 16, 32, 64, 100, 300],
}
# Logits, as options of head(). Of a trained head background leads nearly everywhere and few rows are sure.
TRAINED: dict[str, Any] = {"background": 9.0, "sure": 0.01}
UNTRAINED: dict[str, Any] = {"spread": 0.05}
_SHAPES = ((30.0, 30.0), (60.0, 60.0), (120.0, 85.0), (85.0, 120.0))  # w, h of the grid's priors, in pixels


def _grid(count: int) -> Tensor:
    """[count, 4] corners in a 300-pixel frame: four shapes in every cell of a square grid."""
    side = max(1, math.ceil(math.sqrt(count / 4)))
    index = torch.arange(count)
    cell = index // 4
    center = torch.stack([cell % side, cell // side], 1).add(0.5) * (300 / side)
    half = torch.tensor(_SHAPES)[index % 4] / 2
    return torch.cat([center - half, center + half], 1)


@functools.cache
def priors(device: torch.device, count: int = SSD300_PRIORS, pixels: bool = True) -> Tensor:
    """[count, 4]: torchvision's ssd300 for its own count, else a grid; corners in a 300-pixel frame, or
    cx, cy, w, h of the unit square."""
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    if count == SSD300_PRIORS:
        maps = [torch.zeros(1, 1, f, f) for f in SSD300_MAPS]
        corners = DefaultBoxGenerator(**SSD300)(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)[0]
    else:
        corners = _grid(count)
    if not pixels:
        unit = corners / 300
        size = unit[:, 2:] - unit[:, :2]
        corners = torch.cat([unit[:, :2] + 0.5 * size, size], 1)
    return corners.to(device)


def targets(
    batch: int, per_image: int, classes: int, device: torch.device, seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Per image: boxes in a 300-pixel frame, many of them small as in COCO, and labels from 1."""
    g = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for _ in range(batch):
        size = 300 * torch.exp(torch.empty(per_image, 2).uniform_(-3.5, -0.3, generator=g))
        corner = torch.rand(per_image, 2, generator=g) * (300 - size)
        boxes.append(torch.cat([corner, corner + size], 1).to(device))
        labels.append(torch.randint(1, classes, (per_image,), generator=g).to(device))
    return boxes, labels


def ground_truth(boxes: list[Tensor], labels: list[Tensor]) -> ops.GroundTruth:
    """The ragged form of the same targets."""
    return ops.GroundTruth.from_list(boxes, labels, degenerate="keep")


def head(
    batch: int,
    classes: int,
    device: torch.device,
    *,
    count: int = SSD300_PRIORS,
    spread: float = 1.0,
    background: float = 0.0,
    sure: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """loc [B, count, 4], conf [B, count, C]: normal logits, the background's on top of ``background``; a
    share ``sure`` of the rows has one class 9 higher."""
    g = torch.Generator(device).manual_seed(seed)
    loc = torch.randn(batch, count, 4, generator=g, device=device).mul_(0.5)
    conf = torch.randn(batch, count, classes, generator=g, device=device).mul_(spread)
    conf[..., 0] += background
    if sure:
        rows = (torch.rand(batch, count, generator=g, device=device) < sure).nonzero(as_tuple=True)
        label = torch.randint(1, classes, rows[0].shape, generator=g, device=device)
        conf[(*rows, label)] += 9.0
    return loc, conf


def head_with_candidates(
    batch: int, classes: int, device: torch.device, *, count: int, candidates: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """``head`` with so many scores above 0.01 in every image, spread evenly, and all others below 1e-4."""
    loc, conf = head(batch, classes, device, count=count, background=16.0, seed=seed)
    cells = count * (classes - 1)
    g = torch.Generator().manual_seed(seed)
    for image in conf:
        jitter = torch.rand(candidates, generator=g, dtype=torch.float64)
        place = ((torch.arange(candidates) + jitter) * cells / candidates).long().clamp(max=cells - 1)
        value = 15 + 2 * torch.rand(candidates, generator=g)
        image[(place // (classes - 1)).to(device), (1 + place % (classes - 1)).to(device)] = value.to(device)
    return loc, conf
