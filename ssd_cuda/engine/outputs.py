"""Writing results: whole or not at all, and one sentence where it cannot be."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .files import identity

__all__ = [
    "OutputError",
    "check_apart",
    "check_ending",
    "check_folder",
    "check_no_folder",
    "is_folder_name",
    "new_partial",
    "write_file",
    "write_text",
]


class OutputError(OSError):
    """A file or folder that cannot be written; the message is one sentence that names it."""


class _Recorder:
    """A file that remembers why a write failed: torch's writer reports something else in its place."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def write_file(path: str | Path, write: Callable[[Any], Any]) -> None:
    """Make a file of what ``write(file)`` writes; its folder is made too.

    The content goes to ``<path>.partial`` first, or to a number more where there is one, which replaces
    ``path`` once it is whole and is removed after any failure. A link stays: the file that it leads to is
    replaced. Pipes and devices are written directly, and so is all of /dev and /proc, where a name such as
    ``/dev/stdout`` may lead to a file.

    Raises:
        OutputError: the folder cannot be made, ``path`` is a folder, there is no room ...
    """
    path = Path(path)
    check_no_folder(path)
    direct = path.exists() and (_is_special(path) or not stat.S_ISREG(path.stat().st_mode))
    path = path if direct else Path(os.path.realpath(path))
    target = recorder = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path if direct else new_partial(path)
        with open(target, "wb") as file:
            recorder = _Recorder(file)
            write(recorder)
        if not direct:
            os.replace(target, path)
    except BaseException as error:
        if target is not None and not direct:
            with contextlib.suppress(OSError):
                target.unlink()
        cause = recorder.error if recorder and recorder.error else error
        if not isinstance(cause, OSError) or isinstance(cause, BrokenPipeError):
            raise
        raise OutputError(f"{path} cannot be written: {cause.strerror or cause}") from error


def check_no_folder(path: str | Path) -> None:
    """Raise for a folder where a file is to be written, before minutes of work are to end in it.

    Raises:
        OutputError: it is one.
    """
    if Path(path).is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder")


def new_partial(path: Path, ending: str = "") -> Path:
    """Make an empty file beside ``path``, for its content until that is whole.

    No file has had its name: one that is called so may be what is read, or another program's on its way to
    the same ``path``.

    Args:
        ending: of ``path``, which the name is to keep.

    Example:
        >>> [str(new_partial(Path("a.mp4"), ".mp4")) for _ in range(2)]
        ['a.partial.mp4', 'a.partial2.mp4']
    """
    for number in itertools.count(1):
        name = f"{path.name.removesuffix(ending)}.partial{number if number > 1 else ''}{ending}"
        with contextlib.suppress(FileExistsError):
            path.with_name(name).open("xb").close()
            return path.with_name(name)
    raise AssertionError("there is always a number left")


def _is_special(path: Path) -> bool:
    return path.absolute().parts[:2] in (("/", "dev"), ("/", "proc"))


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_file` of a text, as UTF-8."""
    write_file(path, lambda file: file.write(text.encode("utf-8")))


def check_folder(option: str, folder: Path) -> None:
    """Make ``folder`` and try to write there, before hours of work are to end in it.

    Args:
        option: that named it, for the message.

    Raises:
        OutputError: it is a file, it cannot be made, nothing can be written in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"{option} must be a folder, got {folder}, where a file is in the way") from None
    except OSError as error:
        raise OutputError(f"{option} must be a folder to write in, got {folder}: {error.strerror}") from error


def check_ending(option: str, path: Path, known: Sequence[str], what: str) -> None:
    """Raise where ``path`` is called like a file of another kind: a folder of that name would be made.

    Args:
        option: that named it, for the message.
        known: endings of the files that can be written.
        what: of which they are pictures, for the message.

    Raises:
        ValueError: an ending that is none of them; a folder that is there may have any.
    """
    if path.suffix.lower() not in known and not is_folder_name(path):
        raise ValueError(
            f"{option} must be a folder, or for {what} a file that ends in {', '.join(known)}, got {path}"
        )


def is_folder_name(path: Path) -> bool:
    """Whether a path is a folder or could become one: ``runs/v1.2`` is no file, ``out.xyz`` is one."""
    ending = path.suffix.lower()[1:]
    return path.is_dir() or not re.fullmatch(r"(?=.*[a-z])[a-z0-9]{1,5}", ending)


def check_apart(places: Mapping[str, Iterable[Path]]) -> None:
    """Raise where an option would write where another one does, by whatever path it is named.

    Args:
        places: option to the files and folders that it names.

    Raises:
        ValueError: what the one has written would be lost, or the other one not written at all.
    """
    taken: dict[Any, str] = {}
    for option, paths in places.items():
        for path in paths:
            place = os.path.realpath(path)
            for key in (place, identity(place) or place):
                if taken.setdefault(key, option) != option:
                    raise ValueError(
                        f"{option} must be a place of its own, got {path}, which is that of {taken[key]}"
                    )
