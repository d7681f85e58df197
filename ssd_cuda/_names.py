"""Names that come from files: of classes, files and folders, on their way into messages and pictures."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Unicode's invisible marks that turn the direction of the text after them.
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: object, encoding: str | None = None) -> str:
    r"""``text`` with what could move a cursor, turn the line around or end it written as an escape.

    Control characters, separators of lines and paragraphs, marks of direction and surrogates (bytes of file
    names that are no text) become ``\x1b``, ``\u202e`` and the like; so does what ``encoding`` lacks.

    Example:
        >>> printable("red\x1b[31m")
        'red\\x1b[31m'
    """
    escaped = "".join(c.encode("unicode_escape").decode("ascii") if _is_control(c) else c for c in str(text))
    if encoding is None:
        return escaped
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def _is_control(character: str) -> bool:
    return character in _TURNS or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def name_list(names: Sequence[object], limit: int = 12) -> str:
    """``names`` joined by commas; of more than ``limit`` the first ones and how many there are.

    Example:
        >>> name_list(["cat", "dog", "emu"], limit=2)
        'cat, dog, ... (3)'
    """
    if len(names) <= limit:
        return ", ".join(map(str, names))
    return f"{', '.join(map(str, names[:limit]))}, ... ({len(names)})"


def counted(number: int, what: str) -> str:
    """``number`` and ``what``, which is in the plural unless there is one.

    Example:
        >>> counted(1, "class"), counted(2, "box"), counted(0, "step")
        ('1 class', '2 boxes', '0 steps')
    """
    ending = "es" if what.endswith(("s", "x")) else "s"
    return f"{number} {what}{ending * (number != 1)}"


def check_distinct(argument: str, names: Sequence[str]) -> None:
    """Raise ``ValueError`` unless every name is there once: results are keyed by them."""
    first: dict[str, int] = {}
    for label, name in enumerate(names, 1):
        if name in first:
            raise ValueError(
                f"{argument} must name each class once, got {name!r} for labels {first[name]} and {label}"
            )
        first[name] = label
