"""Priors of the models of this package, in fractions of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def boxes_per_cell(ratios: Sequence[Sequence[float]]) -> list[int]:
    """Two squares, and a lying and a standing box for each ratio of each map."""
    return [2 + 2 * len(row) for row in ratios]


def layered_priors(
    image_size: tuple[int, int],
    maps: Sequence[tuple[int, int]],
    sizes: Sequence[float],
    ratios: Sequence[Sequence[float]],
    steps: Sequence[float] | None = None,
    clip: bool = False,
) -> Tensor:
    """The paper's priors: per cell s, sqrt(s * s'), then (s sqrt r, s / sqrt r) and its transpose per ratio.

    Args:
        image_size: (height, width) in pixels.
        maps: (rows, columns) of each feature map.
        sizes: s of each map in pixels, and one more, s' of the last.
        ratios: ratios above 1 of each map.
        steps: pixels between the centres of each map; None: the image divided by the map.
        clip: cut all four numbers of every prior to [0, 1].

    Returns:
        ``[P, 4]`` cx, cy, w, h.
    """
    height, width = image_size
    rows = []
    for index, (map_rows, map_columns) in enumerate(maps):
        size, between = sizes[index], math.sqrt(sizes[index] * sizes[index + 1])
        shapes = [(size, size), (between, between)]
        for ratio in ratios[index]:
            root = math.sqrt(ratio)
            shapes += [(size * root, size / root), (size / root, size * root)]
        step_y = steps[index] / height if steps else 1 / map_rows
        step_x = steps[index] / width if steps else 1 / map_columns
        for i in range(map_rows):
            for j in range(map_columns):
                centre = ((j + 0.5) * step_x, (i + 0.5) * step_y)
                rows += [(*centre, w / width, h / height) for w, h in shapes]
    priors = torch.tensor(rows, dtype=torch.float64).float()
    return priors.clamp(0, 1) if clip else priors
