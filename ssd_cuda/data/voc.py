"""Pascal VOC folders.

Layout: ``ImageSets/Main/<split>.txt`` (one image name a line), ``Annotations/<name>.xml`` and
``JPEGImages/<name>.jpg`` (or another suffix of ``IMAGE_SUFFIXES``, in any case of letters). A line of a
split file may hold a flag after the name, as PASCAL's lists of one class do, and names may hold spaces:
the longest reading that has an annotation counts.

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

import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from .._names import counted, name_list
from ..config import check_choice
from .dataset import OnDegenerate, Record, RecordDataset
from .files import IMAGE_SUFFIXES, DataError, DataFolder, read_bytes, read_text, visible

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = ("-1", "0", "1")
_LIMIT = 1e9  # pixels; float32 squares it without overflow


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
        allow_outside: take names that lead out of ``root``.

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
        allow_outside: bool = False,
    ) -> None:
        check_choice("coordinates", coordinates, ("edges", "one_based"))
        root = Path(root)
        for part in ("ImageSets/Main", "JPEGImages", "Annotations"):
            if not (root / part).is_dir():
                raise DataError(f"a Pascal VOC folder must hold {part}, got {root} without it")
        folder = DataFolder(root, allow_outside=allow_outside)
        names = _read_split(root, split, folder)
        if classes is None:
            classes = find_classes(root)
        label_of = {name: label for label, name in enumerate(classes, 1)}
        shift = np.array([1, 1, 0, 0] if coordinates == "one_based" else [0, 0, 0, 0], np.float32)
        records = [_read_record(root, name, label_of, shift, folder) for name in names]
        super().__init__(records, classes, degenerate)


def voc_splits(root: str | Path) -> list[str]:
    """The split names of a VOC folder; the per-class lists (``aeroplane_train``) are left out."""
    names = [path.stem for path in visible((Path(root) / "ImageSets" / "Main").glob("*.txt"))]
    return [name for name in names if name.rpartition("_")[2] not in names or "_" not in name]


def find_classes(root: str | Path) -> tuple[str, ...]:
    """Every class name in ``Annotations``, sorted."""
    names: set[str] = set()
    for path in visible((Path(root) / "Annotations").glob("*.xml")):
        names.update(_text(obj, "name", path) for obj in _parse(path).iterfind("object"))
    if not names:
        raise DataError(f"{Path(root) / 'Annotations'} must hold .xml files with objects, got none")
    return tuple(sorted(names))


def _read_split(root: Path, split: str, folder: DataFolder) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        known = name_list(voc_splits(root)) or "none"
        raise DataError(f"split {split!r} needs the file {path}, which does not exist; splits here: {known}")
    lines = read_text(path, "split file").splitlines()
    names = [_read_name(line.strip(), root / "Annotations", path, folder) for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path} must name at least one image, got an empty file")
    twice = len(names) - len(set(names))
    if twice:
        warnings.warn(
            f"{path} names {counted(twice, 'image')} more than once: they count as often", stacklevel=3
        )
    return names


def _read_name(line: str, annotations: Path, source: Path, folder: DataFolder) -> str:
    """The image that a line of a split file names: the longest reading that has an annotation."""
    readings = [line]
    head, _, flag = line.rpartition(" ")
    if head and flag in _FLAGS:
        readings.append(head.strip())
    readings += [
        name[: -len(end)] for name in readings for end in IMAGE_SUFFIXES if name.lower().endswith(end)
    ]
    readings.append(line.split()[0])
    for name in readings:
        if folder.has(folder.find(f"{name}.xml", [annotations], source)):
            return name
    return readings[1] if head and flag in _FLAGS else line


def _parse(path: Path) -> ElementTree.Element:
    content = read_bytes(path, "annotation")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        if "unknown encoding" not in str(error):
            raise DataError(f"annotation {path} does not parse: {error}") from error
        raise _encoding_error(path, content) from error
    except (LookupError, ValueError) as error:  # an encoding that Python lacks too, or one of several bytes
        raise _encoding_error(path, content) from error
    for element in root.iter():  # {http://...}object is an object
        element.tag = element.tag.rpartition("}")[2]
    return root


def _encoding_error(path: Path, content: bytes) -> DataError:
    declared = re.search(rb"""encoding=["']([^"']{1,40})""", content[:200])
    name = declared.group(1).decode("ascii", "replace") if declared else "an unknown one"
    return DataError(
        f"annotation {path} must be in an encoding that the XML parser knows, got {name}; "
        "write it anew as UTF-8 and say so in its first line"
    )


def _text(element: ElementTree.Element, tag: str, path: Path) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise DataError(f"annotation {path} must have a <{tag}> in every <{element.tag}>, got one without")
    return text


def _number(element: ElementTree.Element, tag: str, path: Path) -> float:
    text = _text(element, tag, path)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LIMIT:
        raise DataError(f"annotation {path} must have a number in <{tag}>, got {text[:40]!r}")
    return value


def _read_record(
    root: Path, name: str, label_of: dict[str, int], shift: np.ndarray, folder: DataFolder
) -> Record:
    path = root / "Annotations" / f"{name}.xml"
    tree = _parse(path)
    boxes, labels, difficult = [], [], []
    for obj in tree.iterfind("object"):
        label = _text(obj, "name", path)
        if label not in label_of:
            raise DataError(
                f"annotation {path} must use the classes {name_list(list(label_of))}, got {label!r}"
            )
        corners = obj.find("bndbox")
        if corners is None:
            raise DataError(f"annotation {path} must have a <bndbox> in every <object>, got one without")
        boxes.append([_number(corners, tag, path) for tag in _CORNERS])
        labels.append(label_of[label])
        difficult.append((obj.findtext("difficult") or "0").strip().lower() in ("1", "true"))
    size = tree.find("size")
    height, width = (0, 0) if size is None else (int(_number(size, t, path)) for t in ("height", "width"))
    flat = np.array(boxes, np.float32).reshape(-1, 4) - shift
    image = folder.find(name, [root / "JPEGImages"], path, suffixes=IMAGE_SUFFIXES)
    if not folder.has(image):
        raise DataError(f"image {image}.jpg does not exist (nor with another known suffix)")
    return Record(
        image=image,
        image_id=name,
        size=(height, width) if height > 0 and width > 0 else (0, 0),
        boxes=flat,
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult, bool),
        crowd=np.zeros(len(labels), bool),
        area=(flat[:, 2] - flat[:, 0]) * (flat[:, 3] - flat[:, 1]),
        source=path,
    )
