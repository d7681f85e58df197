"""What the priors (default boxes) of an SSD are: one frozen description."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .checks import BoxFormat, check_range, check_variances, is_positive
from .options import HasPresets

__all__ = ["PriorSpec"]

Pair = tuple[float, float]


def _pairs(name: str, value: Any) -> tuple[Pair, ...]:
    """One (y, x) pair per level; a number stands for both."""
    rows = tuple((row, row) if isinstance(row, (int, float)) else row for row in value)
    for row in rows:
        if not isinstance(row, tuple) or len(row) != 2 or not all(map(is_positive, row)):
            raise ValueError(f"{name} must hold one positive number or (y, x) pair per level, got {value}")
    return rows


def _rows(name: str, value: Any) -> tuple[tuple[float, ...], ...]:
    """One tuple of positive numbers per level; a number stands for a tuple of one."""
    rows = tuple((row,) if isinstance(row, (int, float)) else row for row in value)
    if not all(isinstance(row, tuple) and all(map(is_positive, row)) for row in rows):
        raise ValueError(f"{name} must hold positive numbers, one or several per level, got {value}")
    return rows


@dataclass(frozen=True)
class PriorSpec(HasPresets, presets="PRIORS"):
    """The priors of every cell of every feature map. Lists are accepted everywhere and kept as tuples.

    A cell has, for each of its sizes s: the square s, the square sqrt(s * s') when there is a larger size
    s', and for each ratio r the box (s sqrt r, s / sqrt r).

    Attributes:
        image_size: (height, width) in pixels.
        feature_maps: per level the number of cells, one number or (rows, columns). None:
            ``ceil(image / step)`` (RetinaFace).
        sizes: per level one size or several (RetinaFace, caffe), in ``units``.
        larger_sizes: s' for every one of ``sizes``; None: no such square.
        ratios: per level the ratios; 1 is the square itself and is passed over.
        boxes: per level the (w, h) of every box of a cell, in fractions of the image, instead of
            ``sizes``, ``larger_sizes`` and ``ratios``: for cells that no rule describes.
        units: of the sizes: ``"pixels"``, or ``"fraction"`` of the image's width and height.
        ratio_order: ``"pairs"``: every ratio gives (w, h) and then (h, w); ``"listed"``: the list names both.
        larger_position: the square of s' comes ``"second"`` or ``"last"`` among the boxes of its size.
        steps: per level the pixels between centres, one number or (y, x). None: image / feature map.
        offset: where in its cell a centre lies, one number or one per level (DSSD).
        layout: within a level ``"cell_major"``: the boxes of a cell are neighbours; ``"box_major"``: the
            cells of a box are (NVIDIA).
        integer_sizes: sizes are cut to integers first (caffe, mmdet).
        clip: ``"cxcywh"`` cuts all four numbers to [0, 1] (the PyTorch ports), ``"wh"`` width and height
            (torchvision), ``"corners"`` the corners (caffe's ``clip: true``); ``"none"``.
        format: of the result.
        pixels: the result is in pixels; else in fractions of the image.
        arithmetic: ``"double"``, rounded once, or ``"float32"``, rounded after every operation (torchvision).
        variances: the x, y, w, h variances that caffe stores beside every prior.

    Example:
        >>> spec = ssd_cuda.PriorSpec.preset("paper")
        >>> spec.num_priors, spec.boxes_per_cell()
        (8732, [4, 6, 6, 6, 4, 4])
    """

    image_size: tuple[int, int] = (300, 300)
    feature_maps: tuple[Any, ...] | None = (38, 19, 10, 5, 3, 1)
    sizes: tuple[Any, ...] = (30, 60, 111, 162, 213, 264)
    larger_sizes: tuple[Any, ...] | None = (60, 111, 162, 213, 264, 315)
    ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    boxes: tuple[tuple[Pair, ...], ...] | None = None
    units: Literal["pixels", "fraction"] = "pixels"
    ratio_order: Literal["pairs", "listed"] = "pairs"
    larger_position: Literal["second", "last"] = "second"
    steps: tuple[Any, ...] | None = (8, 16, 32, 64, 100, 300)
    offset: float | tuple[float, ...] = 0.5
    layout: Literal["cell_major", "box_major"] = "cell_major"
    integer_sizes: bool = False
    clip: Literal["none", "cxcywh", "wh", "corners"] = "none"
    format: BoxFormat = "cxcywh"
    pixels: bool = False
    arithmetic: Literal["double", "float32"] = "double"
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)

    def _check(self) -> None:
        for offset in self.offset if isinstance(self.offset, tuple) else (self.offset,):
            check_range("offset", offset, -math.inf)
        check_variances(self.variances, (4,))
        _pairs("image_size", (self.image_size,))
        if self.steps is not None:
            object.__setattr__(self, "steps", _pairs("steps", self.steps))
        if self.feature_maps is not None:
            grid = _pairs("feature_maps", self.feature_maps)
            if not all(isinstance(side, int) for pair in grid for side in pair):
                raise TypeError(f"feature_maps must hold integers, got {self.feature_maps}")
            object.__setattr__(self, "feature_maps", grid)
        elif self.steps is None:
            raise ValueError("steps must be given where feature_maps is None, got None for both")
        else:
            height, width = self.image_size
            grid = tuple((math.ceil(height / y), math.ceil(width / x)) for y, x in self.steps)
            object.__setattr__(self, "feature_maps", grid)
        self._check_boxes()

    def _check_boxes(self) -> None:
        levels = self.num_levels
        if isinstance(self.offset, tuple) and len(self.offset) != levels:
            raise ValueError(
                f"offset must be one number or one per feature map ({levels}), got {len(self.offset)}"
            )
        names = ["steps"]
        if self.boxes is not None:
            names.append("boxes")
            for row in self.boxes:
                if not isinstance(row, tuple):
                    raise ValueError(f"boxes must hold (width, height) pairs per level, got {self.boxes}")
                _pairs("boxes", row)
        else:
            names += ["sizes", "larger_sizes", "ratios"]
            for name in ("sizes", "larger_sizes", "ratios"):
                if getattr(self, name) is not None:
                    object.__setattr__(self, name, _rows(name, getattr(self, name)))
        for name in names:
            value = getattr(self, name)
            if value is not None and len(value) != levels:
                raise ValueError(f"{name} must have one entry per feature map ({levels}), got {len(value)}")
        if self.boxes is None and self.larger_sizes is not None:
            for k, (own, larger) in enumerate(zip(self.sizes, self.larger_sizes, strict=True)):
                if len(own) != len(larger):
                    raise ValueError(
                        f"larger_sizes[{k}] must have {len(own)} entries like sizes[{k}], got {len(larger)}"
                    )

    @property
    def num_levels(self) -> int:
        assert self.feature_maps is not None
        return len(self.feature_maps)

    @property
    def num_priors(self) -> int:
        """P, the rows of the result."""
        assert self.feature_maps is not None
        counts = self.boxes_per_cell()
        return sum(rows * columns * n for (rows, columns), n in zip(self.feature_maps, counts, strict=True))

    def boxes_per_cell(self) -> list[int]:
        """Boxes of a cell of every level: what the head of that level must predict."""
        return [len(row) for row in self.cell_boxes()]

    def offsets(self) -> list[float]:
        """Per level where in its cell a centre lies."""
        several = self.offset if isinstance(self.offset, tuple) else (self.offset,) * self.num_levels
        return [float(offset) for offset in several]

    def divisors(self) -> list[Pair]:
        """Per level what (row + offset, column + offset) are divided by to give fractions of the image."""
        assert self.feature_maps is not None
        if self.steps is None:
            return [(float(rows), float(columns)) for rows, columns in self.feature_maps]
        height, width = self.image_size
        return [(height / step_y, width / step_x) for step_y, step_x in self.steps]

    def cell_boxes(self) -> list[list[Pair]]:
        """Per level the (w, h) of the boxes of a cell, in fractions of the image, in order."""
        if self.boxes is not None:
            return [list(row) for row in self.boxes]
        result = []
        for k, sizes in enumerate(self.sizes):
            row: list[Pair] = []
            for i, size in enumerate(sizes):
                larger = None if self.larger_sizes is None else self.larger_sizes[k][i]
                row += self._boxes_of_size(size, larger, self.ratios[k])
            result.append(row)
        return result

    def _boxes_of_size(self, size: float, larger: float | None, ratios: Sequence[float]) -> list[Pair]:
        w, h = self._fraction(size)
        shapes = []
        for ratio in ratios:
            if ratio == 1:
                continue
            root = math.sqrt(ratio)
            shapes.append((w * root, h / root))
            if self.ratio_order == "pairs":
                shapes.append((w / root, h * root))
        if larger is not None:
            large_w, large_h = self._fraction(larger)
            square = (math.sqrt(w * large_w), math.sqrt(h * large_h))
            shapes.insert(0 if self.larger_position == "second" else len(shapes), square)
        return [(w, h), *shapes]

    def _fraction(self, size: float) -> Pair:
        if self.integer_sizes:
            size = int(size)
        if self.units == "fraction":
            return float(size), float(size)
        height, width = self.image_size
        return size / width, size / height

    def replace(self, **changes: Any) -> PriorSpec:
        """This spec with some options changed."""
        return replace(self, **changes)
