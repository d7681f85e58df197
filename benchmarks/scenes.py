"""A detector as its loss and its post-process see it: priors, targets, heads before and after training."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch
from torch import Tensor

from ssd_cuda import ops

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # baselines are the tests' oracles

SSD300_PRIORS = 8732


@functools.cache
def ssd300_priors(device: torch.device, pixels: bool = True) -> Tensor:
    """[8732, 4] of torchvision's ssd300: corners in pixels, or cx, cy, w, h of the unit square."""
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    scales, steps = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05], [8, 16, 32, 64, 100, 300]
    generator = DefaultBoxGenerator(ratios, scales=scales, steps=steps)
    maps = [torch.zeros(1, 1, f, f) for f in (38, 19, 10, 5, 3, 1)]
    priors = generator(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)[0].to(device)
    if pixels:
        return priors
    unit = priors / 300
    size = unit[:, 2:] - unit[:, :2]
    return torch.cat([unit[:, :2] + 0.5 * size, size], 1)


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
    trained: bool,
    priors: int = SSD300_PRIORS,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """loc [B, P, 4], conf [B, P, C]. Trained-like: background leads nearly everywhere, few rows are sure."""
    g = torch.Generator().manual_seed(seed)
    loc = 0.5 * torch.randn(batch, priors, 4, generator=g)
    conf = torch.randn(batch, priors, classes, generator=g) * (1.0 if trained else 0.05)
    if trained:
        conf[..., 0] += 9.0
        sure = torch.rand(batch, priors, generator=g) < 0.01
        label = torch.randint(1, classes, (batch, priors), generator=g)
        boost = torch.zeros_like(conf).scatter_(2, label[..., None], 9.0)
        conf += boost * sure[..., None]
    return loc.to(device), conf.to(device)
