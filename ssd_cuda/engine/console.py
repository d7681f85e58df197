"""What a program says: lines on a terminal, one sentence for each failure, an exit status."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import torch

from .._names import printable
from .processes import launched

__all__ = [
    "HungUp",
    "StopOnInterrupt",
    "Terminated",
    "complain",
    "interruption",
    "run_safely",
    "say",
    "say_on_stderr",
]

_aside = False  # whether stdout is for results alone


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which batch systems and containers end a program: to be left as a Ctrl-C is."""


class HungUp(KeyboardInterrupt):
    """SIGHUP, of a terminal or connection that is gone: to be left as a Ctrl-C is."""


_STOPS: dict[int, tuple[type[KeyboardInterrupt], str]] = {
    signal.SIGINT: (KeyboardInterrupt, "interrupted"),
    signal.SIGTERM: (Terminated, "terminated"),
}
_HANGUP = getattr(signal, "SIGHUP", None)  # None: on Windows
if _HANGUP is not None:
    _STOPS[_HANGUP] = (HungUp, "hung up")


def interruption(number: int, text: str = "") -> KeyboardInterrupt:
    """What a signal raises.

    Example:
        >>> interruption(signal.SIGTERM, "wrote x")
        Terminated('wrote x')
    """
    kind = _STOPS[number][0]
    return kind(text) if text else kind()


def say(*lines: object) -> None:
    """Print each argument as one line to stdout, at once; see :func:`ssd_cuda._names.printable`."""
    _write(sys.stderr if _aside else sys.stdout, *lines)


@contextlib.contextmanager
def say_on_stderr(wanted: bool = True) -> Iterator[None]:
    """While it is entered, :func:`say` prints to stderr: what reads stdout gets results and nothing else."""
    global _aside
    before, _aside = _aside, wanted
    try:
        yield
    finally:
        _aside = before


def complain(sentence: object, kind: str = "error") -> None:
    """Print one sentence to stderr."""
    _write(sys.stderr, f"ssd-cuda: {kind}: {' '.join(str(sentence).split())}")


def _write(stream: TextIO, *lines: object) -> None:
    encoding = getattr(stream, "encoding", None)
    stream.write("".join(f"{printable(line, encoding)}\n" for line in lines))
    stream.flush()


def run_safely(action: Callable[..., int | None], *arguments: Any) -> int:
    """Call ``action``; what a user can mend becomes one sentence on stderr and the exit status 1.

    A reader of stdout that has seen enough, such as ``head``, is no failure: the end is that of other tools.

    Returns:
        What ``action`` returned (None: 0), 1 after a failure, 130 after Ctrl-C, 141 where the reader left
        first, 143 after a SIGTERM and 129 after a SIGHUP that :class:`StopOnInterrupt` took.
    """
    warnings.showwarning = _show_warning
    _open_missing_streams()
    try:
        status = _flushed(action, *arguments)
    except BrokenPipeError:
        if _reader_is_gone():
            # Let what is still written go nowhere, or the interpreter complains at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        return _fail("the output was closed by its reader before everything was written (broken pipe)")
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return _fail(str(error) or type(error).__name__)
    except torch.cuda.OutOfMemoryError:
        return _fail("the card has too little memory for this batch; lower --batch-size")
    except MemoryError:
        return _fail("there is too little memory for this; lower --batch-size or --size")
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            return _fail("there is too little memory for this; lower --batch-size or --size")
        if str(error).startswith("DataLoader worker"):  # torch's, of a process that is gone
            return _fail(f"{str(error).rstrip('. ')}; --workers 0 loads images without such processes")
        if not str(error).startswith("ssd_cuda"):  # not one of ours: a traceback tells more
            raise
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        number, word = next((n, w) for n, (kind, w) in reversed(_STOPS.items()) if isinstance(stop, kind))
        if number == signal.SIGINT:
            print(file=sys.stderr)  # the terminal has written ^C
        _write(sys.stderr, f"ssd-cuda: {word}{'; ' * bool(str(stop))}{stop}")
        return 128 + number
    return status or 0


def _open_missing_streams() -> None:
    """A program may be started without them (``2>&-``, some services); what it says there goes nowhere.

    Their numbers are taken, or the next file that is opened, such as a checkpoint, would have one of them and
    be given what libraries print.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def _leave_the_terminal() -> None:
    """What is said on one that is gone goes nowhere: a line of progress would be an error, and end the run
    before it is written.
    """
    for number in _unread(1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _unread(*outputs: int) -> list[int]:
    """Those of these descriptors that nobody reads any more: pipes and terminals whose other end is gone."""
    poll = select.poll()
    for number in outputs:
        poll.register(number, 0)
    return [number for number, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]


def _flushed(action: Callable[..., int | None], *arguments: Any) -> int | None:
    try:
        status = action(*arguments)
    except SystemExit:  # as after --help, which is still in the buffer
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return status


def _reader_is_gone() -> bool:
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file: a program has put something else there
        return False
    return bool(_unread(output))


def _fail(sentence: str) -> int:
    if "Original Traceback" in sentence:  # torch's report of a loading process; the cause is its last line
        sentence = sentence.strip().splitlines()[-1].partition(": ")[2]
    complain(sentence)
    return 1


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    # What will be withdrawn, or that a fork has threads (Python 3.12 and later), is for who writes programs.
    if not issubclass(category, (DeprecationWarning, PendingDeprecationWarning)):
        complain(message, "warning")


class StopOnInterrupt:
    """While it is entered, the first Ctrl-C, SIGTERM or SIGHUP only makes a call of it true; the second
    interrupts as ever. A SIGHUP that is ignored stays so, as ``nohup`` wants it.

    A step of training is not cut in two, so that what is saved afterwards is whole. A launcher of several
    processes passes on the Ctrl-C that its terminal has sent to all of them already, and a batch system may
    do so with SIGTERM: of these, what comes within a second is the first one again.

    Attributes:
        signal: the first that came; 0: none.
    """

    def __init__(self) -> None:
        self._asked: float | None = None
        self.signal = 0

    def __call__(self) -> bool:
        return self._asked is not None

    def __enter__(self) -> StopOnInterrupt:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # only that may set handlers
            for number in _STOPS:
                if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, _: object) -> None:
        if number == _HANGUP:
            _leave_the_terminal()
        now = time.monotonic()
        again = self._asked is not None and launched() and now - self._asked < 1.0
        if self._asked is not None and not again:
            raise interruption(number)
        self._asked, self.signal = now, self.signal or number
