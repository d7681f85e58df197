"""Whether a file of a video is as long as it says: OpenCV ends one that was cut off as one that is over.

A count of frames does not tell. What was trimmed without a new encoding, as telephones do, holds frames that
an edit list hides; an AVI may count what its rate could have had.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["missing_bytes"]

# The outermost boxes of an MP4 or QuickTime file; programs put what they like behind the last one.
_BOXES = {
    b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"wide", b"free", b"skip", b"meta",
    b"uuid",
}  # fmt: skip


def missing_bytes(path: str | Path) -> int:
    """How many bytes a file lacks at its end, by the sizes that its outermost parts say.

    0 where nothing is missing or nothing is said: of other containers than AVI, MP4 and QuickTime, Matroska
    and WebM, and of a recording whose end was open.

    Example:
        >>> _ = Path("cut.avi").write_bytes(b"RIFF" + (1000).to_bytes(4, "little") + b"AVI LIST")
        >>> missing_bytes("cut.avi")
        992
    """
    path, end = Path(path), 0
    size = path.stat().st_size
    with path.open("rb") as file:
        length_of = _container(file.read(8))
        while end < size:
            file.seek(end)
            length = length_of(file.read(16))
            if length is None:
                return 0
            end += length
    return end - size


def _container(start: bytes) -> Callable[[bytes], int | None]:
    if start.startswith(b"RIFF"):
        return _riff
    if start.startswith(b"\x1aE\xdf\xa3"):
        return _ebml
    return _box if start[4:] in _BOXES else lambda _: None


def _riff(head: bytes) -> int | None:
    """The length of a part of an AVI; None: it is none, or was never finished."""
    length = int.from_bytes(head[4:8], "little")
    return 8 + length if head.startswith(b"RIFF") and 0 < length < 0xFFFFFFFF else None


def _box(head: bytes) -> int | None:
    """The same of an MP4; one without a length takes the rest of the file."""
    length = int.from_bytes(head[:4], "big")
    if length == 1:
        length = int.from_bytes(head[8:16], "big")
    return length if length >= 8 and head[4:8] in _BOXES else None


def _ebml(head: bytes) -> int | None:
    """The same of a Matroska file: a name, then a length, each of as many bytes as its first has zeros before
    a one, and one more."""
    start = 9 - head[0].bit_length()
    count = 9 - head[start].bit_length() if start < len(head) else 9
    if start > 4 or count > 8:
        return None
    length = int.from_bytes(head[start : start + count], "big") - (1 << 7 * count)
    return start + count + length if length < (1 << 7 * count) - 1 else None  # all ones: not known
