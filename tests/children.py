"""Programs that a test starts, which end with it whatever becomes of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def child(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen]:
    """``subprocess.Popen`` in the project's root, its output in pipes, in a group of processes of its own.

    The group is killed at the end: ``Popen``'s own ``with`` waits for a program that hangs, and for ever.
    """
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    words = [str(word) for word in command]
    with subprocess.Popen(words, cwd=ROOT, start_new_session=True, **(pipes | options)) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
