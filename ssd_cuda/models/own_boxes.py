"""Priors of a model that were fitted to data: other boxes in its cells, as many as before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .detector import SSD

__all__ = ["box_options", "with_boxes"]

_MOST = 10.0  # sides of the image; what is larger is no box of it


def box_options(boxes: Sequence[Sequence[tuple[float, float]]]) -> str:
    """The ``options`` of :func:`ssd_cuda.models.build_model` that give a model these boxes.

    Args:
        boxes: per level the (width, height) of every box of a cell, in fractions of the image.
    """
    return json.dumps({"boxes": [[[float(w), float(h)] for w, h in level] for level in boxes]})


def with_boxes(model: SSD, options: str) -> SSD:
    """``model`` with the boxes of :func:`box_options` in its cells.

    Raises:
        ValueError: options of something else, another number of levels or of boxes in a cell, sides that are
            none.
    """
    try:
        found = json.loads(options)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"options must be JSON, got {options[:40]!r}") from error
    if not isinstance(found, dict) or set(found) != {"boxes"}:
        raise ValueError(f"options must have boxes alone, got {options[:60]}")
    levels = found["boxes"]
    wanted = model.spec.boxes_per_cell()
    whole = isinstance(levels, list) and all(isinstance(level, list) for level in levels)
    if not whole or [len(level) for level in levels] != wanted:
        raise ValueError(f"boxes must be {wanted} a cell of each level, got {str(levels)[:60]}")
    if not all(map(_is_box, (box for level in levels for box in level))):
        raise ValueError(f"boxes must have a width and a height above 0 and up to {_MOST}, got another one")
    model.spec = model.spec.replace(boxes=tuple(tuple(map(tuple, level)) for level in levels))
    model._make_constants()
    return model


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 2 and all(type(side) in (int, float) for side in box)
    return numbers and all(0 < side <= _MOST for side in box)
