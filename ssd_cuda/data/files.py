"""Files of a data folder: read only if they are files, found by listings, held inside the folder."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

# In the order in which they are tried for a name that comes without one; whatever their case.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


class DataError(ValueError):
    """Something on the disk is not as it should be; the message is one sentence that names the file."""


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, as the end of a sentence."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.removesuffix(".")


def check_file(path: Path, what: str) -> None:
    """Raise unless ``path`` is a regular file: opening a pipe or a terminal would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{what} {path} cannot be read: {reason_of(error)}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise DataError(f"{what} {path} must be a file, got {kind}")


def read_bytes(path: Path, what: str) -> bytes:
    """The content of a regular file."""
    check_file(path, what)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {reason_of(error)}") from error


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file, without the byte order mark that Windows puts before it."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{what} {path} cannot be read: it must be UTF-8 ({reason_of(error)})") from error


def read_json(path: Path, what: str) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(read_text(path, what))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{what} {path} does not parse: {reason_of(error)}") from error


def visible(paths: Iterable[Path]) -> list[Path]:
    """``paths`` in order, without hidden files such as the ``._name`` that macOS leaves beside each file."""
    return sorted(path for path in paths if not path.name.startswith("."))


class DataFolder:
    """A data folder: what lies in it, each of its folders listed once, and nothing outside of it.

    A name is held inside by its spelling: links within the folder may lead elsewhere.

    Args:
        roots: the folder, or folders that count as one.
        allow_outside: take absolute names and ``..`` wherever they lead.
    """

    def __init__(self, *roots: Path, allow_outside: bool = False) -> None:
        self.roots, self.allow_outside = [Path(os.path.abspath(root)) for root in roots], allow_outside
        self._names: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str, bases: Iterable[Path], source: Path, suffixes: tuple[str, ...] = ()) -> Path:
        """The file called ``name`` in the first of ``bases`` that has it, or where it should be.

        Args:
            name: may hold folders, parted by ``/`` or, as Windows writes them, by ``\\``.
            bases: folders it may start from.
            source: the file that names it, for messages.
            suffixes: to try for a name that comes without one, in any case of letters.

        Raises:
            DataError: a name that leads out of the folder, or holds a NUL.
        """
        if "\0" in name:
            raise DataError(f"{source} must name files without NUL, got {name!r}")
        slashed = name.replace("\\", "/")
        inside = []
        for base in bases:
            if self._is_inside(path := Path(os.path.normpath(base / slashed))):
                inside += [path] if slashed == name else [base / name, path]  # a backslash may be of the name
        if not inside or (PureWindowsPath(name).is_absolute() and not self.allow_outside):
            raise DataError(
                f"{source} must name files inside {self.roots[0]}, got {name!r}; "
                "--allow-outside (allow_outside=True) takes others"
            )
        for path in inside:
            if suffixes:
                ranked = [
                    (suffixes.index(end), known)
                    for known in self._list(path.parent).get(path.name, ())
                    if (end := os.path.splitext(known)[1].lower()) in suffixes
                ]
                if ranked:
                    return path.with_name(min(ranked)[1])
            elif self.has(path):
                return path
        return inside[0]

    def has(self, path: Path) -> bool:
        """Whether the folder of ``path`` lists it."""
        return path.name in self._list(path.parent).get(os.path.splitext(path.name)[0], ())

    def _is_inside(self, path: Path) -> bool:
        return self.allow_outside or any(
            Path(os.path.abspath(path)).is_relative_to(root) for root in self.roots
        )

    def _list(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder by their stem; none if it cannot be listed."""
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            try:
                listed = os.listdir(folder)
            except OSError:
                listed = []
            for name in listed:
                names.setdefault(os.path.splitext(name)[0], []).append(name)
            self._names[folder] = names
        return self._names[folder]
