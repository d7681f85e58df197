"""What every dataset of this package is: annotated images with contiguous labels.

Labels are ``1 .. K`` in the order of ``classes``; 0 is the background of the loss's default options.
Boxes are x1, y1, x2, y2 in pixels, as continuous coordinates: the outline of a pixel (x, y) is
``[x, y, x + 1, y + 1]`` and an image of width W spans ``[0, W]``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .._extras import require
from .._names import check_distinct, counted, name_list
from ..config import check_choice
from .files import DataError
from .images import read_image, read_size

OnDegenerate = Literal["drop", "error"]


@dataclass
class Record:
    """The annotation of one image, before it becomes tensors.

    Attributes:
        image: its file.
        image_id: how the data set names it.
        size: (height, width) in pixels; (0, 0) when the annotation does not say.
        boxes: ``[n, 4]`` float32.
        labels: ``[n]`` int64.
        difficult: ``[n]`` bool; VOC's flag: ignored by the VOC metric.
        crowd: ``[n]`` bool; COCO's ``iscrowd``: a region, not an object.
        area: ``[n]`` float32; COCO's segmentation area, or width times height.
        source: the label file, for messages.
    """

    image: Path
    image_id: int | str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    source: Path


class DetectionDataset(Dataset):
    """Base of the datasets: ``dataset[i]`` is ``(image, target)``.

    ``image`` is a ``tv_tensors.Image``, uint8 ``[3, H, W]``. ``target`` is a dict of ``boxes``
    (``tv_tensors.BoundingBoxes`` float32 ``[n, 4]``), ``labels`` int64 ``[n]``, ``difficult`` and
    ``crowd`` bool ``[n]``, ``area`` float32 ``[n]``, ``image_id``, and ``size``, the (height, width) of
    the image as it is read, which transforms leave alone.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...] = ()  # of labels 1, 2, ... where the data numbers them otherwise

    @property
    def num_classes(self) -> int:
        """``len(classes)`` and the background, as a model of these labels takes it."""
        return len(self.classes) + 1

    def __len__(self) -> int:
        raise NotImplementedError

    def image(self, index: int) -> Tensor:
        """The image alone: uint8 ``[3, H, W]``."""
        raise NotImplementedError

    def target(self, index: int) -> dict[str, Any]:
        """The annotation alone, without reading the image: what an evaluation needs."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        return self.image(index), self.target(index)


class RecordDataset(DetectionDataset):
    """Images of a folder with their :class:`Record`; the VOC and COCO datasets are built on it.

    Attributes:
        classes: names of labels 1, 2, ...
        dropped: boxes without area that were left out.
        outside: boxes of which no part lies in their image: training has nothing of them, an evaluation
            counts them as objects to find, as the devkit of VOC and pycocotools do.
    """

    def __init__(
        self, records: Sequence[Record], classes: Sequence[str], degenerate: OnDegenerate = "drop"
    ) -> None:
        check_choice("degenerate", degenerate, ("drop", "error"))
        check_distinct("classes", classes)
        self.classes = tuple(classes)
        _warn_of_case(self.classes)
        self.records = list(records)
        self.dropped = _drop_degenerate(self.records, degenerate)
        self.outside = _count_outside(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> Tensor:
        record = self.records[index]
        image = read_image(record.image, record.size)
        found = (image.shape[1], image.shape[2])
        if record.size not in ((0, 0), found):
            raise DataError(
                f"{record.source} must give the size of its image, got "
                f"{record.size[1]}x{record.size[0]} while {record.image} is {found[1]}x{found[0]}"
            )
        return image

    def target(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        if record.size == (0, 0):
            record.size = read_size(record.image)
        return make_target(
            torch.from_numpy(record.boxes.copy()),
            torch.from_numpy(record.labels.copy()),
            record.size,
            record.image_id,
            difficult=torch.from_numpy(record.difficult.copy()),
            crowd=torch.from_numpy(record.crowd.copy()),
            area=torch.from_numpy(record.area.copy()),
        )


def _warn_of_case(classes: Sequence[str]) -> None:
    """Labelled by several hands, one class may be written in two ways, and each would get its own label."""
    spelt: dict[str, list[str]] = {}
    for name in classes:
        spelt.setdefault(name.casefold(), []).append(name)
    alike = [" and ".join(map(repr, names)) for names in spelt.values() if len(names) > 1]
    if alike:
        warnings.warn(f"{name_list(alike)} are taken for classes of their own", stacklevel=4)


def make_target(
    boxes: Tensor,
    labels: Tensor,
    size: tuple[int, int],
    image_id: int | str,
    *,
    difficult: Tensor | None = None,
    crowd: Tensor | None = None,
    area: Tensor | None = None,
) -> dict[str, Any]:
    """The target dict of one image; what is not given is False, and the area of the boxes."""
    tv_tensors = require("torchvision.tv_tensors", "a detection dataset")
    none = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    if area is None:
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size, device="cpu"),
        "labels": labels,
        "difficult": none if difficult is None else difficult,
        "crowd": none.clone() if crowd is None else crowd,
        "area": area,
        "image_id": image_id,
        "size": size,
    }


def _drop_degenerate(records: list[Record], policy: OnDegenerate) -> int:
    """Take boxes that have no area out of the records; returns how many."""
    dropped, first = 0, ""
    for record in records:
        boxes = record.boxes
        good = np.isfinite(boxes).all(1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if good.all():
            continue
        box = boxes[~good][0].tolist()
        if policy == "error":
            raise DataError(f"{record.source} must hold finite boxes with x1 < x2 and y1 < y2, got {box}")
        first = first or f"{box} in {record.source}"
        dropped += int((~good).sum())
        for name in ("boxes", "labels", "difficult", "crowd", "area"):
            setattr(record, name, getattr(record, name)[good])
    if dropped:
        warnings.warn(f"left out {counted(dropped, 'box')} without area, the first {first}", stacklevel=4)
    return dropped


def lies_outside(boxes: Any, size: tuple[int, int]) -> Any:
    """``[n]`` which of ``boxes`` (x1, y1, x2, y2 in pixels, an array or a tensor) have no part in an image of
    ``size`` (height, width); of a size that is not known, (0, 0), those left of it and above alone."""
    outside = (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)
    if size != (0, 0):
        outside |= (boxes[:, 0] >= size[1]) | (boxes[:, 1] >= size[0])
    return outside


def _count_outside(records: list[Record]) -> int:
    """How many boxes have no part in their image, in one warning."""
    count, first = 0, ""
    for record in records:
        outside = lies_outside(record.boxes, record.size)
        if outside.any():
            first = first or f"{record.boxes[outside][0].tolist()} in {record.source}"
            count += int(outside.sum())
    if count:
        warnings.warn(
            f"{counted(count, 'box')} outside of the image, the first {first}: training leaves them out, "
            "evaluation counts them as not found",
            stacklevel=4,
        )
    return count
