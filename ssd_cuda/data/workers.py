"""Signals and the processes that load: Ctrl-C and SIGTERM are left to the process that trains."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["held_in_children", "leave_signals"]

_LEFT = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_in_children() -> Iterator[None]:
    """In a process that is started within it Ctrl-C and SIGTERM wait: none ends a worker before it comes to
    :func:`leave_signals`. In this process another thread may take them, as ever.

    Example:
        >>> with held_in_children():
        ...     batches = iter(loader)  # doctest: +SKIP
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals(_: int) -> None:
    """A worker's first step (torch's ``worker_init_fn``): Ctrl-C and SIGTERM do nothing to it, but for the
    SIGTERM of the process that started it.

    Ctrl-C reaches every process of a terminal, and a batch system's SIGTERM every process of a job; what
    becomes of the workers is the training process's to decide, which may want the batch they are at. Its own
    SIGTERM has to end them: ``multiprocessing`` sends it when the program ends, and then waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows: nothing tells who sent it, so SIGTERM ends it
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT)
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # a thread begins with its starter's mask
    threading.Thread(target=_end_when_told, args=[os.getppid()], daemon=True).start()


def _end_when_told(starter: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != starter:
        pass
    os._exit(0)
