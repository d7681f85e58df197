"""The folder of a run: what a run writes there, and that none is written over another in silence."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .files import refuse_inputs
from .outputs import OutputError

__all__ = ["check_run_folder", "files_of_a_run", "remove_files"]

# Without the first two nothing of a run is lost; the last are named by TensorBoard.
_WEIGHTS = ("checkpoint.pt", "best.pt")
_FILES = (*_WEIGHTS, "metrics.csv", "loss.png", "tensorboard/events.out.tfevents.*")


def files_of_a_run(folder: Path) -> list[Path]:
    """What ``ssd-cuda train`` has written in ``folder``.

    Example:
        >>> files_of_a_run(Path("no/such/folder"))
        []
    """
    return [path for pattern in _FILES for path in sorted(folder.glob(pattern))]


def check_run_folder(
    folder: Path, *, resume: str | None = None, weights: str | None = None, overwrite: bool = False
) -> None:
    """Raise ``ValueError`` where a new run would take the weights of another away.

    Args:
        folder: of ``--out``.
        resume: the checkpoint that the run goes on from; from one in ``folder`` it may.
        weights: the file that the run starts from.
        overwrite: what :func:`files_of_a_run` finds may go, unless the run itself reads it.
    """
    if overwrite:
        refuse_inputs("--overwrite", files_of_a_run(folder), [Path(p) for p in (resume, weights) if p])
        return
    found = next((folder / name for name in _WEIGHTS if os.path.lexists(folder / name)), None)
    if found is None or (resume and os.path.realpath(Path(resume).parent) == os.path.realpath(folder)):
        return
    raise ValueError(
        f"--out must be a folder without a run, got {folder}, which holds {found.name}: "
        f"--resume {found} goes on with it, another --out begins anew, --overwrite replaces it"
    )


def remove_files(paths: Iterable[Path]) -> None:
    """Remove what :func:`files_of_a_run` found.

    Raises:
        OutputError: one of them cannot be.
    """
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path} cannot be removed: {error.strerror}") from error
