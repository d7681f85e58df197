"""Fonts for names of classes in any script."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .._extras import require
from .._names import printable

__all__ = ["load_font", "set_names"]


def load_font(size: int, text: str = "") -> Any:
    """A ``PIL.ImageFont`` of ``size`` pixels with the letters of ``text``.

    pillow's own font has little more than ASCII. Other letters come from DejaVu Sans, which matplotlib brings
    with it, or from the first font of the machine that has all of them.
    """
    module = require("PIL.ImageFont", "drawing")
    file = None if text.isascii() else _font_file(frozenset(c for c in text if not c.isspace()))
    return module.load_default(size) if file is None else module.truetype(file, size)


def set_names(places: Iterable[Any], names: Iterable[object]) -> None:
    """Write names that come from files on texts of matplotlib, as they are spelt.

    matplotlib reads what stands between two $ as a formula, leaves out of a legend what begins with _, and
    has letters of Europe alone.

    Args:
        places: a text for each name, of a legend or of ticks.
    """
    for place, name in zip(places, names, strict=True):
        shown = printable(name)
        place.set(text=shown, parse_math=False)
        file = None if shown.isascii() else _font_file(frozenset(c for c in shown if not c.isspace()))
        if file is not None:
            font = place.get_fontproperties().copy()
            font.set_file(file)
            place.set_fontproperties(font)


@functools.lru_cache(maxsize=4096)
def _font_file(letters: frozenset[str]) -> str | None:
    try:
        matplotlib = require("matplotlib", "letters beyond ASCII")
    except ImportError as error:
        warnings.warn(str(error), stacklevel=4)
        return None
    usual = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    if _has(usual, letters):
        return usual
    manager = require("matplotlib.font_manager", "letters beyond ASCII").fontManager
    for entry in manager.ttflist:
        if _has(entry.fname, letters):
            return entry.fname
    shown = "".join(sorted(letter for letter in letters if not letter.isascii()))[:40]
    warnings.warn(f"no font of this machine has all letters of {shown!r}; boxes stand for them", stacklevel=4)
    return usual


@functools.lru_cache(maxsize=4096)
def _letters(file: str) -> frozenset[int]:
    """The code points of a font file; none if it cannot be read."""
    try:
        return frozenset(require("matplotlib.ft2font", "letters beyond ASCII").FT2Font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def _has(file: str, letters: frozenset[str]) -> bool:
    return all(ord(letter) in _letters(file) for letter in letters)
