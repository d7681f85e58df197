"""One line a file while ninja compiles, instead of a compiler line a metre long; all else passes."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator

STATUS = re.compile(r"^\[(\d+/\d+)\] .* -c ('[^']+'|\S+)")
COMMAND = re.compile(r"^\S*(?:c\+\+|g\+\+|gcc|cc|clang\S*|nvcc)\S* .* -c ")
LINK = re.compile(r"^\S+ .*-shared .* -o (\S+)")


def shorten(line: str, root: str) -> str | None:
    """A line of the build as a reader wants it, or None for one that says nothing."""
    status = STATUS.match(line)
    if status:
        count, source = status.groups()
        name = os.path.relpath(source.strip("'"), root)
        return f"[{count}] {name}\n"
    link = LINK.match(line)
    if link:
        return f"linking {os.path.basename(link.group(1))}\n"
    return None if COMMAND.match(line) or line == "ninja: no work to do.\n" else line


@contextlib.contextmanager
def one_line_a_file(root: str) -> Iterator[None]:
    """Standard output, that of child processes too, through ``shorten``; VERBOSE=1 leaves it as it is."""
    if os.environ.get("VERBOSE") == "1":
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    read, write = os.pipe()

    def forward() -> None:
        with os.fdopen(read, errors="replace") as lines, os.fdopen(kept, "w", buffering=1) as out:
            for line in lines:
                short = shorten(line, root)
                if short is not None:
                    out.write(short)

    thread = threading.Thread(target=forward)
    thread.start()
    os.dup2(write, 1)
    os.close(write)
    try:
        yield
    finally:
        sys.stdout.flush()
        back = os.dup(kept)
        os.dup2(back, 1)  # closes the pipe's last writer here: the thread sees the end
        os.close(back)
        thread.join()
