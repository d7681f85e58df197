"""Priors from the data: how many objects a model's priors reach, and boxes that reach more of them.

The boxes of a level are cluster centres of the widths and heights of the objects that belong to it, by
the IoU of boxes with one centre (k-means as in YOLO9000, section 2, Redmon and Farhadi 2017). An object
belongs to the level whose boxes are nearest to its size, so that fine maps stay with small objects; a
level with fewer objects than boxes keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._names import counted
from ..data import DetectionDataset
from ..data.dataset import lies_outside
from ..models import SSD
from ..models.own_boxes import box_options
from ..ops import GroundTruth, box_iou, match
from .checkpoint import ModelSpec

__all__ = ["Reach", "fit_boxes", "objects_of", "reach_of", "with_fitted_priors"]

Boxes = list[list[tuple[float, float]]]
_AT_ONCE = 256  # objects against all priors


class Reach(NamedTuple):
    """How the priors of a model meet objects.

    Attributes:
        best: ``[G]`` the highest IoU of each object with a prior.
        unmatched: ``[G]`` whether no prior is matched to it: another object has its only one.
    """

    best: Tensor
    unmatched: Tensor

    def share(self, iou: float = 0.5) -> float:
        """The part of the objects whose best IoU is at least ``iou``; nan without objects."""
        return (self.best >= iou).double().mean().item()


def objects_of(dataset: DetectionDataset) -> list[Tensor]:
    """Per image the boxes that are trained on, ``[n, 4]`` corners in fractions of it.

    Example:
        >>> [boxes.shape[1] for boxes in objects_of(data.open_dataset("shapes", "train", length=2))]
        [4, 4]
    """
    found = []
    for index in range(len(dataset)):
        target = dataset.target(index)
        height, width = target["size"]
        boxes = target["boxes"].as_subclass(Tensor)
        boxes = boxes[~target["crowd"] & ~lies_outside(boxes, target["size"])]
        found.append((boxes / torch.tensor([width, height, width, height])).clamp(0, 1))
    return found


def reach_of(model: SSD, objects: Sequence[Tensor]) -> Reach:
    """How the priors of ``model`` meet ``objects``, as its own rule of matching has it.

    Args:
        model: on the CPU.
        objects: of :func:`objects_of`.

    Example:
        >>> model = models.ssd_small(num_classes=6, image_size=(64, 64))
        >>> reach_of(model, [torch.tensor([[0.0, 0.0, 1.0, 1.0]])]).unmatched
        tensor([False])
    """
    priors = model.priors
    if model.spec.pixels:
        priors = priors / model._pixels(priors)
    if model.spec.format == "cxcywh":
        priors = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)
    boxes = torch.cat([*objects, torch.zeros(0, 4)])
    best = torch.zeros(len(boxes))
    for start in range(0, len(boxes), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        best[rows] = box_iou(boxes[rows], priors).nan_to_num(0.0).amax(1)
    unmatched = torch.ones(len(boxes), dtype=torch.bool)
    first = 0
    rule = replace(model.loss_config.match, prior_format="xyxy")
    for own in objects:
        gt = GroundTruth.from_list([own], [torch.ones(len(own), dtype=torch.int64)], degenerate="keep")
        codes = match(gt, priors, config=rule)
        unmatched[first + codes[codes >= 0].long().unique()] = False
        first += len(own)
    return Reach(best, unmatched)


def fit_boxes(model: SSD, objects: Sequence[Tensor], seed: int = 0) -> Boxes:
    """Per level the (width, height) of as many boxes as a cell of ``model`` has, fitted to ``objects``.

    Args:
        model: whose levels they are for.
        objects: of :func:`objects_of`.
        seed: of where the clusters start.

    Example:
        >>> model = models.ssd_small(num_classes=2, image_size=(64, 64))
        >>> fitted = fit_boxes(model, [torch.tensor([[0.1, 0.1, 0.6, 0.4]])] * 8)
        >>> [(round(w, 3), round(h, 3)) for w, h in fitted[2]]  # all eight are alike
        [(0.5, 0.3), (0.5, 0.3), (0.5, 0.3), (0.5, 0.3)]
    """
    boxes = torch.cat([*objects, torch.zeros(0, 4)]).numpy()
    sizes = (boxes[:, 2:] - boxes[:, :2]).astype(float)
    sizes = sizes[(sizes > 0).all(1)]
    own: Boxes = model.spec.cell_boxes()
    centres = np.array([np.mean([np.log(w * h) for w, h in level]) for level in own])
    level_of = np.abs(np.log(sizes.prod(1))[:, None] - centres).argmin(1) if len(sizes) else np.empty(0)
    rng = np.random.default_rng(seed)
    fitted = []
    for number, level in enumerate(own):
        mine = sizes[level_of == number]
        fitted.append(_clusters(mine, len(level), rng) if len(mine) >= len(level) else level)
    return fitted


def with_fitted_priors(spec: ModelSpec, dataset: DetectionDataset) -> tuple[ModelSpec, str]:
    """``spec`` with boxes fitted to the objects of ``dataset``, where they reach more; a sentence about it.

    Example:
        >>> spec = ModelSpec("ssd_small", data.ShapesDataset.classes, (64, 64))
        >>> fitted, told = with_fitted_priors(spec, data.open_dataset("shapes", "train", length=20))
        >>> told.startswith("priors fitted to 117 objects: ")
        True
    """
    objects = objects_of(dataset)
    count = sum(map(len, objects))
    model = spec.build()
    before = reach_of(model, objects)
    fitted = replace(spec, options=box_options(fit_boxes(model, objects)))
    after = reach_of(fitted.build(), objects)
    numbers = (
        f"{before.share():.1%} reach an IoU of .5 with the model's, {after.share():.1%} with the fitted; "
        f"mean {before.best.mean():.3f}, {after.best.mean():.3f}"
    )
    if count == 0 or after.best.mean() <= before.best.mean() or after.share() < before.share():
        told = numbers if count else "there is none"
        return spec, f"priors stay those of the model: of {counted(count, 'object')} {told}"
    return fitted, f"priors fitted to {counted(count, 'object')}: {numbers}"


def _clusters(sizes: np.ndarray, count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """``count`` centres of ``sizes``, by rising area."""
    chosen = [int(rng.integers(len(sizes)))]
    for _ in range(count - 1):  # each next one far from those there are
        distance = 1 - _iou(sizes, sizes[chosen]).max(1)
        weights = distance + 1e-12
        chosen.append(int(rng.choice(len(sizes), p=weights / weights.sum())))
    centres = sizes[chosen]
    for _ in range(100):
        nearest = _iou(sizes, centres).argmax(1)
        moved = np.array(
            [np.median(sizes[nearest == k], 0) if (nearest == k).any() else centres[k] for k in range(count)]
        )
        if np.allclose(moved, centres, rtol=1e-9):
            break
        centres = moved
    rows = sorted(map(tuple, centres.tolist()), key=lambda box: (box[0] * box[1], box))
    return [(float(w), float(h)) for w, h in rows]


def _iou(sizes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """IoU of boxes of one centre.  # [n, k]"""
    inner = np.minimum(sizes[:, None], centres).prod(-1)
    return inner / (sizes.prod(1)[:, None] + centres.prod(1) - inner)
