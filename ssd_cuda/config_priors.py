"""What the priors (default boxes) of an SSD are: one frozen description, and presets of the codebases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from .config import BoxFormat, check_choice, check_range

__all__ = ["PriorSpec"]

Pair = tuple[float, float]


def _freeze(value: Any) -> Any:
    """Lists become tuples all the way down, so that a spec made from lists can be a cache key."""
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(part) for part in value)
    return value


def _pairs(name: str, value: Any) -> tuple[Pair, ...]:
    """One (y, x) pair per level; a number stands for both."""
    rows = tuple((row, row) if isinstance(row, (int, float)) else row for row in value)
    for row in rows:
        if not isinstance(row, tuple) or len(row) != 2 or not all(v > 0 for v in row):
            raise ValueError(f"{name} must hold one positive number or (y, x) pair per level, got {value}")
    return rows


def _rows(name: str, value: Any) -> tuple[tuple[float, ...], ...]:
    """One tuple of positive numbers per level; a number stands for a tuple of one."""
    rows = tuple((row,) if isinstance(row, (int, float)) else row for row in value)
    if not all(isinstance(row, tuple) and all(v > 0 for v in row) for row in rows):
        raise ValueError(f"{name} must hold positive numbers, one or several per level, got {value}")
    return rows


@dataclass(frozen=True)
class PriorSpec:
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
        offset: where in its cell a centre lies.
        layout: within a level ``"cell_major"``: the boxes of a cell are neighbours; ``"box_major"``: the
            cells of a box are (NVIDIA).
        integer_sizes: sizes are cut to integers first (caffe, mmdet).
        clip: ``"cxcywh"`` cuts all four numbers to [0, 1] (the PyTorch ports), ``"wh"`` width and height
            (torchvision), ``"corners"`` the corners (caffe's ``clip: true``); ``"none"``.
        format: of the result.
        pixels: the result is in pixels; else in fractions of the image.
        arithmetic: ``"double"``, rounded once, or ``"float32"``, rounded after every operation (torchvision).
        variances: the x, y, w, h variances that caffe stores beside every prior.
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
    offset: float = 0.5
    layout: Literal["cell_major", "box_major"] = "cell_major"
    integer_sizes: bool = False
    clip: Literal["none", "cxcywh", "wh", "corners"] = "none"
    format: BoxFormat = "cxcywh"
    pixels: bool = False
    arithmetic: Literal["double", "float32"] = "double"
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _freeze(getattr(self, field.name)))
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        check_range("offset", self.offset, -math.inf)
        if len(self.variances) != 4 or not all(v > 0 for v in self.variances):
            raise ValueError(f"variances must be 4 positive numbers, got {self.variances}")
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
        names = ["steps"]
        if self.boxes is not None:
            names.append("boxes")
            for row in self.boxes:
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

    @staticmethod
    def preset(name: str, **changes: Any) -> PriorSpec:
        """The priors of one codebase; ``changes`` replace single options.

        Names: ``paper`` (= ``caffe``; SSD300 on VOC), ``paper512``, ``torchvision`` (ssd300_vgg16),
        ``torchvision_ssdlite`` (ssdlite320), ``amdegroot`` (VOC), ``amdegroot_coco``, ``lufficc``,
        ``lufficc512``, ``qfgaohao``, ``nvidia``, ``sgrvinod``, ``mmdet``, ``gluon``, ``retinaface``,
        ``ulfg``, ``tf`` (the reduced first level), ``seed``. ``retinaface`` and ``ulfg`` follow
        ``image_size``.
        """
        if name not in _PRESETS:
            raise ValueError(f"preset must be one of {', '.join(sorted(_PRESETS))}, got {name!r}")
        known = {field.name for field in fields(PriorSpec)}
        for key in changes:
            if key not in known:
                raise TypeError(f"PriorSpec has no option {key!r}; it has {', '.join(sorted(known))}")
        options = dict(_PRESETS[name])
        if name == "ulfg" and "image_size" in changes and "feature_maps" not in changes:
            options["feature_maps"] = _ulfg_maps(changes["image_size"])
        return PriorSpec(**{**options, **changes})

    def replace(self, **changes: Any) -> PriorSpec:
        """This spec with some options changed."""
        return replace(self, **changes)


_CHOICES: dict[str, tuple[str, ...]] = {
    "units": ("pixels", "fraction"),
    "ratio_order": ("pairs", "listed"),
    "larger_position": ("second", "last"),
    "layout": ("cell_major", "box_major"),
    "clip": ("none", "cxcywh", "wh", "corners"),
    "format": ("cxcywh", "xyxy"),
    "arithmetic": ("double", "float32"),
}


def _ulfg_maps(image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """ULFG centres are (j + .5) / map, with map = ceil(image / stride)."""
    height, width = image_size
    return tuple((math.ceil(height / s), math.ceil(width / s)) for s in (8, 16, 32, 64))


def _linear_scales(low: float, high: float, levels: int) -> tuple[float, ...]:
    """torchvision's default scales, and the paper's: evenly spaced, then 1."""
    return (*(low + (high - low) * k / (levels - 1) for k in range(levels)), 1.0)


def _chain(values: Sequence[float]) -> dict[str, Any]:
    """Every size is the next level's predecessor: s' of level k is s of level k + 1."""
    return {"sizes": tuple(values[:-1]), "larger_sizes": tuple(values[1:])}


def _percent_sizes(first: int, low: int, high: int, step: int, image: int) -> dict[str, Any]:
    """caffe's rule: whole percents of the image, ``low, low + step ... high``, and ``first`` in front."""
    percents = [first, *range(low, high + 1, step)]
    return _chain([image * p / 100 for p in [*percents, percents[-1] + step]])


_RATIOS_512 = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
_MAPS_512 = (64, 32, 16, 8, 4, 2, 1)
_STEPS_512 = (8, 16, 32, 64, 128, 256, 512)
_LISTED = ((1, 2, 1 / 2), *((1, 2, 3, 1 / 2, 1 / 3),) * 3, (1, 2, 1 / 2), (1, 2, 1 / 2))
_SGRVINOD = ((1, 2, 0.5), *((1, 2, 3, 0.5, 0.333),) * 3, (1, 2, 0.5), (1, 2, 0.5))
_GLUON = ((1, 2, 0.5), *((1, 2, 0.5, 3, 1 / 3),) * 3, (1, 2, 0.5), (1, 2, 0.5))
_COCO_300 = (21, 45, 99, 153, 207, 261, 315)
_CAFFE: dict[str, Any] = dict(integer_sizes=True, format="xyxy")


def _tf_boxes() -> tuple[tuple[Pair, ...], ...]:
    """TensorFlow's object detection: three boxes in the first level, s' last in the others."""
    scales = _linear_scales(0.2, 0.95, 6)

    def shape(scale: float, ratio: float) -> Pair:
        return scale * math.sqrt(ratio), scale / math.sqrt(ratio)

    first = (shape(0.1, 1), shape(scales[0], 2), shape(scales[0], 0.5))
    rest = []
    for k in range(1, 6):
        row = [shape(scales[k], ratio) for ratio in (1, 2, 0.5, 3, 1 / 3)]
        rest.append((*row, shape(math.sqrt(scales[k] * scales[k + 1]), 1)))
    return (first, *rest)


_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**_CAFFE, **_percent_sizes(10, 20, 90, 17, 300)},
    "paper512": {
        **_CAFFE,
        **_percent_sizes(7, 15, 90, 15, 512),
        "image_size": (512, 512),
        "feature_maps": _MAPS_512,
        "steps": _STEPS_512,
        "ratios": _RATIOS_512,
    },
    "torchvision": dict(
        **_chain((0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)),
        units="fraction",
        clip="wh",
        format="xyxy",
        pixels=True,
        arithmetic="float32",
    ),
    "torchvision_ssdlite": dict(
        **_chain(_linear_scales(0.2, 0.95, 6)),
        image_size=(320, 320),
        feature_maps=(20, 10, 5, 3, 2, 1),
        ratios=((2, 3),) * 6,
        units="fraction",
        steps=None,
        clip="wh",
        format="xyxy",
        pixels=True,
        arithmetic="float32",
    ),
    "amdegroot": dict(clip="cxcywh"),
    "amdegroot_coco": dict(**_chain(_COCO_300), clip="cxcywh"),
    "lufficc": dict(clip="cxcywh"),
    "lufficc512": dict(
        **_chain((20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)),
        image_size=(512, 512),
        feature_maps=_MAPS_512,
        steps=_STEPS_512,
        ratios=_RATIOS_512,
        clip="cxcywh",
    ),
    "qfgaohao": dict(clip="cxcywh"),
    "nvidia": dict(**_chain(_COCO_300), clip="cxcywh", layout="box_major"),
    "sgrvinod": dict(
        **_chain((0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.0)),
        units="fraction",
        ratios=_SGRVINOD,
        ratio_order="listed",
        steps=None,
        clip="cxcywh",
    ),
    "mmdet": dict(**_chain(_COCO_300), integer_sizes=True, format="xyxy", pixels=True),
    "gluon": dict(
        **_chain((30, 60, 111, 162, 213, 264, 315)), ratios=_GLUON, ratio_order="listed", pixels=True
    ),
    "retinaface": dict(
        image_size=(640, 640),
        feature_maps=None,
        sizes=((16, 32), (64, 128), (256, 512)),
        larger_sizes=None,
        ratios=((), (), ()),
        steps=(8, 16, 32),
    ),
    "ulfg": dict(
        image_size=(240, 320),
        feature_maps=_ulfg_maps((240, 320)),
        sizes=((10, 16, 24), (32, 48), (64, 96), (128, 192, 256)),
        larger_sizes=None,
        ratios=((), (), (), ()),
        steps=None,
        clip="cxcywh",
    ),
    "tf": dict(
        feature_maps=(19, 10, 5, 3, 2, 1), boxes=_tf_boxes(), steps=None, clip="corners", format="xyxy"
    ),
    "seed": dict(
        **_chain([0.2 + (0.9 - 0.2) * k / 5 for k in range(6)] + [1.0]),
        units="fraction",
        ratios=_LISTED,
        ratio_order="listed",
        steps=None,
        clip="cxcywh",
    ),
}
_PRESETS["caffe"] = _PRESETS["paper"]
