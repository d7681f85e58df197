"""Any data set of (image, target) pairs as one of this package; ragged batches of a loader as GroundTruth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._extras import require
from .._names import check_distinct
from ..config import check_choice, check_integer
from ..ops.ground_truth import GroundTruth
from .dataset import DetectionDataset, OnDegenerate, lies_outside, make_target
from .files import DataError

__all__ = ["PairsDataset", "ground_truth_of"]

Classes = Sequence[str] | Mapping[Any, str]


class PairsDataset(DetectionDataset):
    """A map-style data set whose items are ``(image, target)``, as torchvision's and many others are.

    Images may be PIL images, arrays ``[H, W, 3]`` of bytes, or tensors ``[3, H, W]`` of bytes or of floats in
    [0, 1]. Targets may be

    * a dict with ``boxes`` (x1, y1, x2, y2 in pixels, or ``tv_tensors.BoundingBoxes`` of any format) and
      ``labels``, as torchvision's detectors take them; ``difficult``, ``crowd`` or ``iscrowd``, ``area`` and
      ``image_id`` are taken where they are there;
    * a list of COCO's annotations (``bbox`` as x, y, width, height; ``category_id``), as of
      ``torchvision.datasets.CocoDetection``;
    * the dict of ``torchvision.datasets.VOCDetection``.

    Args:
        dataset: with ``len`` and ``[index]``.
        classes: names of labels 1, 2, ...; or, where targets have ids or names of their own, a mapping from
            these to the name of the class: its order is that of the labels.
        label_offset: added to labels that are numbers: 1 where they start at 0.
        convert: called with a target of another kind; returns one of the above.
        degenerate: boxes without area are left out and warned of once (``"drop"``), or raise.

    Raises:
        DataError: an item that is no such pair, from the item on that has it; the message names its index.

    Example:
        >>> pairs = [(torch.zeros(3, 20, 30), {"boxes": torch.tensor([[1.0, 2, 9, 8]]), "labels": [0]})]
        >>> dataset = data.PairsDataset(pairs, ["cell"], label_offset=1)
        >>> dataset.target(0)["labels"], dataset.image(0).dtype
        (tensor([1]), torch.uint8)
    """

    def __init__(
        self,
        dataset: Any,
        classes: Classes,
        *,
        label_offset: int = 0,
        convert: Callable[[Any], Any] | None = None,
        degenerate: OnDegenerate = "drop",
    ) -> None:
        check_choice("degenerate", degenerate, ("drop", "error"))
        check_integer("label_offset", label_offset)
        names = list(dict.fromkeys(classes.values() if isinstance(classes, Mapping) else classes))
        if not isinstance(classes, Mapping):
            check_distinct("classes", list(classes))
        if not names:
            raise ValueError("classes must name at least one class, got none")
        self.dataset, self.classes = dataset, tuple(names)
        self._label_of = {name: label for label, name in enumerate(names, 1)}
        if isinstance(classes, Mapping):
            self._label_of = {key: self._label_of[name] for key, name in classes.items()}
        self._mapped = isinstance(classes, Mapping)
        self.label_offset, self.convert, self.degenerate = label_offset, convert, degenerate
        self._targets: dict[int, dict[str, Any]] = {}  # what target() gives without reading an image again
        self._warned = self._warned_of_outside = False

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> Tensor:
        return self[index][0]

    def target(self, index: int) -> dict[str, Any]:
        if index not in self._targets:
            self[index]
        return dict(self._targets[index])

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        try:
            image, target = self.dataset[index]
        except (TypeError, ValueError) as error:
            raise DataError(f"item {index} must be a pair of image and target: {error}") from error
        pixels = _as_bytes(image, index)
        # Anew each time: a data set that augments gives other boxes with every image.
        found = self._read(target, (pixels.shape[1], pixels.shape[2]), index)
        self._targets.setdefault(index, found)
        return pixels, dict(found)

    def _read(self, target: Any, size: tuple[int, int], index: int) -> dict[str, Any]:
        try:
            found = _as_dict(self.convert(target) if self.convert is not None else target)
            boxes = _corners(found["boxes"])
            labels = torch.tensor(
                [self._label(label) for label in found["labels"]], dtype=torch.int64, device="cpu"
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise DataError(f"the target of item {index} must have boxes and labels: {reason}") from error
        if len(boxes) != len(labels):
            raise DataError(
                f"item {index} must have a label for each of {len(boxes)} boxes, got {len(labels)}"
            )
        if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= len(self.classes):
            raise DataError(
                f"the labels of item {index} must lie in [1, {len(self.classes)}], got "
                f"{labels.tolist()[:8]}; label_offset=1 is for those that start at 0"
            )
        flags = {"difficult": found.get("difficult"), "crowd": found.get("crowd", found.get("iscrowd"))}
        rows = {
            key: torch.as_tensor(value, device="cpu").bool()
            for key, value in flags.items()
            if value is not None
        }
        if found.get("area") is not None:
            rows["area"] = torch.as_tensor(found["area"], dtype=torch.float32, device="cpu")
        kept = self._with_area(boxes, index)
        outside = lies_outside(boxes, size) & kept
        if outside.any() and not self._warned_of_outside:
            self._warned_of_outside = True
            warnings.warn(
                f"box {boxes[outside][0].tolist()} of item {index} lies outside of its image: training "
                "leaves such boxes out, evaluation counts them as not found",
                stacklevel=3,
            )
        rows = {key: value[kept] for key, value in rows.items()}
        return make_target(boxes[kept], labels[kept], size, found.get("image_id", index), **rows)

    def _label(self, label: Any) -> int:
        label = label.item() if isinstance(label, (Tensor, np.generic)) else label
        if self._mapped or isinstance(label, str):
            if label not in self._label_of:
                raise ValueError(f"classes must name every label, got none for {label!r}")
            return self._label_of[label]
        return int(label) + self.label_offset

    def _with_area(self, boxes: Tensor, index: int) -> Tensor:
        good = torch.isfinite(boxes).all(1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if not good.all():
            told = f"box {boxes[~good][0].tolist()} of item {index} has no area"
            if self.degenerate == "error":
                raise DataError(told)
            if not self._warned:
                warnings.warn(f"{told}; such boxes are left out", stacklevel=4)
                self._warned = True
        return good


def _as_dict(target: Any) -> Mapping[str, Any]:
    """A target of any kind that is known, as a dict of columns."""
    if isinstance(target, Mapping) and "annotation" in target:
        objects = target["annotation"].get("object", [])
        objects = objects if isinstance(objects, list) else [objects]
        boxes = [[float(entry["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax")] for entry in objects]
        return {
            "boxes": torch.tensor(boxes, device="cpu").reshape(-1, 4),
            "labels": [entry["name"] for entry in objects],
            "difficult": torch.tensor(
                [int(entry.get("difficult", 0)) for entry in objects], device="cpu"
            ).bool(),
        }
    if isinstance(target, Sequence) and not isinstance(target, (str, bytes)):
        rows = torch.tensor([[float(v) for v in entry["bbox"]] for entry in target], device="cpu").reshape(
            -1, 4
        )
        found = {
            "boxes": torch.cat([rows[:, :2], rows[:, :2] + rows[:, 2:]], 1),
            "labels": [entry["category_id"] for entry in target],
            "crowd": torch.tensor([int(entry.get("iscrowd", 0)) for entry in target], device="cpu").bool(),
        }
        if all("area" in entry for entry in target):
            found["area"] = torch.tensor([float(entry["area"]) for entry in target], device="cpu")
        return found
    if not isinstance(target, Mapping):
        raise TypeError(f"got {type(target).__name__}")
    return target


def _corners(boxes: Any) -> Tensor:
    """[n, 4] float32 x1, y1, x2, y2."""
    form = getattr(getattr(boxes, "format", None), "value", "XYXY")
    rows = torch.as_tensor(boxes, device="cpu").as_subclass(Tensor).detach().cpu().float()
    if rows.numel() == 0:
        return rows.reshape(0, 4)
    if rows.dim() != 2 or rows.shape[1] != 4:
        raise ValueError(f"boxes must have shape [n, 4], got {list(rows.shape)}")
    if form.lower() == "xyxy":
        return rows
    return require("torchvision.ops", "boxes of another format").box_convert(rows, form.lower(), "xyxy")


def _as_bytes(image: Any, index: int) -> Tensor:
    """uint8 ``[3, H, W]`` of whatever an image is."""
    if not isinstance(image, (Tensor, np.ndarray)) and hasattr(image, "convert"):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.array(image))  # a copy: what it comes from may be read only
        image = image.permute(2, 0, 1) if image.dim() == 3 and image.shape[2] == 3 else image
    if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3:
        found = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise DataError(f"the image of item {index} must be of three channels, got {found}")
    pixels = image.as_subclass(Tensor)
    if pixels.is_floating_point():
        low, high = pixels.aminmax()
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"floats of an image must lie in [0, 1], got {low:.3g} to {high:.3g} in item {index}"
            )
        pixels = (pixels * 255).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise DataError(f"the image of item {index} must be of bytes or floats, got {pixels.dtype}")
    return require("torchvision.tv_tensors", "a detection dataset").Image(pixels, device=pixels.device)


def ground_truth_of(
    boxes: Any, labels: Any, *, degenerate: Any = "error", device: torch.device | str | None = None
) -> GroundTruth:
    """GroundTruth of ragged outputs of a loader, such as NVIDIA DALI's.

    ``fn.readers.coco(ratio=True, ltrb=True)`` gives boxes in fractions of the image as x1, y1, x2, y2,
    which is what the models here take, and labels from 1.

    Args:
        boxes: per image ``[n, 4]``: a sequence of tensors or arrays (``DALIRaggedIterator`` with
            ``SPARSE_LIST_TAG``), or a ``TensorList`` of DALI's, on the CPU or the card, whose samples
            ``at(i)`` gives.
        labels: per image ``[n]`` or ``[n, 1]``, likewise.
        degenerate, device: as of :meth:`ssd_cuda.ops.GroundTruth.from_list`.

    Raises:
        ValueError, TypeError: as :meth:`ssd_cuda.ops.GroundTruth.from_list`.

    Example:
        >>> gt = data.ground_truth_of([torch.tensor([[0.1, 0.1, 0.5, 0.6]])], [torch.tensor([[3]])])
        >>> gt.labels, gt.offsets
        (tensor([3]), tensor([0, 1], dtype=torch.int32))
    """
    found = [rows.reshape(-1, 4) if rows.numel() == 0 else rows for rows in _samples(boxes)]
    names = [rows.reshape(-1).long() for rows in _samples(labels)]
    rows = [own if own.is_floating_point() else own.float() for own in found]
    return GroundTruth.from_list(rows, names, degenerate=degenerate, device=device)


def _samples(ragged: Any) -> list[Tensor]:
    if not hasattr(ragged, "at"):
        return [_tensor(sample) for sample in ragged]
    return [_tensor(ragged.at(index)) for index in range(len(ragged))]


def _tensor(sample: Any) -> Tensor:
    if isinstance(sample, Tensor):
        return sample
    if hasattr(sample, "__dlpack__") and not isinstance(sample, np.ndarray):
        return torch.from_dlpack(sample)
    return torch.as_tensor(np.asarray(sample), device="cpu")
