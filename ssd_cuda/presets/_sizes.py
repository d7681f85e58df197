"""Sizes of priors that several codebases share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def linear_scales(low: float, high: float, levels: int) -> tuple[float, ...]:
    """torchvision's default scales, and the paper's: evenly spaced, then 1."""
    return (*(low + (high - low) * k / (levels - 1) for k in range(levels)), 1.0)


def chain(values: Sequence[float]) -> dict[str, Any]:
    """Every size is the next level's predecessor: s' of level k is s of level k + 1."""
    return {"sizes": tuple(values[:-1]), "larger_sizes": tuple(values[1:])}


COCO_300 = chain((21, 45, 99, 153, 207, 261, 315))
SSD512: dict[str, Any] = dict(
    image_size=(512, 512),
    feature_maps=(64, 32, 16, 8, 4, 2, 1),
    steps=(8, 16, 32, 64, 128, 256, 512),
    ratios=((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)
