"""How long a file of a video says that it is: each container's own words, by hand."""

from __future__ import annotations

import struct

import pytest

from ssd_cuda.engine.video_length import missing_bytes


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def riff(kind: bytes, content: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + kind + content


EBML = b"\x1aE\xdf\xa3\x84abcd"  # a name of four bytes, a length of one
SEGMENT = b"\x18S\x80g"
WHOLE = {
    "mp4": box(b"ftyp", b"isom") + box(b"moov", bytes(50)) + box(b"mdat", bytes(99)),
    "large mp4": box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"mdat", 16 + 99) + bytes(99),
    "avi": riff(b"AVI ", bytes(99)),
    "large avi": riff(b"AVI ", bytes(40)) + riff(b"AVIX", bytes(99)),
    "mkv": EBML + SEGMENT + b"\x40\x63" + bytes(99),
    "large mkv": EBML + SEGMENT + b"\x01" + (99).to_bytes(7, "big") + bytes(99),
}
OPEN = {
    "mp4 to its end": box(b"ftyp", b"isom") + struct.pack(">I4s", 0, b"mdat") + bytes(99),
    "avi of no length": b"RIFF" + bytes(4) + b"AVI " + bytes(99),
    "avi of a stream": b"RIFF" + b"\xff" * 4 + b"AVI " + bytes(99),
    "mkv of a stream": EBML + SEGMENT + b"\x01" + b"\xff" * 7 + bytes(99),
    "mkv of a short unknown length": EBML + SEGMENT + b"\xff" + bytes(99),
    "mpg": b"\x00\x00\x01\xba" + bytes(99),
    "noise": b"\xf3" * 99,
    "nothing": b"",
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("lost", [0, 1, 98])
def test_what_is_missing_at_the_end_is_counted(tmp_path, name, lost):
    (tmp_path / "x").write_bytes(WHOLE[name][: len(WHOLE[name]) - lost])
    assert missing_bytes(tmp_path / "x") == lost


@pytest.mark.parametrize("name", OPEN)
def test_of_a_file_that_says_no_length_nothing_is_known(tmp_path, name):
    for content in (OPEN[name], OPEN[name][:-1]):
        (tmp_path / "x").write_bytes(content)
        assert missing_bytes(tmp_path / "x") == 0


@pytest.mark.parametrize("end", [b"\x00" * 40, b"TAG of some program", b"\xff" * 3])
def test_what_was_put_behind_a_video_is_no_part_of_it(tmp_path, end):
    for name in WHOLE:
        if "mkv" not in name:
            (tmp_path / "x").write_bytes(WHOLE[name] + end)
            assert missing_bytes(tmp_path / "x") == 0, name
