"""The folder of a run: what a run writes there, and that none is written over another in silence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .files import refuse_inputs
from .outputs import OutputError

__all__ = ["check_run_folder", "files_of_a_run", "held_folder", "remove_files"]

# Without the first two nothing of a run is lost; the last are named by TensorBoard.
_WEIGHTS = ("checkpoint.pt", "best.pt")
_FILES = (*_WEIGHTS, "metrics.csv", "loss.png", "tensorboard/events.out.tfevents.*")


_NONE = -1  # no descriptor
_held: set[int] = set()  # descriptors of the folders that this process holds


def _let_go() -> None:
    """In a process that is forked, such as one that loads: a run that was killed would else hold its folder
    for as long as any of them lives.
    """
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for the run that writes in it; nothing is left behind, whatever ends the run.

    Where the system or the file system knows no such locks, two runs are not told apart.

    Raises:
        ValueError: another run holds it.

    Example:
        >>> with held_folder(Path(".")), held_folder(Path(".")):
        ...     pass
        Traceback (most recent call last):
        ValueError: --out must be a folder that no run writes in, got ., where one is training now
    """
    descriptor = _lock(folder)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a process that was forked within
            _held.remove(descriptor)
            os.close(descriptor)


def _lock(folder: Path) -> int:
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows; a folder that may not be listed
        return _NONE
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            return _NONE
        raise ValueError(
            f"--out must be a folder that no run writes in, got {folder}, where one is training now"
        ) from None
    _held.add(descriptor)
    return descriptor


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
