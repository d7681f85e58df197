"""Priors by plain loops: one number at a time, in the order that the spec's fields describe."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config import PriorSpec


def _cell_shapes(spec: PriorSpec, level: int) -> list[tuple[float, float]]:
    """(w, h) in fractions of the image, written out from the definition."""
    if spec.boxes is not None:
        return list(spec.boxes[level])
    height, width = spec.image_size
    across, down = (width, height) if spec.units == "pixels" else (1, 1)
    shapes = []
    for index, given in enumerate(spec.sizes[level]):
        size = math.floor(given) if spec.integer_sizes else given
        shapes.append((size / across, size / down))
        between = None
        if spec.larger_sizes is not None:
            larger = spec.larger_sizes[level][index]
            larger = math.floor(larger) if spec.integer_sizes else larger
            between = (math.sqrt(size * larger) / across, math.sqrt(size * larger) / down)
        if between and spec.larger_position == "second":
            shapes.append(between)
        for ratio in spec.ratios[level]:
            if ratio == 1:
                continue
            shapes.append((size * ratio**0.5 / across, size / ratio**0.5 / down))
            if spec.ratio_order == "pairs":
                shapes.append((size / ratio**0.5 / across, size * ratio**0.5 / down))
        if between and spec.larger_position == "last":
            shapes.append(between)
    return shapes


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _prior(spec: PriorSpec, level: int, row: int, column: int, shape: tuple[float, float]) -> list[float]:
    height, width = spec.image_size
    rows, columns = spec.feature_maps[level]  # type: ignore[index]
    step_y, step_x = (height / rows, width / columns) if spec.steps is None else spec.steps[level]
    offset = spec.offset[level] if isinstance(spec.offset, tuple) else spec.offset
    cx, cy = (column + offset) * step_x / width, (row + offset) * step_y / height
    w, h = shape
    if spec.clip == "cxcywh":
        cx, cy, w, h = _unit(cx), _unit(cy), _unit(w), _unit(h)
    if spec.clip == "wh":
        w, h = _unit(w), _unit(h)
    x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    if spec.clip == "corners":
        x1, y1, x2, y2 = _unit(x1), _unit(y1), _unit(x2), _unit(y2)
        cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    across, down = (width, height) if spec.pixels else (1, 1)
    first, second, third, fourth = (x1, y1, x2, y2) if spec.format == "xyxy" else (cx, cy, w, h)
    return [first * across, second * down, third * across, fourth * down]


def generate_priors(spec: PriorSpec) -> Tensor:
    """[P, 4] float64. ``spec.arithmetic`` is not followed: this is the exact value that it rounds."""
    values = []
    for level, (rows, columns) in enumerate(spec.feature_maps):  # type: ignore[arg-type]
        cells = [(i, j) for i in range(int(rows)) for j in range(int(columns))]
        shapes = _cell_shapes(spec, level)
        if spec.layout == "cell_major":
            places = [(cell, shape) for cell in cells for shape in shapes]
        else:
            places = [(cell, shape) for shape in shapes for cell in cells]
        values += [_prior(spec, level, *cell, shape) for cell, shape in places]
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 4)
