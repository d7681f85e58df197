"""Average precision by the rules of Pascal VOC and of COCO.

COCO's comes from pycocotools, its authors' own code. For VOC there is nothing to lean on: pycocotools
has no ``difficult`` flag (its ``iscrowd`` ignores too, but changes the IoU), interpolates at 101 recalls
and lets a detection take its second best object, where VOC's devkit does not; torchmetrics wraps
pycocotools. So the VOC rule is written out here; where the two rules coincide, a test holds it
against pycocotools.

Both functions take, per image, a mapping of predictions (``boxes`` [n, 4] x1, y1, x2, y2, ``scores``
[n], ``labels`` [n]) and one of targets (``boxes`` [m, 4], ``labels`` [m] and, where they are known,
``difficult`` [m], ``crowd`` [m], ``area`` [m]): tensors of any device, arrays or lists. Labels run from 1
in the order of ``classes``. Boxes of both are in pixels of the stored image; COCO's small, medium and
large mean nothing otherwise.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .._extras import require
from .._names import check_distinct
from ..config import check_choice, check_range

Rule = Literal["area", "11point", "101point"]
ImageDict = Mapping[str, Any]
_CLASSES_AT_ONCE = 500

_COCO_KEYS = (
    "map", "map50", "map75", "map_small", "map_medium", "map_large",
    "mar1", "mar10", "mar100", "mar_small", "mar_medium", "mar_large",
)  # fmt: skip


def voc_ap(
    predictions: Sequence[ImageDict],
    targets: Sequence[ImageDict],
    classes: Sequence[str],
    *,
    iou_threshold: float = 0.5,
    rule: Rule = "area",
) -> dict[str, Any]:
    """Average precision per class and its mean, by the rules of the Pascal VOC devkit.

    Per class, detections of all images are taken in order of falling score (earlier image and row first
    among equals). Each looks at the object of its class and image with the highest IoU: IoU below the
    threshold: false; a difficult object: not counted at all; the first to find it: true; found before:
    false. Difficult objects are not counted as missed either. Boxes are continuous outlines, so the IoU
    has no ``+ 1`` (see ``ssd_cuda/data/voc.py``).

    Args:
        predictions: per image; any number of rows, any order.
        targets: per image; ``difficult`` counts as False where it is missing, crowd regions as difficult.
        classes: names of labels 1, 2, ...
        iou_threshold: 0.5 gives AP50.
        rule: from precision and recall to a number: ``"area"`` under the interpolated curve (VOC from
            2010 on), ``"11point"`` mean of the highest precision at recalls 0, .1, ... 1 (VOC2007),
            ``"101point"`` the same at 0, .01, ... 1 (COCO's).

    Returns:
        ``map``: mean over the classes that have objects to find (nan if there is none); ``ap``: name to
        AP, nan for a class without objects, 0 for one with objects and no detections; ``objects`` and
        ``detections``: name to their number (difficult objects left out); ``rule`` and
        ``iou_threshold`` as given.

    Raises:
        ValueError: lengths or shapes that disagree, a number that is not finite, a label that ``classes`` has
            no name for, a name that it has twice.

    Example:
        >>> truth = [{"boxes": [[0, 0, 10, 10]], "labels": [1]}]
        >>> found = [{"boxes": [[0, 0, 10, 9]], "scores": [0.9], "labels": [1]}]
        >>> voc_ap(found, truth, ["cell"])["map"]
        1.0
    """
    check_choice("rule", rule, ("area", "11point", "101point"))
    check_range("iou_threshold", iou_threshold, 0.0, 1.0)
    found, truth = _as_arrays(predictions, targets, classes)
    ap, objects, detections = {}, {}, {}
    with_label: list[list[int]] = [[] for _ in range(len(classes) + 1)]  # images that have anything of it
    for i, sides in enumerate(zip(found, truth, strict=True)):
        for label in np.unique(np.concatenate([side["labels"] for side in sides])):
            with_label[label].append(i)
    for label, name in enumerate(classes, 1):
        detected, wanted = ([side[i] for i in with_label[label]] for side in (found, truth))
        hits, count = _voc_hits(detected, wanted, label, iou_threshold)
        objects[name] = count
        detections[name] = sum(int((image["labels"] == label).sum()) for image in detected)
        ap[name] = _average_precision(hits, count, rule)
    return {
        "map": _mean(ap.values()),
        "ap": ap,
        "objects": objects,
        "detections": detections,
        "rule": rule,
        "iou_threshold": iou_threshold,
    }


def coco_modules() -> tuple[Any, Any]:
    """``pycocotools.coco`` and ``pycocotools.cocoeval``: asked for before hours end in what needs them.

    Raises:
        ImportError: they are missing.

    Example:
        >>> [module.__name__ for module in coco_modules()]
        ['pycocotools.coco', 'pycocotools.cocoeval']
    """
    return require("pycocotools.coco", "COCO mAP"), require("pycocotools.cocoeval", "COCO mAP")


def coco_map(
    predictions: Sequence[ImageDict],
    targets: Sequence[ImageDict],
    classes: Sequence[str],
    *,
    max_detections: int = 100,
) -> dict[str, Any]:
    """COCO's twelve numbers and the AP of every class, by pycocotools.

    COCO has no ``difficult``: such objects count like any other. ``crowd`` regions are matched as
    pycocotools does, and ``area`` decides who is small (< 32^2) or large (> 96^2).

    Args:
        predictions, targets, classes: as for :func:`voc_ap`.
        max_detections: per image; the best are kept. Replaces the 100 of COCO's (1, 10, 100).

    Returns:
        ``map`` (IoU .5 to .95), ``map50``, ``map75``, ``map_small``, ``map_medium``, ``map_large``,
        ``mar1``, ``mar10``, ``mar100``, ``mar_small``, ``mar_medium``, ``mar_large`` and ``ap``: name to
        AP over IoU .5 to .95. nan where there is no object to find (pycocotools says -1).

    Raises:
        ValueError: as for :func:`voc_ap`. ImportError: pycocotools is missing.

    Example:
        >>> truth = [{"boxes": [[0, 0, 10, 10]], "labels": [1]}]
        >>> found = [{"boxes": [[0, 0, 10, 9]], "scores": [0.9], "labels": [1]}]
        >>> round(coco_map(found, truth, ["cell"])["map"], 2)  # IoU 0.9: nine of ten thresholds
        0.9
    """
    coco_module, eval_module = coco_modules()
    check_range("max_detections", max_detections, 10)
    found, truth = _as_arrays(predictions, targets, classes)
    tables = [_coco_table(images, classes) for images in (truth, found)]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for table in tables:
            side = coco_module.COCO()
            side.dataset = table
            side.createIndex()
            sides.append(side)
    # A class without objects counts nowhere; many go in parts: pycocotools' tables take 100 KB a class.
    present = sorted({int(label) for image in truth for label in image["labels"]})
    sums, ap = np.zeros((len(_COCO_KEYS), 2)), dict.fromkeys(classes, math.nan)
    for start in range(0, len(present), _CLASSES_AT_ONCE):
        labels = present[start : start + _CLASSES_AT_ONCE]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = eval_module.COCOeval(*sides, "bbox")
            evaluation.params.catIds = labels
            evaluation.params.maxDets = [1, 10, max_detections]
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"]  # [IoU, recall, class, area, max detections]
        recall = evaluation.eval["recall"]  # [IoU, class, area, max detections]
        sums += [_known(values) for values in _coco_parts(precision, recall)]
        ap.update((classes[k - 1], _ratio(*_known(precision[:, :, i, 0, 2]))) for i, k in enumerate(labels))
    return {**{key: _ratio(*row) for key, row in zip(_COCO_KEYS, sums, strict=True)}, "ap": ap}


def _coco_parts(precision: np.ndarray, recall: np.ndarray) -> list[np.ndarray]:
    """What each of ``_COCO_KEYS`` is the mean of."""
    parts = [precision[..., 0, 2], precision[0, ..., 0, 2], precision[5, ..., 0, 2]]
    parts += [precision[..., area, 2] for area in (1, 2, 3)]
    parts += [recall[..., 0, limit] for limit in (0, 1, 2)]
    return parts + [recall[..., area, 2] for area in (1, 2, 3)]


def _mean(values: Any) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _known(values: np.ndarray) -> tuple[float, int]:
    """Sum and number of what pycocotools did not mark as unknown with -1."""
    values = values[values > -1]
    return float(values.sum()), values.size


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else math.nan


def _array(image: ImageDict, key: str, dtype: type, where: str) -> np.ndarray:
    if key not in image:
        raise ValueError(f"{where} must have the key {key!r}, got {sorted(image)}")
    value = image[key]
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()  # bfloat16 too
    array = np.asarray(value)
    if dtype is np.int64 and array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise ValueError(f"{where}[{key!r}] must be whole numbers, got {array[array != np.rint(array)][0]}")
    return np.asarray(array, dtype)


def _check_rows(image: dict[str, np.ndarray], where: str, classes: int) -> None:
    image["boxes"] = image["boxes"].reshape(-1, 4) if image["boxes"].size == 0 else image["boxes"]
    rows = len(image["boxes"])
    if image["boxes"].shape != (rows, 4):
        raise ValueError(f"{where}['boxes'] must have shape [n, 4], got {list(image['boxes'].shape)}")
    for key, value in image.items():
        if value.shape[:1] != (rows,):
            raise ValueError(f"{where}[{key!r}] must have {rows} rows like boxes, got {list(value.shape)}")
        if key != "boxes" and value.ndim != 1:
            raise ValueError(f"{where}[{key!r}] must have shape [n], got {list(value.shape)}")
        # nan has no place in an order, and no overlap: each metric would count it in its own way
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{where}[{key!r}] must be finite, got {value[~np.isfinite(value)][0]}")
    labels = image["labels"]
    if rows and not (labels.min() >= 1 and labels.max() <= classes):
        bad = labels[(labels < 1) | (labels > classes)][0]
        raise ValueError(f"{where}['labels'] must lie in [1, {classes}], got {bad}")


def _as_arrays(
    predictions: Sequence[ImageDict], targets: Sequence[ImageDict], names: Sequence[str]
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Predictions and targets as numpy, checked, with every optional entry filled in."""
    check_distinct("classes", names)  # the results are keyed by them
    classes = len(names)
    if len(predictions) != len(targets):
        raise ValueError(
            f"predictions must have one entry per image like targets ({len(targets)}), got {len(predictions)}"
        )
    found, truth = [], []
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        where = f"predictions[{i}]"
        image = {
            "boxes": _array(prediction, "boxes", np.float64, where),
            "labels": _array(prediction, "labels", np.int64, where),
            "scores": _array(prediction, "scores", np.float64, where),
        }
        _check_rows(image, where, classes)
        found.append(image)
        where = f"targets[{i}]"
        image = {
            "boxes": _array(target, "boxes", np.float64, where),
            "labels": _array(target, "labels", np.int64, where),
        }
        for key in ("difficult", "crowd"):
            given = key in target
            image[key] = _array(target, key, bool, where) if given else np.zeros(len(image["labels"]), bool)
        if "area" in target:
            image["area"] = _array(target, "area", np.float64, where)
        _check_rows(image, where, classes)
        truth.append(image)
    return found, truth


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes [n, 4] with boxes [m, 4]; 0 where the union has no area.  # [n, m]"""
    a = a[:, None]  # [n, 1, 4]
    sides = np.minimum(a[..., 2:], b[:, 2:]) - np.maximum(a[..., :2], b[:, :2])
    inner = np.maximum(sides, 0.0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - inner
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)


def _voc_hits(
    found: list[dict[str, np.ndarray]], truth: list[dict[str, np.ndarray]], label: int, threshold: float
) -> tuple[np.ndarray, int]:
    """Whether each counted detection of a class is true, by falling score, and the objects to find."""
    scores, hits = [np.empty(0)], [np.empty(0, bool)]  # of counted detections, per image
    count = 0
    for detected, target in zip(found, truth, strict=True):
        mine = target["labels"] == label
        ignored = (target["difficult"] | target["crowd"])[mine]
        count += int((~ignored).sum())
        rows = np.flatnonzero(detected["labels"] == label)
        if not len(rows):
            continue
        # Only detections of one image compete for its objects, so the order within the image is enough.
        rows = rows[np.argsort(-detected["scores"][rows], kind="stable")]
        hit = np.zeros(len(rows), bool)
        counted = np.ones(len(rows), bool)
        if mine.any():
            iou = _iou(detected["boxes"][rows], target["boxes"][mine])
            best = iou.argmax(1)
            enough = iou[np.arange(len(rows)), best] >= threshold
            counted = ~(enough & ignored[best])
            claims = np.flatnonzero(enough & counted)
            hit[claims[np.unique(best[claims], return_index=True)[1]]] = True  # the first of each object
        scores.append(detected["scores"][rows][counted])
        hits.append(hit[counted])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return np.concatenate(hits)[order], count


def _average_precision(hits: np.ndarray, count: int, rule: Rule) -> float:
    if count == 0:
        return math.nan
    true = np.cumsum(hits)
    recall = true / count
    precision = true / np.arange(1, len(hits) + 1)
    # The highest precision at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "area":
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
    if rule == "11point":  # recall >= i / 10, in whole numbers
        at = np.searchsorted(10 * true, np.arange(11) * count)
    else:  # in floating point, as pycocotools does it
        at = np.searchsorted(recall, np.linspace(0.0, 1.0, 101))
    return float(np.sum(envelope[at[at < len(envelope)]]) / len(at))


def _coco_table(images: list[dict[str, np.ndarray]], classes: Sequence[str]) -> dict[str, Any]:
    """The images as the dict that pycocotools reads from a json; scores where they have some."""
    entries: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        boxes = image["boxes"]
        sizes = boxes[:, 2:] - boxes[:, :2]
        areas = image.get("area", sizes[:, 0] * sizes[:, 1])
        for row, label in enumerate(image["labels"]):
            entry = {
                "id": len(entries) + 1,
                "image_id": number,
                "category_id": int(label),
                "bbox": [*boxes[row, :2].tolist(), *sizes[row].tolist()],
                "area": float(areas[row]),
                "iscrowd": int(image["crowd"][row]) if "crowd" in image else 0,
            }
            if "scores" in image:
                entry["score"] = float(image["scores"][row])
            entries.append(entry)
    return {
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes, 1)],
        "annotations": entries,
    }
