"""The files of ``ssd-cuda detect``: which images are meant, where each picture goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..data.files import IMAGE_SUFFIXES, visible

__all__ = ["identity", "image_files", "picture_paths", "refuse_inputs"]


def image_files(names: Sequence[str]) -> list[Path]:
    """The files that are named, and the images of the folders that are, hidden ones aside."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = [p for p in visible(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
            if not found:
                raise ValueError(f"folder {path} must hold images ({', '.join(IMAGE_SUFFIXES)}), got none")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise ValueError(f"image {path} does not exist")
    return files


def picture_paths(files: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where the picture of each file goes: into the folder ``out``, or for one image the file ``out``.

    Raises:
        ValueError: several images for one file, a file that is no picture where a folder is needed, a folder
            that holds one of the images, a picture that would replace one.
    """
    if out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir():
        if len(files) != 1:
            raise ValueError(f"--out must be a folder for {len(files)} images, got {out}")
        paths = {files[0]: out}
    elif out.exists() and not out.is_dir():
        raise ValueError(
            f"--out must be a folder, or for one image a file that ends in {', '.join(IMAGE_SUFFIXES)}, "
            f"got the file {out}"
        )
    else:
        refuse_inputs("--out", [out], {path.parent for path in files})
        paths = {path: out / f"{name}.png" for path, name in _picture_names(files).items()}
    refuse_inputs("--out", paths.values(), files)
    return paths


def refuse_inputs(option: str, outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise ``ValueError`` if an output is an input, by whatever path it is named."""
    kept = {identity(path) for path in inputs} - {None}
    for path in outputs:
        if identity(path) in kept:
            raise ValueError(f"{option} must leave its inputs as they are, got {path}, which is one of them")


def identity(path: str | Path) -> tuple[int, int] | None:
    """What all links of a file share; None where there is no file, or its file system has no such number.

    Example:
        >>> identity("."), identity("no such file")
        ((..., ...), None)
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None


def _picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """One name per file: its stem, with a number where several files share it."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in dict.fromkeys(files):
        name, number = path.stem, 2
        while name in taken:
            name, number = f"{path.stem}-{number}", number + 1
        names[path] = name
        taken.add(name)
    return names
