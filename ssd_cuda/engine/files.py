"""The files of ``ssd-cuda detect``: which images are meant, and where each picture goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["image_files", "picture_paths"]

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def image_files(names: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES)
            if not found:
                raise ValueError(
                    f"folder {path} must hold images ({', '.join(sorted(_IMAGE_SUFFIXES))}), got none"
                )
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise ValueError(f"image {path} does not exist")
    return files


def picture_paths(files: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where the picture of each file goes: into the folder ``out``, or for one image the file ``out``."""
    if out.suffix.lower() in _IMAGE_SUFFIXES:
        if len(files) != 1:
            raise ValueError(f"--out must be a folder for {len(files)} images, got {out}")
        return {files[0]: out}
    return {path: out / f"{name}.png" for path, name in _picture_names(files).items()}


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
