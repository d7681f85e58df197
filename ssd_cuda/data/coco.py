"""COCO instance annotations, read without pycocotools."""

from __future__ import annotations

import math
import os
import reprlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .._names import name_list
from .dataset import DetectionDataset, OnDegenerate, Record, RecordDataset
from .files import DataError, DataFolder, read_json

Identifier = int | str
_LIMIT = 1e9  # pixels; float32 squares it without overflow


class CocoDataset(RecordDataset):
    """A COCO ``instances_*.json`` with its images; see :class:`~ssd_cuda.data.DetectionDataset`.

    Category ids, which COCO leaves gaps in, become labels 1, 2, ... in ascending order of id (numbers before
    texts); ``category_ids[label - 1]`` leads back. ``[x, y, width, height]`` becomes x1, y1, x2, y2 (COCO
    counts from 0 in continuous coordinates: nothing is shifted). ``iscrowd`` boxes are kept with
    ``crowd = True``; :func:`~ssd_cuda.data.collate` leaves them out of training and
    :func:`~ssd_cuda.engine.metrics.coco_map` uses them as pycocotools does. Roboflow's files begin with a
    category that only groups the others (they name it as their ``supercategory``, its own is ``none``): it is
    no class, unless an object has it.

    Args:
        annotations: the json file.
        images: the folder that ``file_name`` starts from, or several, tried in this order.
        degenerate: boxes without area are left out and counted in one warning (``"drop"``), or raise.
        root: the data folder, which no ``file_name`` may leave; None: that of the images and of the file.
        allow_outside: take absolute names and ``..`` wherever they lead.

    Raises:
        DataError: a missing file or folder, a file that does not parse, an entry that lacks a field or
            refers to an image or a category that is not there, an id or a class name that is there twice, a
            first image that lies nowhere, a name that leads out of ``root``.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | Sequence[str | Path],
        *,
        degenerate: OnDegenerate = "drop",
        root: str | Path | None = None,
        allow_outside: bool = False,
    ) -> None:
        path = Path(annotations)
        bases = [Path(base) for base in ([images] if isinstance(images, (str, Path)) else images)]
        for base in bases:
            if not base.is_dir():
                raise DataError(f"the image folder {base} of {path} does not exist")
        content = _load(path)
        by_image: dict[Identifier, list[dict]] = defaultdict(list)
        for entry in content["annotations"]:
            by_image[_identifier(entry, "image_id", path)].append(entry)
        categories = _categories(content, path)
        self.category_ids = tuple(number for number, _ in categories)
        label_of = {number: label for label, number in enumerate(self.category_ids, 1)}
        folder = DataFolder(*([root] if root else [*bases, path.parent]), allow_outside=allow_outside)
        _check_unique([_identifier(image, "id", path) for image in content["images"]], "image", path)
        records = []
        for image in content["images"]:
            file = folder.find(_field(image, "file_name", str, path, "a text"), bases, path)
            records.append(_record(image, by_image.pop(image["id"], []), label_of, path, file))
        if by_image:
            raise DataError(
                f"{path} must list every image it annotates, got none with id {next(iter(by_image))!r}"
            )
        if not folder.has(records[0].image):
            name, places = records[0].image.name, name_list([str(base) for base in bases])
            raise DataError(f"image {name} of {path} must lie in one of {places}, got none there")
        super().__init__(records, [name for _, name in categories], degenerate)

    def order_as(self, classes: Sequence[str]) -> None:
        """Number the labels in the order of ``classes``, which are the same names."""
        before = [self.classes.index(name) for name in classes]
        label_of = np.argsort([-1, *before])  # of the background, then of each label until now
        for record in self.records:
            record.labels = label_of[record.labels]
        self.classes, self.category_ids = tuple(classes), tuple(self.category_ids[i] for i in before)


def in_order_of(dataset: DetectionDataset, classes: Sequence[str]) -> DetectionDataset:
    """``dataset``, with labels in the order of ``classes`` where it is a COCO file of the same names: the
    id of a category is of its file alone."""
    if isinstance(dataset, CocoDataset) and set(dataset.classes) == set(classes):
        dataset.order_as(classes)
    return dataset


class CocoIds:
    """The ids of a COCO file by the names of what has them, for results that are held against it.

    Unlike a data set it takes a file without annotations, such as COCO's of its test images, and reads none
    of the images.

    Args:
        annotations: the json file.

    Raises:
        DataError: a missing file, one that does not parse, an entry that lacks a field, a class name that is
            there twice.
    """

    def __init__(self, annotations: str | Path) -> None:
        self.path = Path(annotations)
        content = _load(self.path, ("images", "categories"))
        if not isinstance(content.get("annotations"), list):
            content["annotations"] = []
        self.categories = {name: number for number, name in _categories(content, self.path)}
        self._images: dict[str, list[tuple[tuple[str, ...], Identifier]]] = defaultdict(list)
        for image in content["images"]:
            name = _field(image, "file_name", str, self.path, "a text")
            parts = PurePosixPath(name.replace("\\", "/")).parts
            self._images[parts[-1] if parts else ""].append((parts, _identifier(image, "id", self.path)))

    def category_ids(self, classes: Sequence[str], needed: Sequence[str]) -> list[Identifier | None]:
        """The id of each class; None for one that is not there, which must be none of those ``needed``."""
        missing = [name for name in needed if name not in self.categories]
        if missing:
            raise DataError(
                f"{self.path} must have a category for each class that is written, "
                f"got none for {name_list(list(map(repr, missing)))}"
            )
        return [self.categories.get(name) for name in classes]

    def image_id(self, file: str | Path) -> Identifier:
        """The id of the image whose ``file_name`` is the end of a file's path, the longest such name's."""
        path = Path(os.path.abspath(file)).parts
        named = [entry for entry in self._images[path[-1]] if path[-len(entry[0]) :] == entry[0]]
        longest = max((len(parts) for parts, _ in named), default=0)
        ids = [number for parts, number in named if len(parts) == longest]
        if len(ids) != 1:
            found = f"the ids {name_list(ids)}" if ids else "none"
            raise DataError(f"{self.path} must list one image called {file}, got {found}")
        return ids[0]


def _load(path: Path, keys: Sequence[str] = ("images", "annotations", "categories")) -> dict[str, list]:
    content = read_json(path, "annotation file")
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} must be COCO instances with a list {key!r}, got none")
    if not content["images"]:
        raise DataError(f"{path} must list at least one image, got none")
    return content


def _field(entry: Any, key: str, kind: type | tuple[type, ...], path: Path, expected: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, kind):
        raise DataError(f"{path} must have {expected} {key!r} in every entry, got {reprlib.repr(entry)[:80]}")
    return value


def _identifier(entry: Any, key: str, path: Path) -> Identifier:
    return _field(entry, key, (int, str), path, "an integer or a text")


def _is_number(value: Any) -> bool:
    """Whether a json value is a number that float32 holds; json has integers of any size, nan and 1e400."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LIMIT <= value <= _LIMIT


def _check_unique(ids: Sequence[Any], what: str, path: Path) -> None:
    if len(set(ids)) < len(ids):
        seen: set[Any] = set()
        for number in ids:
            if number in seen:
                raise DataError(f"{path} must list each {what} id once, got {number!r} twice")
            seen.add(number)


def _categories(content: dict[str, list], path: Path) -> list[tuple[Identifier, str]]:
    """(id, name) of every class, in the order of labels."""
    entries = content["categories"]
    rows = [
        (_identifier(c, "id", path), _field(c, "name", str, path, "a text"), c.get("supercategory"))
        for c in entries
    ]
    _check_unique([number for number, _, _ in rows], "category", path)
    if any(not name.strip() for _, name, _ in rows):
        raise DataError(f"{path} must give each category a name, got an empty one")
    used = {_identifier(entry, "category_id", path) for entry in content["annotations"]}
    groups = {above for _, _, above in rows if isinstance(above, str)}
    kept = [
        (number, name)
        for number, name, above in rows
        if not (above == "none" and name in groups and number not in used)
    ]
    kept.sort(key=lambda row: (isinstance(row[0], str), row[0]))
    ids_of: dict[str, list[Identifier]] = defaultdict(list)
    for number, name in kept:
        ids_of[name].append(number)
    for name, ids in ids_of.items():
        if len(ids) > 1:
            raise DataError(
                f"{path} must give each category a name of its own, got {name!r} for the ids "
                f"{name_list([repr(i) for i in ids])}"
            )
    return kept


def _box(entry: dict, path: Path) -> list[float]:
    box = _field(entry, "bbox", list, path, "a list")
    if len(box) != 4 or not all(map(_is_number, box)):
        raise DataError(f"{path} must have four numbers in every 'bbox', got {reprlib.repr(box)[:80]}")
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _record(
    image: dict, entries: list[dict], label_of: dict[Identifier, int], path: Path, file: Path
) -> Record:
    labels = []
    for entry in entries:
        category = _identifier(entry, "category_id", path)
        if category not in label_of:
            raise DataError(f"{path} must define every category it uses, got an annotation of {category!r}")
        labels.append(label_of[category])
    boxes = np.array([_box(entry, path) for entry in entries], np.float32).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i, entry in enumerate(entries):
        area = entry.get("area")
        if isinstance(area, (int, float)):
            if not (math.inf > area >= 0 and area <= _LIMIT**2):
                raise DataError(
                    f"{path} must have a number of pixels in every 'area', got {reprlib.repr(area)}"
                )
            areas[i] = area
        if entry.get("iscrowd") not in (None, 0, 1):  # "0" would count as true
            raise DataError(
                f"{path} must have 0 or 1 in every 'iscrowd', got {reprlib.repr(entry['iscrowd'])}"
            )
    size = (image.get("height"), image.get("width"))
    known = all(isinstance(side, int) and 0 < side <= _LIMIT for side in size)
    return Record(
        image=file,
        image_id=image["id"],
        size=size if known else (0, 0),  # type: ignore[arg-type]
        boxes=boxes,
        labels=np.array(labels, np.int64),
        difficult=np.zeros(len(entries), bool),
        crowd=np.array([bool(entry.get("iscrowd")) for entry in entries], bool),
        area=areas,
        source=path,
    )
