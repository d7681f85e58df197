"""Looking at a run from outside while it trains: validation loss, average precision, when it is enough."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._names import counted
from ..config import check_integer
from ..data import DetectionDataset
from ..data.dataset import RecordDataset
from .evaluate import evaluate
from .files import identity
from .metrics import Rule

if TYPE_CHECKING:
    from .train import Trainer

__all__ = ["Validation", "best_row", "overlap_of"]


@dataclass
class Validation:
    """Evaluates the averaged model on images that are not trained on.

    Every look adds a row to ``trainer.scores``: ``epoch``, ``step``, ``localization``, ``classification``,
    ``ap50``, ``map`` (None where there is nothing to find).

    Attributes:
        dataset: at its own image sizes.
        every: epochs between two looks; the last epoch always gets one.
        patience: looks without a better AP50 after which the run ends; None: it goes on.
        best: file for the checkpoint of the best AP50; None: not kept.
        batch_size, workers, rule, progress: of :func:`~ssd_cuda.engine.evaluate.evaluate`.

    Example:
        >>> Validation(data.open_dataset("shapes", "test", length=2), every=5).patience is None
        True
    """

    dataset: DetectionDataset
    every: int = 1
    patience: int | None = None
    best: Path | None = None
    batch_size: int = 8
    workers: int = 1
    rule: Rule = "area"
    progress: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        check_integer("every", self.every, 1)
        if self.patience is not None:
            check_integer("patience", self.patience, 1)

    def look(self, trainer: Trainer) -> bool:
        """Evaluate, if it is time to; whether this is the best so far."""
        if trainer.epoch % self.every and not trainer.is_done:
            return False
        processes = trainer.processes
        scores = evaluate(
            trainer.average,
            self.dataset,
            batch_size=self.batch_size,
            workers=self.workers,
            rule=self.rule,
            progress=self.progress,
            processes=processes,
            losses=True,
        )
        row = dict(zip(("localization", "classification"), scores["loss"], strict=True))
        row |= {key: None if math.isnan(scores[key]) else scores[key] for key in ("ap50", "map")}
        trainer.scores.append({"epoch": trainer.epoch, "step": trainer.step, **row})
        return best_row(trainer.scores) == len(trainer.scores) - 1

    def is_enough(self, scores: list[dict[str, Any]]) -> bool:
        """Whether the last ``patience`` looks have brought nothing better."""
        return self.patience is not None and len(scores) - 1 - best_row(scores) >= self.patience

    def was_enough(self, trainer: Trainer) -> bool:
        """Whether a run that is to go on had ended by :meth:`is_enough`; then it is said how it would."""
        if not trainer.scores or trainer.is_done or not self.is_enough(trainer.scores):
            return False
        if trainer.processes.is_first:
            looks = counted(self.patience or 0, "look")
            warnings.warn(
                f"the run has ended: no better AP50 in {looks}; it goes on with a higher --patience "
                "(patience), or none",
                stacklevel=3,
            )
        return True


def best_row(scores: list[dict[str, Any]]) -> int:
    """Which row has the highest AP50, the first of equals.

    Example:
        >>> best_row([{"ap50": 0.5}, {"ap50": 0.7}, {"ap50": 0.7}])
        1
    """
    return max(range(len(scores)), key=lambda i: (scores[i]["ap50"] or 0.0, -i))


def overlap_of(
    trained: DetectionDataset, tested: DetectionDataset, splits: tuple[str, str], advice: str = ""
) -> str:
    """A sentence where some images that are to be tested on are trained on too, or nothing.

    Args:
        trained, tested: of one folder. Those of files are compared, linked or not, the others not at all.
        splits: their names.
        advice: what the error ends in.

    Raises:
        ValueError: they are the same images: scores of these say what was learned by heart.

    Example:
        >>> train, test = (data.open_dataset("shapes", split, length=2) for split in ("train", "test"))
        >>> overlap_of(train, test, ("train", "test"))
        ''
    """
    known, asked = _spelled(
        [str(r.image) for r in one.records] if isinstance(one, RecordDataset) else []
        for one in (trained, tested)
    )
    if splits[0] == splits[1] or (asked and set(known) == set(asked)):
        raise ValueError(
            f"the test split must have other images than {splits[0]!r}, which is trained on, got "
            f"{splits[1]!r}{advice}"
        )
    there = set(known)
    count = sum(path in there for path in asked)
    if not count:
        return ""
    return (
        f"{count} of the {len(asked)} test images of {splits[1]!r} are trained on too, in {splits[0]!r}: "
        "scores of these are too good"
    )


def _spelled(groups: Iterable[list[str]]) -> list[list[str]]:
    """One path for each file of all groups, by whatever link of it or of its folder it is named.

    A look at each takes microseconds, the reading of an image milliseconds.
    """
    first: dict[object, str] = {}
    spelled: dict[str, str] = {}
    found = []
    for paths in groups:
        for path in paths:
            if path not in spelled:
                spelled[path] = first.setdefault(identity(path) or os.path.realpath(path), path)
        found.append([spelled[path] for path in paths])
    return found
