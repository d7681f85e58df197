"""Class weights of a training run: from a list of names, or from how often the data has each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .._names import name_list

if TYPE_CHECKING:
    from ..data import DetectionDataset

__all__ = ["balanced_weights", "parse_weights"]

_BACKGROUND = "background"


def parse_weights(text: str, classes: Sequence[str], argument: str = "class_weights") -> tuple[float, ...]:
    """The weights of the background and of ``classes`` from ``"cat=2,dog=0.5"``; what is not named has 1.

    Args:
        text: names with weights; ``background`` names the background where no class is called so. A name
            may hold a comma or a sign of equality itself: the longest one that fits counts.
        classes: names of labels 1, 2, ...
        argument: how messages call ``text``.

    Raises:
        ValueError: a name that is no class, one that comes twice, a weight that is no number of at least 0.

    Example:
        >>> parse_weights("dog=0.5,background=0.25", ("cat", "dog"))
        (0.25, 1.0, 0.5)
    """
    names = [_BACKGROUND if _BACKGROUND not in classes else "", *classes]
    weights: dict[str, float] = {}
    for part in _parts(text, names):
        name, sign, number = part.rpartition("=")
        name = name.strip()
        if not sign or not name:
            raise ValueError(
                f"{argument} must be 'balanced' or names with weights, cat=2,dog=0.5, got {part.strip()!r}"
            )
        if name not in names:
            raise ValueError(f"{argument} must name classes of the data, {name_list(classes)}, got {name!r}")
        if name in weights:
            raise ValueError(f"{argument} must name a class once, got {name!r} twice")
        weights[name] = _weight(number, name, argument)
    return tuple(weights.get(name, 1.0) for name in names)


def _parts(text: str, names: Sequence[str]) -> list[str]:
    """``text`` cut at its commas, but for those inside of a name."""
    parts: list[str] = []
    for piece in text.split(","):
        known = parts and "=" not in parts[-1] and any(n.startswith(f"{parts[-1].strip()},") for n in names)
        parts = [*parts[:-1], f"{parts[-1]},{piece}"] if known else [*parts, piece]
    return parts


def _weight(number: str, name: str, argument: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"{argument} must be finite numbers of at least 0, got {number.strip()!r} for {name!r}"
        )
    return value


def balanced_weights(dataset: DetectionDataset) -> tuple[float, ...]:
    """Weights by which every class of the data counts alike: ``n / (k n_c)`` for a class with ``n_c`` of the
    ``n`` boxes of ``k`` classes, as scikit-learn's ``"balanced"``. Background, and classes without a box: 1.

    Crowds, which are no objects to train, are not counted.

    Example:
        >>> weights = balanced_weights(data.open_dataset("shapes", "train", length=8))
        >>> len(weights), weights[0]
        (6, 1.0)
    """
    counts = torch.zeros(len(dataset.classes) + 1, dtype=torch.int64, device="cpu")
    for index in range(len(dataset)):
        target = dataset.target(index)
        counts += torch.bincount(target["labels"][~target["crowd"]], minlength=len(counts))
    there = counts[1:] > 0
    total, kinds = int(counts[1:].sum()), int(there.sum())
    return (1.0, *(total / (kinds * n) if n else 1.0 for n in counts[1:].tolist()))
