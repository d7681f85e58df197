"""What a data set is, before anything is trained on it: counts, sizes, odd boxes, what the priors do not
reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._names import counted, printable
from ..data import DetectionDataset
from ..data.dataset import RecordDataset, lies_outside
from ..models import SSD
from .draw import class_colour, figure_class
from .fonts import set_names
from .outputs import write_file
from .priors_fit import reach_of

__all__ = ["DataReport", "describe", "draw_report", "report_lines"]

_SMALL = 8  # pixels of the model's image, below which little is left of an object
_THIN = 5  # sides of this ratio and more


@dataclass(frozen=True)
class DataReport:
    """What :func:`describe` finds.

    Attributes:
        images: how many, ``empty`` of them without an object.
        classes: name to the number of its objects.
        sides: ``[G, 2]`` width and height of every object in fractions of its image.
        labels: ``[G]``.
        best: ``[G]`` the highest IoU with a prior.
        odd: what is odd about some boxes, or images -> (how many, the image of the first).
    """

    images: int
    empty: int
    classes: dict[str, int]
    sides: np.ndarray
    labels: np.ndarray
    best: np.ndarray
    odd: dict[str, tuple[int, str]]

    def as_json(self) -> dict[str, Any]:
        """The numbers, without those of single objects."""
        lengths = np.sqrt(self.sides.prod(1))
        parts = (0.0, 0.25, 0.5, 0.75, 1.0)
        return {
            "images": self.images,
            "images_without_objects": self.empty,
            "objects": self.classes,
            "size_quantiles": [float(np.quantile(lengths, q)) if len(lengths) else None for q in parts],
            "reached_at_50": float((self.best >= 0.5).mean()) if len(self.best) else None,
            "odd": {what: {"count": count, "first": first} for what, (count, first) in self.odd.items()},
        }


def describe(dataset: DetectionDataset, model: SSD) -> DataReport:
    """Look at the annotations of ``dataset`` as training of ``model`` would see them; images are not read.

    Example:
        >>> model = models.ssd_small(num_classes=6, image_size=(64, 64))
        >>> describe(data.open_dataset("shapes", "train", length=3), model).images
        3
    """
    targets = [dataset.target(index) for index in range(len(dataset))]
    names = [str(target["image_id"]) for target in targets]
    raw, labels = [], []
    for target in targets:
        height, width = target["size"]
        kept = ~target["crowd"]
        boxes = target["boxes"].as_subclass(Tensor)[kept]
        raw.append(boxes / torch.tensor([width, height, width, height]))
        labels.append(target["labels"][kept])
    boxes = [own.clamp(0, 1) for own in raw]
    reach = reach_of(model, boxes)
    owner = torch.cat([torch.full((len(own),), i) for i, own in enumerate(raw)] or [torch.zeros(0)]).long()
    flat, outside = (torch.cat([*rows, torch.zeros(0, 4)]) for rows in (boxes, raw))
    all_labels = torch.cat([*labels, torch.zeros(0, dtype=torch.int64)])
    sides = flat[:, 2:] - flat[:, :2]
    pixels = sides * torch.tensor([model.image_size[1], model.image_size[0]])
    ratio = pixels.amax(1) / pixels.amin(1).clamp(min=1e-9)
    height, width = model.image_size
    # Of these nothing is left to have a size, a shape or a prior.
    gone = torch.cat([lies_outside(own, (1, 1)) for own in raw] or [torch.zeros(0, dtype=torch.bool)])
    found = {
        f"below {_SMALL} pixels in images of {width}x{height}": pixels.amin(1) < _SMALL,
        f"{_THIN} times as long as wide, or more": ratio >= _THIN,
        "partly outside of the image": (outside != flat).any(1),
        "as large as the image": (sides >= 0.99).all(1),
        "twice in one image": _doubles(boxes, labels),
        "below an IoU of 0.5 with every prior": reach.best < 0.5,
        "without a prior of its own": reach.unmatched,
    }
    found = {what: rows & ~gone for what, rows in found.items()}
    found["outside of the image: training leaves them out, evaluation counts them"] = gone
    odd = {what: (int(rows.sum()), names[int(owner[rows][0])]) for what, rows in found.items() if rows.any()}
    odd |= _without_file(dataset)
    counts = torch.bincount(all_labels, minlength=len(dataset.classes) + 1)[1:].tolist()
    return DataReport(
        images=len(dataset),
        empty=sum(len(own) == 0 for own in boxes),
        classes=dict(zip(dataset.classes, counts, strict=True)),
        sides=sides.double().numpy(),
        labels=all_labels.numpy(),
        best=reach.best.numpy(),
        odd=odd,
    )


def _without_file(dataset: DetectionDataset) -> dict[str, tuple[int, str]]:
    """A COCO file may list images that were not copied: it is taken as long as its first one is there."""
    records = dataset.records if isinstance(dataset, RecordDataset) else []
    names = [str(record.image_id) for record in records if not record.image.is_file()]
    what = "of the images without a file: training and evaluation end there"
    return {what: (len(names), names[0])} if names else {}


def _doubles(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """[G] whether an earlier object of the image has the class and, to half a percent, the box."""
    rows = [torch.zeros(0, dtype=torch.bool)]
    for own, names in zip(boxes, labels, strict=True):
        close = (own[:, None] - own).abs().amax(-1) <= 0.005
        rows.append((close & (names[:, None] == names)).tril(-1).any(1))
    return torch.cat(rows)


def report_lines(report: DataReport) -> list[str]:
    """The report as lines to print.

    Example:
        >>> model = models.ssd_small(num_classes=6, image_size=(64, 64))
        >>> report_lines(describe(data.open_dataset("shapes", "train", length=3), model))[0]
        '3 images, 0 of them without objects; 19 objects'
    """
    total = len(report.sides)
    lines = [
        f"{counted(report.images, 'image')}, {report.empty} of them without objects; "
        f"{counted(total, 'object')}"
    ]
    width = max((len(printable(name)) for name in report.classes), default=0)
    lines += [
        f"  {printable(name):<{width}}  {count:>7}  {count / max(total, 1):>6.1%}"
        for name, count in report.classes.items()
    ]
    if total:
        lengths = np.sqrt(report.sides.prod(1))
        quantiles = "  ".join(f"{np.quantile(lengths, q):.3f}" for q in (0, 0.25, 0.5, 0.75, 1))
        reached = (report.best >= 0.5).mean()
        lines.append(f"sizes, in parts of the image, from the least to the largest by quarters: {quantiles}")
        lines.append(f"{reached:.1%} reach an IoU of .5 with a prior, mean {report.best.mean():.2f}")
    lines += [
        f"  {count} {what}, the first in {printable(first)}" for what, (count, first) in report.odd.items()
    ]
    return lines


def draw_report(path: str | Path, report: DataReport, model: SSD) -> None:
    """Draw counts, sizes with those of the priors, and how well the priors meet the objects."""
    figure = figure_class("the picture of the data")(figsize=(12, 4), dpi=120)
    classes, shapes, reach = figure.subplots(1, 3)
    shown = list(report.classes.items())[:30]
    rows = range(len(shown))
    colours = [tuple(part / 255 for part in class_colour(index)) for index in rows]
    classes.barh(rows, [count for _, count in shown], color=colours)
    classes.set(
        xlabel="objects", title=f"{counted(report.images, 'image')}, {counted(len(report.sides), 'object')}"
    )
    names = [name for name, _ in shown]
    classes.set_yticks(rows, names)
    set_names(classes.get_yticklabels(), names)
    classes.invert_yaxis()
    known = report.labels <= len(shown)
    hues = [colours[label - 1] for label in report.labels[known]]
    shapes.scatter(*report.sides[known].T, s=6, c=hues or None, alpha=0.4, linewidths=0)
    priors = np.array([box for level in model.spec.cell_boxes() for box in level])
    shapes.scatter(*priors.T, marker="+", c="black", label="priors")
    shapes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="width", ylabel="height", title="in parts of the image")
    shapes.legend()
    reach.hist(report.best, bins=np.linspace(0, 1, 41), color="#228be6")
    reach.axvline(0.5, color="#fa5252")
    reach.set(xlabel="best IoU with a prior", title=f"{_percent(report)} reach .5")
    figure.tight_layout()
    write_file(path, _writer(figure, Path(path)))


def _percent(report: DataReport) -> str:
    return f"{(report.best >= 0.5).mean():.1%}" if len(report.best) else "none"


def _writer(figure: Any, path: Path) -> Callable[[Any], Any]:
    return lambda file: figure.savefig(file, format=path.suffix[1:] or "png")
