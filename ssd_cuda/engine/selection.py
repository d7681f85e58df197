"""What of the detections is shown and written: a threshold for all, for single classes, some classes only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._names import name_list
from ..models.class_names import UNUSED
from .draw import save_picture

if TYPE_CHECKING:
    from ..config import DetectConfig
    from ..data.coco import CocoIds
    from .checkpoint import ModelSpec

__all__ = ["ResultIds", "Selection", "coco_results", "save_crops"]


class Selection:
    """A lowest score per class; a class that is not wanted has none that is high enough.

    Args:
        classes: names of labels 1, 2, ...
        threshold: lowest score of every class.
        of_class: name to lowest score, instead of ``threshold``.
        only: names of the classes that are kept; None: all.

    Raises:
        ValueError: a name that is no class, a threshold outside of [0, 1] or of a class that is not kept.

    Example:
        >>> chosen = Selection(("cat", "dog"), 0.5, {"dog": 0.9})
        >>> found = {"boxes": torch.zeros(2, 4), "scores": torch.tensor([0.8, 0.8])}
        >>> chosen.of({**found, "labels": torch.tensor([1, 2])})["labels"]
        tensor([1])
    """

    def __init__(
        self,
        classes: Sequence[str],
        threshold: float = 0.5,
        of_class: Mapping[str, float] | None = None,
        only: Sequence[str] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        lowest = [threshold] * len(classes)
        for name, value in (of_class or {}).items():
            if not 0 <= value <= 1:
                raise ValueError(f"the threshold of {name} must lie in [0, 1], got {value}")
            lowest[self._label(name) - 1] = value
        wanted = range(1, len(classes) + 1) if only is None else [self._label(name) for name in only]
        self.lowest = torch.full((len(classes) + 1,), float("inf"), device="cpu")
        for label in wanted:
            self.lowest[label] = lowest[label - 1]
        self.kept = tuple(name for label, name in enumerate(self.classes, 1) if label in wanted)
        idle = [name for name in of_class or {} if name not in self.kept]
        if idle:
            raise ValueError(
                f"thresholds must be of classes that are kept, {name_list(self.kept)}, got one of {idle[0]!r}"
            )

    def _label(self, name: str) -> int:
        if name not in self.classes:
            raise ValueError(f"classes must be of the checkpoint, {name_list(self.classes)}, got {name!r}")
        return self.classes.index(name) + 1

    def within(self, config: DetectConfig) -> DetectConfig:
        """``config`` with the thresholds that are higher than those asked for lowered to them.

        Example:
            >>> rule = ssd_cuda.DetectConfig(score_threshold=0.3)
            >>> Selection(("cat",), 0.5).within(rule) is rule, Selection(("cat",), 0.25).within(rule) is rule
            (True, False)
        """
        own = config.score_threshold
        of_column = own if isinstance(own, tuple) else (own,) * len(self.lowest)
        # The post-process takes scores above its threshold, the selection that of a score too. Not below 0,
        # where soft-NMS has no rule.
        below = torch.nextafter(self.lowest, torch.tensor(-math.inf, device="cpu")).clamp(min=0.0).tolist()
        lowered = tuple(map(min, of_column, below))
        if lowered == of_column:
            return config
        if config.class_agnostic and config.soft_nms:  # whose threshold is one for all
            return replace(config, score_threshold=min(lowered))
        return replace(config, score_threshold=lowered)

    def of(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The detections of an image that are chosen, in their order."""
        keep = found["scores"].cpu() >= self.lowest[found["labels"].cpu()]
        return {name: value[keep.to(value.device)] for name, value in found.items()}

    def rows(self, found: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """Chosen detections as plain values: ``box`` x1, y1, x2, y2 in pixels, ``score``, ``class``, and
        ``landmarks`` x, y, x, y ... where there are any."""
        boxes, labels = found["boxes"].tolist(), found["labels"].tolist()
        # As few digits as tell a score from every other: equal ones would lose their order, and AP with it.
        scores = [float(str(score)) for score in found["scores"].cpu().numpy()]
        points = found["extra"].tolist() if "extra" in found else [None] * len(boxes)
        rows = []
        for box, score, label, point in zip(boxes, scores, labels, points, strict=True):
            row = {
                "box": [round(v, 2) for v in box],
                "score": score,
                "class": self.classes[label - 1],
            }
            rows.append(row if point is None else {**row, "landmarks": [round(v, 2) for v in point]})
        return rows


class ResultIds:
    """What images and classes are called in COCO results.

    An image has the number that its file is named by, else the name without its ending, and a class what
    :meth:`~ssd_cuda.engine.checkpoint.ModelSpec.coco_ids` says; with ``annotations`` both have the ids of
    that file.

    Args:
        selection: what is written.
        spec: of the model.
        files: the images that are to be detected on.
        annotations: of a COCO file, or None.

    Raises:
        ValueError: a class or an image that the file lacks, two images of one id.

    Example:
        >>> spec = ssd_cuda.engine.checkpoint.ModelSpec("ssd_small", ("cat",), (64, 64))
        >>> ResultIds(Selection(spec.classes), spec, ["val/000139.jpg"]).images
        {'val/000139.jpg': 139}
    """

    def __init__(
        self,
        selection: Selection,
        spec: ModelSpec,
        files: Sequence[str | Path] = (),
        annotations: CocoIds | None = None,
    ) -> None:
        categories: Sequence[int | str | None] = spec.coco_ids()
        if annotations is not None:
            # A label that stands for none of COCO's categories has no id there, and is not written.
            needed = [name for name in selection.kept if not name.startswith(UNUSED)]
            categories = annotations.category_ids(spec.classes, needed)
        self.categories = dict(zip(spec.classes, categories, strict=True))
        self.images: dict[str, int | str] = {}
        first: dict[int | str, str | Path] = {}
        for file in files:
            number = _stem_id(file) if annotations is None else annotations.image_id(file)
            if first.setdefault(number, file) != file:
                raise ValueError(
                    f"images must have an id each in COCO results, got {number!r} for {first[number]} and "
                    f"{file}"
                )
            self.images[str(file)] = number


def _stem_id(file: str | Path) -> int | str:
    stem = Path(file).stem
    return int(stem) if stem.isdecimal() else stem


def coco_results(rows: Sequence[Mapping[str, Any]], ids: ResultIds) -> list[dict[str, Any]]:
    """Rows of images as COCO's results: ``image_id`` (of a video the frame), ``category_id``, ``bbox`` x, y,
    width, height, ``score``.

    Example:
        >>> spec = ssd_cuda.engine.checkpoint.ModelSpec("ssd_small", ("cat",), (64, 64), category_ids=(7,))
        >>> ids = ResultIds(Selection(spec.classes), spec, ["000139.jpg"])
        >>> found = [{"box": [1.0, 2.0, 4.0, 8.0], "score": 0.5, "class": "cat"}]
        >>> coco_results([{"image": "000139.jpg", "detections": found}], ids)
        [{'image_id': 139, 'category_id': 7, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 0.5}]
    """
    results = []
    for row in rows:
        image_id = row["frame"] if "frame" in row else ids.images[row["image"]]
        for found in row["detections"]:
            x1, y1, x2, y2 = found["box"]
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            category = ids.categories[found["class"]]
            if category is not None:
                results.append(
                    {"image_id": image_id, "category_id": category, "bbox": box, "score": found["score"]}
                )
    return results


def save_crops(
    folder: Path, name: str, image: Tensor, found: Mapping[str, Tensor], classes: Sequence[str]
) -> int:
    """Write what is inside of each box as ``<name>-<number>-<class>.png``; returns how many there are.

    Args:
        image: uint8 ``[3, H, W]``; boxes are cut to it, and one without a pixel is left out.
    """
    from .._extras import require

    pillow, count = require("PIL.Image", "writing crops"), 0
    height, width = image.shape[1:]
    for number, (box, label) in enumerate(
        zip(found["boxes"].tolist(), found["labels"].tolist(), strict=True), 1
    ):
        left, top = max(0, int(box[0])), max(0, int(box[1]))
        right, bottom = min(width, int(box[2]) + 1), min(height, int(box[3]) + 1)
        if right <= left or bottom <= top:
            continue
        piece = image[:, top:bottom, left:right].permute(1, 2, 0).contiguous().cpu().numpy()
        kind = re.sub(r"\W+", "_", classes[label - 1])[:40]
        save_picture(folder / f"{name}-{number}-{kind}.png", pillow.fromarray(piece))
        count += 1
    return count
