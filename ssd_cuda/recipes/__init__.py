"""Recipes of training by name, as data: a file each, of what its source published.

``RECIPE`` of a file has ``model`` (a key of ``ssd_cuda.models.MODELS``), ``size`` (height, width; None: the
model's) and ``train``, the fields of :class:`~ssd_cuda.engine.recipe.TrainConfig` that differ from the
defaults; ``freeze`` may be ``"backbone"``, all of its stages. A recipe in several parts has a list of such
under ``stages``.
``NOTE`` says what the source does otherwise. A new file is found by being here.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

__all__ = ["NAMES", "recipe"]

NAMES = tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def recipe(name: str) -> list[dict[str, Any]]:
    """The parts of a recipe, most have one: dicts of ``model``, ``size`` and ``train``.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> recipe("paper300")[0]["train"]["steps"]
        120000
    """
    if name not in NAMES:
        raise ValueError(f"recipe must be one of {', '.join(NAMES)}, got {name!r}")
    found = importlib.import_module(f"{__name__}.{name}").RECIPE
    return [dict(part) for part in found.get("stages", [found])]
