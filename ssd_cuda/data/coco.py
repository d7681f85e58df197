"""COCO instance annotations, read without pycocotools."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import DataError, OnDegenerate, Record, RecordDataset


class CocoDataset(RecordDataset):
    """A COCO ``instances_*.json`` with its images; see :class:`~ssd_cuda.data.dataset.DetectionDataset`.

    Category ids, which COCO leaves gaps in, become labels 1, 2, ... in ascending order of id;
    ``category_ids[label - 1]`` leads back. ``[x, y, width, height]`` becomes x1, y1, x2, y2 (COCO counts
    from 0 in continuous coordinates: nothing is shifted). ``iscrowd`` boxes are kept with
    ``crowd = True``; :func:`~ssd_cuda.data.collate` leaves them out of training and
    :func:`~ssd_cuda.engine.metrics.coco_map` uses them as pycocotools does.

    Args:
        annotations: the json file.
        images: the folder that ``file_name`` starts from.
        degenerate: boxes without area are left out and counted in one warning (``"drop"``), or raise.

    Raises:
        DataError: a missing file or folder, a file that does not parse, an entry that lacks a field or
            refers to an image or a category that is not there.
    """

    def __init__(
        self, annotations: str | Path, images: str | Path, *, degenerate: OnDegenerate = "drop"
    ) -> None:
        path, folder = Path(annotations), Path(images)
        if not folder.is_dir():
            raise DataError(f"the image folder {folder} of {path} does not exist")
        content = _load(path)
        categories = sorted(
            (_field(c, "id", int, path), _field(c, "name", str, path)) for c in content["categories"]
        )
        self.category_ids = tuple(number for number, _ in categories)
        label_of = {number: label for label, number in enumerate(self.category_ids, 1)}
        by_image: dict[int, list[dict]] = defaultdict(list)
        for entry in content["annotations"]:
            by_image[_field(entry, "image_id", int, path)].append(entry)
        records = [
            _record(image, by_image.pop(_field(image, "id", int, path), []), label_of, path, folder)
            for image in content["images"]
        ]
        if by_image:
            raise DataError(f"{path} must list every image it annotates, got none with id {min(by_image)}")
        super().__init__(records, [name for _, name in categories], degenerate)


def _load(path: Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"annotation file {path} does not exist") from None
    except (ValueError, OSError) as error:
        raise DataError(f"annotation file {path} does not parse: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} must be COCO instances with a list {key!r}, got none")
    if not content["images"]:
        raise DataError(f"{path} must list at least one image, got none")
    return content


def _field(entry: Any, key: str, kind: type, path: Path) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        kind_name = {int: "an integer", str: "a text", list: "a list"}[kind]
        raise DataError(f"{path} must have {kind_name} {key!r} in every entry, got {str(entry)[:80]}")
    return value


def _box(entry: dict, path: Path) -> list[float]:
    box = _field(entry, "bbox", list, path)
    if len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        raise DataError(f"{path} must have four numbers in every 'bbox', got {str(box)[:80]}")
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _record(image: dict, entries: list[dict], label_of: dict[int, int], path: Path, folder: Path) -> Record:
    labels = []
    for entry in entries:
        category = _field(entry, "category_id", int, path)
        if category not in label_of:
            raise DataError(f"{path} must define every category it uses, got an annotation of {category}")
        labels.append(label_of[category])
    boxes = np.array([_box(entry, path) for entry in entries], np.float32).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i, entry in enumerate(entries):
        if isinstance(entry.get("area"), (int, float)):
            areas[i] = entry["area"]
    size = (image.get("height"), image.get("width"))
    known = all(isinstance(side, int) and side > 0 for side in size)
    return Record(
        image=folder / _field(image, "file_name", str, path),
        image_id=image["id"],
        size=size if known else (0, 0),  # type: ignore[arg-type]
        boxes=boxes,
        labels=np.array(labels, np.int64),
        difficult=np.zeros(len(entries), bool),
        crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], bool),
        area=areas,
        source=path,
    )
