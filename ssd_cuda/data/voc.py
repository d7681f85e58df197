"""Pascal VOC folders.

Layout: ``ImageSets/Main/<split>.txt`` (one image name a line), ``Annotations/<name>.xml`` and
``JPEGImages/<name>.jpg`` (or .png, .jpeg, .bmp, .webp).

**Subtract 1 or not?** PASCAL's own annotations count pixels from 1 and include both ends: a box of
(1, 1, 1, 1) is the first pixel. In the continuous coordinates of this package that outline is
``(xmin - 1, ymin - 1, xmax, ymax)``: only the upper left corner moves, and the plain IoU of such boxes
equals the devkit's IoU with its ``+ 1`` in every width. (Subtracting 1 from all four numbers, as some
codebases do, moves the box to its place but makes it a pixel too small.) Other folders in this layout
come from labelling tools, which write the corners of a drawn rectangle: continuous coordinates already.
Nothing in the files tells the two apart, and the errors are not alike: leaving one-based boxes as they
are costs one pixel at two sides, subtracting from continuous ones pushes boxes out of the image. So
``coordinates="edges"`` takes the numbers as they are and is the default; for PASCAL's own VOC2007 and
VOC2012 choose ``coordinates="one_based"``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..config import check_choice
from .dataset import DataError, OnDegenerate, Record, RecordDataset

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".webp")


class VocDataset(RecordDataset):
    """One split of a Pascal VOC folder; see :class:`~ssd_cuda.data.dataset.DetectionDataset`.

    All annotations of the split are parsed here, so that a bad file is found before training starts;
    images are read when asked for.

    Args:
        root: the folder that holds ``ImageSets``, ``JPEGImages`` and ``Annotations``.
        split: a file of ``ImageSets/Main``, without ``.txt``.
        classes: names of labels 1, 2, ... None: every name found in ``Annotations`` (all splits, so
            that train and test agree), sorted.
        coordinates: ``"edges"`` or ``"one_based"``; see the module.
        degenerate: boxes without area are left out and counted in one warning (``"drop"``), or raise.

    Raises:
        DataError: a missing folder, split, annotation or image list; an annotation that does not
            parse; an object of a class that ``classes`` does not name.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "trainval",
        *,
        classes: Sequence[str] | None = None,
        coordinates: Literal["edges", "one_based"] = "edges",
        degenerate: OnDegenerate = "drop",
    ) -> None:
        check_choice("coordinates", coordinates, ("edges", "one_based"))
        root = Path(root)
        for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
            if not (root / folder).is_dir():
                raise DataError(f"a Pascal VOC folder must hold {folder}, got {root} without it")
        names = _read_split(root, split)
        if classes is None:
            classes = find_classes(root)
        label_of = {name: label for label, name in enumerate(classes, 1)}
        shift = np.array([1, 1, 0, 0] if coordinates == "one_based" else [0, 0, 0, 0], np.float32)
        records = [_read_record(root, name, label_of, shift) for name in names]
        super().__init__(records, classes, degenerate)


def voc_splits(root: str | Path) -> list[str]:
    """The split names of a VOC folder; the per-class lists (``aeroplane_train``) are left out."""
    names = sorted(path.stem for path in (Path(root) / "ImageSets" / "Main").glob("*.txt"))
    return [name for name in names if name.rpartition("_")[2] not in names or "_" not in name]


def find_classes(root: str | Path) -> tuple[str, ...]:
    """Every class name in ``Annotations``, sorted."""
    names: set[str] = set()
    for path in sorted((Path(root) / "Annotations").glob("*.xml")):
        names.update(_text(obj, "name", path) for obj in _parse(path).iterfind("object"))
    if not names:
        raise DataError(f"{Path(root) / 'Annotations'} must hold .xml files with objects, got none")
    return tuple(sorted(names))


def _read_split(root: Path, split: str) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(voc_splits(root)) or "none"
        raise DataError(f"split {split!r} needs the file {path}, which does not exist; splits here: {known}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"split file {path} cannot be read: {error}") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path} must name at least one image, got an empty file")
    return names


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise DataError(f"annotation {path} does not exist") from None
    except (ElementTree.ParseError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"annotation {path} does not parse: {error}") from error


def _text(element: ElementTree.Element, tag: str, path: Path) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise DataError(f"annotation {path} must have a <{tag}> in every <{element.tag}>, got one without")
    return text


def _number(element: ElementTree.Element, tag: str, path: Path) -> float:
    text = _text(element, tag, path)
    try:
        return float(text)
    except ValueError:
        raise DataError(f"annotation {path} must have a number in <{tag}>, got {text!r}") from None


def _find_image(root: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        path = root / "JPEGImages" / (name + suffix)
        if path.is_file():
            return path
    raise DataError(f"image {root / 'JPEGImages' / name}.jpg does not exist (nor with another known suffix)")


def _read_record(root: Path, name: str, label_of: dict[str, int], shift: np.ndarray) -> Record:
    path = root / "Annotations" / f"{name}.xml"
    tree = _parse(path)
    boxes, labels, difficult = [], [], []
    for obj in tree.iterfind("object"):
        label = _text(obj, "name", path)
        if label not in label_of:
            raise DataError(f"annotation {path} must use the classes {', '.join(label_of)}, got {label!r}")
        corners = obj.find("bndbox")
        if corners is None:
            raise DataError(f"annotation {path} must have a <bndbox> in every <object>, got one without")
        boxes.append([_number(corners, tag, path) for tag in _CORNERS])
        labels.append(label_of[label])
        difficult.append((obj.findtext("difficult") or "0").strip() == "1")
    size = tree.find("size")
    height, width = (0, 0) if size is None else (int(_number(size, t, path)) for t in ("height", "width"))
    flat = np.array(boxes, np.float32).reshape(-1, 4) - shift
    return Record(
        image=_find_image(root, name),
        image_id=name,
        size=(height, width) if height > 0 and width > 0 else (0, 0),
        boxes=flat,
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult, bool),
        crowd=np.zeros(len(labels), bool),
        area=(flat[:, 2] - flat[:, 0]) * (flat[:, 3] - flat[:, 1]),
        source=path,
    )
