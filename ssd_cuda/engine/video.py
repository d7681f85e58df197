"""Videos, cameras and streams by OpenCV: frames in, a video out, and where the time goes."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._extras import require
from .console import complain
from .outputs import OutputError, new_partial
from .video_length import missing_bytes

__all__ = [
    "VIDEO_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "StageTimes",
    "VideoReader",
    "VideoWriter",
    "is_video",
    "kind_of",
    "without_password",
]

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"),
    *(".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"),
)
_STREAM = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
# Whose count of frames is written in the file; of the others OpenCV makes one of duration and rate.
_COUNTED_SUFFIXES = (".avi", ".mp4", ".mov", ".m4v")
_MOST_FRAMES = 10**8  # 46 days at 25 a second; a damaged header says anything
_CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".mov": "mp4v"}
WRITTEN_SUFFIXES = tuple(_CODECS)


def is_video(name: str) -> bool:
    """Whether a command line means a video, a camera or a stream: an ending, or no file but a number or an
    address.

    Example:
        >>> is_video("a.MP4"), is_video("0"), is_video("rtsp://10.0.0.2/door"), is_video("a.jpg")
        (True, True, True, False)
    """
    return Path(name).suffix.lower() in VIDEO_SUFFIXES or kind_of(name) != "video"


def kind_of(source: str) -> Literal["camera", "stream", "video"]:
    """What a source of frames is: a number, an address, or a file, which may be called like either.

    Example:
        >>> kind_of("0"), kind_of("http://10.0.0.2/a.mp4"), kind_of("a.mp4")
        ('camera', 'stream', 'video')
    """
    if Path(source).exists():
        return "video"
    return "camera" if source.isdecimal() else "stream" if _STREAM.match(source) else "video"


def without_password(source: str) -> str:
    """``source`` as it may be told: of an address without the name and password in it.

    Example:
        >>> without_password("rtsp://me:secret@10.0.0.2/door")
        'rtsp://10.0.0.2/door'
    """
    return re.sub(r"(?<=://)[^/]*@", "", source) if _STREAM.match(source) else source


class StageTimes:
    """Seconds by stage.

    Example:
        >>> times = StageTimes()
        >>> with times("read"):
        ...     pass
        >>> list(times.seconds)
        ['read']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.start = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.seconds[stage] += time.perf_counter() - start

    def line(self, frames: int) -> str:
        """``12.3 images/s (read 1.2, network 60.1, ... ms an image)``."""
        total = time.perf_counter() - self.start
        parts = ", ".join(f"{name} {1000 * s / max(1, frames):.1f}" for name, s in self.seconds.items())
        return f"{frames / max(total, 1e-9):.1f} images/s ({parts} ms an image)"


class VideoReader:
    """Frames of a file, a camera or a stream as uint8 RGB ``[3, H, W]``.

    Args:
        source: a file, the number of a camera, or an address (``rtsp://``, ``http://`` ...).

    Attributes:
        name: ``camera 0``, ``stream rtsp://10.0.0.2/door`` or ``video a.mp4``, for messages.
        live: whether it is a camera or a stream, of which frames come without an end that is known.
        rate: frames a second; 25 where the source does not say.
        frames: how many the file says it has, hidden ones among them; None where it does not, and of a
            camera or stream.
        missing: bytes that a file lacks at its end, as :func:`~ssd_cuda.engine.video_length.missing_bytes`
            says.

    Raises:
        ValueError: it cannot be opened. ImportError: no OpenCV.
    """

    def __init__(self, source: str) -> None:
        self.cv2 = require("cv2", "reading a video")
        self.source = source
        kind = kind_of(source)
        self.live = live = kind != "video"
        self.name = f"{kind} {without_password(source)}"
        if not live and not Path(source).is_file():
            raise ValueError(f"{self.name} does not exist")
        self.capture = _capture(self.cv2, int(source) if kind == "camera" else source)
        if self.capture is None or not self.capture.isOpened():
            raise ValueError(f"{self.name} must be one that OpenCV can open, got none")
        rate = self.capture.get(self.cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= 1000 else 25.0
        counted = not live and Path(source).suffix.lower() in _COUNTED_SUFFIXES
        count = self.capture.get(self.cv2.CAP_PROP_FRAME_COUNT) if counted else 0
        self.frames = int(count) if 0 < count < _MOST_FRAMES else None
        self.missing = 0 if live else missing_bytes(source)

    def __iter__(self) -> Iterator[Tensor]:
        try:
            while True:
                there, frame = self.capture.read()
                if not there:
                    return
                if frame.ndim == 2:
                    frame = np.repeat(frame[:, :, None], 3, 2)
                yield torch.from_numpy(np.ascontiguousarray(frame[:, :, ::-1])).permute(2, 0, 1)
        finally:
            self.capture.release()


class VideoWriter:
    """Writes frames as they come; the file has its name once ``with`` ends well or by Ctrl-C, and is removed
    after any failure. OpenCV tells none, so that the frames are counted at the end.

    Args:
        path: ends in one of ``WRITTEN_SUFFIXES``.
        rate: frames a second.

    Raises:
        ValueError: another ending. OutputError: OpenCV cannot write there, or has not written every frame.
    """

    def __init__(self, path: Path, rate: float) -> None:
        if path.suffix.lower() not in _CODECS:
            raise ValueError(f"a video must end in {', '.join(_CODECS)}, got {path}")
        self.cv2 = require("cv2", "writing a video")
        self.path, self.rate = path, rate
        self.target = Path(os.path.realpath(path))  # a link stays: the file that it leads to is replaced
        self.partial: Path | None = None
        self.writer: Any = None
        self.count = 0

    def add(self, picture: Any) -> None:
        """A ``PIL.Image``; all of one video have the size of the first."""
        frame = np.asarray(picture)[:, :, ::-1]
        if self.writer is None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.partial = new_partial(self.target, self.path.suffix)
            code = self.cv2.VideoWriter_fourcc(*_CODECS[self.path.suffix.lower()])
            size = (frame.shape[1], frame.shape[0])
            self.writer = self._open(code, size)
            if not self.writer.isOpened():
                raise OutputError(f"{self.path} cannot be written: OpenCV has no encoder for it")
        self.writer.write(np.ascontiguousarray(frame))
        self.count += 1

    def _open(self, code: int, size: tuple[int, int]) -> Any:
        """OpenCV's writer: FFmpeg's leaves out the last column or row of an odd size, its own of AVI none."""
        odd = size[0] % 2 or size[1] % 2
        if odd and self.path.suffix.lower() == ".avi":
            return self.cv2.VideoWriter(str(self.partial), self.cv2.CAP_OPENCV_MJPEG, code, self.rate, size)
        if odd:
            wide, high = (side - side % 2 for side in size)
            complain(
                f"{self.path} is written in {wide}x{high} pixels, without the last column or row of "
                f"{size[0]}x{size[1]}; as .avi it is whole",
                "warning",
            )
        return self.cv2.VideoWriter(str(self.partial), code, self.rate, size)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if self.partial is None:  # no frame came
            return
        if self.writer is not None:
            self.writer.release()
        well = failure is None or issubclass(failure, KeyboardInterrupt)  # after which there are whole frames
        whole = well and self.writer is not None and _holds(self.partial, self.count)
        if whole:
            os.replace(self.partial, self.target)
        else:
            self.partial.unlink(missing_ok=True)
        if well and not whole:
            raise OutputError(f"{self.path} cannot be written: not every frame arrived, as on a full disk")


def _holds(path: Path, count: int) -> bool:
    """Whether a file is whole and has so many frames, or one more, which a Ctrl-C kept from being counted.

    Each container alone tells one half: an AVI may be as long as it says and lack frames, a Matroska file
    say how many there should be.
    """
    cv2 = require("cv2", "reading a video")
    capture = _capture(cv2, str(path))
    if capture is None or not capture.isOpened() or missing_bytes(path):
        return False
    said = capture.get(cv2.CAP_PROP_FRAME_COUNT)  # of Matroska made of duration and rate
    return bool(said >= count or (said > 0 and sum(1 for _ in iter(capture.grab, False)) >= count))


def _capture(cv2: Any, source: int | str) -> Any:
    """OpenCV's capture, without its remarks on the way; None where it does not take the number."""
    log = cv2.utils.logging
    level = log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(source)
    except cv2.error:
        return None
    finally:
        log.setLogLevel(level)
