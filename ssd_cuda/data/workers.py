"""The processes that load: their signals are left to the one that trains, and none fails in silence."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any

from torch._utils import ExceptionWrapper

__all__ = ["begin_worker", "held_in_children", "leave_signals"]

_IGNORED = [signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_LEFT = [*_IGNORED, signal.SIGTERM]


@contextmanager
def held_in_children() -> Iterator[None]:
    """In a process that is started within it Ctrl-C, SIGHUP and SIGTERM wait: none ends a worker before it
    comes to :func:`leave_signals`. In this process another thread may take them, as ever.

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


def begin_worker(number: int) -> None:
    """A worker's first step, torch's ``worker_init_fn``.

    Its batches leave it through a thread of the queue, which prints what fails there, drops the batch and
    goes on: the training process would wait for it for ever. So such a failure is handed over in its place.
    """
    leave_signals()
    Queue._on_queue_feeder_error = _hand_over_failure  # type: ignore[attr-defined]


def _hand_over_failure(queue: Queue, error: Exception, item: Any) -> None:
    """Torch raises, where batch ``item[0]`` is taken, the exception that is put for it."""
    number, batch = item
    if isinstance(batch, ExceptionWrapper):  # of a class that cannot be pickled, one inside a function
        batch.exc_type = RuntimeError
        queue.put((number, batch))
        return
    try:
        raise OSError(
            "a batch must fit in shared memory (/dev/shm; --shm-size of a container) to leave the process "
            f"that loaded it, got {error}; --workers 0 (workers=0) needs none"
        ) from None
    except OSError:
        queue.put((number, ExceptionWrapper(where="in a DataLoader worker")))


def leave_signals() -> None:
    """In a worker Ctrl-C, SIGHUP and SIGTERM do nothing, but for the SIGTERM of the process that started it.

    Ctrl-C and the SIGHUP at its end reach every process of a terminal, and a batch system's SIGTERM every
    process of a job; what becomes of the workers is the training process's to decide, which may want the
    batch they are at. Its own SIGTERM has to end them: ``multiprocessing`` sends it when the program ends,
    and then waits for them.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows: nothing tells who sent it, so SIGTERM ends it
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT)
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # a thread begins with its starter's mask
    threading.Thread(target=_end_when_told, args=[os.getppid()], daemon=True).start()


def _end_when_told(starter: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != starter:
        pass
    os._exit(0)
