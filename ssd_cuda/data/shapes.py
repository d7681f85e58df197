"""Labelled shapes, drawn on the fly: a detection task that needs no download.

Circles, squares, triangles, stars and crosses of any colour and size, a little turned, over gradients with
blotches and scratches, in noise, partly hidden by each other. Image ``i`` of a split depends on the seed,
the split and ``i`` alone, whoever asks and in whatever order (under one version of numpy and pillow).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._extras import require
from .dataset import DataError, DetectionDataset, make_target

CLASSES = ("circle", "square", "triangle", "star", "cross")
_SPLITS = {"train": 400, "test": 100}  # images when not told otherwise
_RADII = (0.06, 0.24)  # of the shorter side
_SUPERSAMPLE = 2  # drawn this much larger, then averaged: smooth outlines
_HIDDEN = 0.45  # an object of which less than this remains visible is difficult
_LOST = 0.15  # ... and less than this is not drawn at all


def _outline(kind: str) -> np.ndarray:
    """Corners of a shape around the origin, within the unit circle.  # [n, 2]"""
    if kind == "circle":
        angles, radii = np.arange(48) * 2 * math.pi / 48, np.ones(48)
    elif kind == "square":
        angles, radii = (np.arange(4) + 0.5) * math.pi / 2, np.ones(4)
    elif kind == "triangle":
        angles, radii = np.arange(3) * 2 * math.pi / 3, np.ones(3)
    elif kind == "star":
        angles, radii = np.arange(10) * math.pi / 5, np.where(np.arange(10) % 2, 0.42, 1.0)
    else:
        a, b = 0.32, 0.95  # half width and half length of the cross's bars
        return np.array([(a, b), (a, a), (b, a), (b, -a), (a, -a), (a, -b),
                         (-a, -b), (-a, -a), (-b, -a), (-b, a), (-a, a), (-a, b)])  # fmt: skip
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)


_OUTLINES = [_outline(kind) for kind in CLASSES]


class ShapesDataset(DetectionDataset):
    """The built-in data set; see :class:`~ssd_cuda.data.dataset.DetectionDataset`.

    An object of which others hide more than half is flagged ``difficult``.

    Args:
        split: ``"train"`` or ``"test"``.
        length: number of images; None: 400 and 100.
        size: (height, width) of the images in pixels.
        seed: another seed gives another data set of the same kind.
        radii: smallest and largest radius of an object, as parts of the shorter side.

    Raises:
        DataError: another split, a side below 64 pixels, radii that are not in order within (0, 0.5).

    Example:
        >>> image, target = data.ShapesDataset("train", length=2, size=(96, 128))[0]
        >>> image.shape, target["boxes"].shape[1]
        (torch.Size([3, 96, 128]), 4)
    """

    classes = CLASSES

    def __init__(
        self,
        split: str = "train",
        *,
        length: int | None = None,
        size: tuple[int, int] = (240, 320),
        seed: int = 0,
        radii: tuple[float, float] = _RADII,
    ) -> None:
        if split not in _SPLITS:
            raise DataError(f"split of the built-in shapes must be 'train' or 'test', got {split!r}")
        if min(size) < 64:
            raise DataError(f"size of the built-in shapes must be at least 64 pixels a side, got {size}")
        if not 0 < radii[0] <= radii[1] < 0.5:
            raise DataError(
                f"radii of the built-in shapes must be two ascending numbers between 0 and 0.5, got {radii}"
            )
        self.length = _SPLITS[split] if length is None else length
        self.size, self.radii = size, radii
        self._key = (seed, list(_SPLITS).index(split))

    def __len__(self) -> int:
        return self.length

    def image(self, index: int) -> Tensor:
        return self[index][0]

    def target(self, index: int) -> dict[str, Any]:
        rng = self._rng(index)
        return self._target(index, _place(rng, *self.size, self.radii))

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        tv_tensors = require("torchvision.tv_tensors", "the built-in shapes")
        rng = self._rng(index)
        scene = _place(rng, *self.size, self.radii)
        pixels = _paint(rng, scene, *self.size)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), device="cpu")
        return image, self._target(index, scene)

    def _rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < self.length:
            raise IndexError(f"index must lie in [0, {self.length}), got {index}")
        return np.random.default_rng((*self._key, index))

    def _target(self, index: int, scene: list[_Shape]) -> dict[str, Any]:
        boxes = torch.tensor([shape.box for shape in scene], dtype=torch.float32, device="cpu").reshape(-1, 4)
        labels = torch.tensor([shape.kind + 1 for shape in scene], dtype=torch.int64, device="cpu")
        difficult = torch.tensor([shape.visible < _HIDDEN for shape in scene], dtype=torch.bool, device="cpu")
        return make_target(boxes, labels, self.size, index, difficult=difficult)


class _Shape:
    """One object: its class index, its corners in pixels, its box, how much of it is visible."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, radii: tuple[float, float]) -> None:
        self.kind = int(rng.integers(len(CLASSES)))
        side = min(height, width)
        # Log-uniform radius: as many small objects as large ones.
        radius = side * math.exp(rng.uniform(math.log(radii[0]), math.log(radii[1])))
        angle = rng.uniform(-0.5, 0.5)  # radians
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        stretch = np.array([1.0, rng.uniform(0.8, 1.0)])
        corners = (_OUTLINES[self.kind] * radius * stretch) @ turn.T
        low, high = corners.min(0), corners.max(0)
        centre = rng.uniform(-low, np.array([width, height]) - high)
        self.corners = corners + centre  # [n, 2]
        self.box = [*(low + centre), *(high + centre)]
        self.visible = 1.0

    def overlap(self, other: _Shape) -> float:
        """Intersection of the boxes over the smaller of them."""
        a, b = self.box, other.box
        w = min(a[2], b[2]) - max(a[0], b[0])
        h = min(a[3], b[3]) - max(a[1], b[1])
        areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        return max(w, 0.0) * max(h, 0.0) / min(areas)


def _place(
    rng: np.random.Generator, height: int, width: int, radii: tuple[float, float] = _RADII
) -> list[_Shape]:
    """Objects from back to front, with how much of each box the later ones leave visible."""
    scene: list[_Shape] = []
    for _ in range(int(rng.integers(2, 9))):
        shape = _Shape(rng, height, width, radii)
        if all(shape.overlap(other) < 0.85 for other in scene):
            scene.append(shape)
    covered = np.zeros((height // 2, width // 2), bool)  # by the objects in front, at half resolution
    for shape in reversed(scene):
        x1, y1, x2, y2 = (round(float(v) / 2) for v in shape.box)
        patch = covered[y1:y2, x1:x2]
        shape.visible = 1.0 - float(patch.mean()) if patch.size else 1.0
        if shape.visible >= _LOST:
            patch[:] = True
    return [shape for shape in scene if shape.visible >= _LOST]


def _colour(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(20, 236, 3)


def _paint(rng: np.random.Generator, scene: list[_Shape], height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]"""
    image_module = require("PIL.Image", "the built-in shapes")
    draw_module = require("PIL.ImageDraw", "the built-in shapes")
    scale = _SUPERSAMPLE
    # A smooth background: a few random colours, enlarged.
    muted = 0.5 * _colour(rng) + 0.5 * rng.integers(40, 216)
    coarse = np.clip(muted + rng.uniform(-45, 45, (3, 4, 1)) + rng.uniform(-25, 25, (3, 4, 3)), 0, 255)
    canvas = image_module.fromarray(coarse.astype(np.uint8))
    canvas = canvas.resize((width * scale, height * scale), image_module.BICUBIC)
    draw = draw_module.Draw(canvas)
    back = coarse.mean((0, 1))
    for _ in range(int(rng.integers(4, 10))):  # blotches and scratches: round or straight, but no objects
        x, y = rng.uniform(0, width * scale), rng.uniform(0, height * scale)
        tone = tuple(int(v) for v in np.clip(back + rng.integers(-70, 71, 3), 0, 255))
        if rng.random() < 0.5:
            dx, dy = rng.uniform(-0.5, 0.5, 2) * width * scale
            draw.line([x, y, x + dx, y + dy], fill=tone, width=int(rng.integers(1, 7)))
        else:
            w, h = rng.uniform(2, 7, 2) * scale
            draw.ellipse([x - w, y - h, x + w, y + h], fill=tone)
    for shape in scene:
        fill = _colour(rng)
        while np.abs(fill - back).sum() < 140:  # seen against the background
            fill = _colour(rng)
        corners = [tuple(corner) for corner in shape.corners * scale]
        draw.polygon(corners, fill=tuple(int(v) for v in fill))
        if rng.random() < 0.4:
            edge = tuple(int(v) for v in fill * rng.uniform(0.3, 0.8))
            draw.line([*corners, corners[0]], fill=edge, width=2 * scale, joint="curve")
    small = np.asarray(canvas.reduce(scale), np.float32)
    noise = rng.standard_normal(small.shape, np.float32) * np.float32(rng.uniform(3, 12))
    return np.clip(small + noise, 0, 255).astype(np.uint8)
