"""``ssd-cuda detect`` on a video, a camera or a stream."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._extras import require
from .._names import counted
from ..engine.console import StopOnInterrupt, complain, interruption, say
from ..engine.files import refuse_inputs
from ..engine.outputs import check_ending, check_folder, is_folder_name
from ..engine.selection import Selection, save_crops
from ..engine.video import WRITTEN_SUFFIXES, StageTimes, VideoReader, VideoWriter, kind_of, without_password
from .options import UsageError, progress_bar

__all__ = ["check_video", "detect_video"]


def check_video(options: argparse.Namespace) -> Path:
    """Where the video goes; raise for what a video cannot have."""
    if len(options.images) != 1:
        raise UsageError(f"a video, a camera or a stream must be the only input, got {len(options.images)}")
    source, out = options.images[0], Path(options.out)
    check_ending("--out", out, WRITTEN_SUFFIXES, "a video")
    if is_folder_name(out):
        names = {"camera": f"camera{source}", "stream": "stream", "video": Path(source).stem}
        out = out / f"{names[kind_of(source)]}.mp4"
    refuse_inputs("--out", [out], [Path(source)])
    return out


def detect_video(
    model: Any, selection: Selection, options: argparse.Namespace, out: Path, found: list[dict[str, Any]]
) -> int:
    """Draw every frame with the boxes of the last one that was detected on; ``found`` gets a row for each.

    Returns:
        The exit status.
    """
    from ..engine.draw import draw_detections

    reader, source = VideoReader(options.images[0]), without_password(options.images[0])
    check_folder("--out", out.parent)
    writer, times = VideoWriter(out, reader.rate), StageTimes()
    frames, chosen, detected = iter(reader), None, 0
    crops = Path(options.crops) if options.crops else None
    count = 0
    with StopOnInterrupt() as stopped, writer, progress_bar()(None, desc="detect", unit="frame") as bar:
        while not stopped() and count != options.limit:
            with times("read"):
                frame = next(frames, None)
            if frame is None:
                _check_whole(reader, count)
                break
            if count % options.every == 0:
                chosen = _detect(model, selection, frame, times)
                detected += 1
                found.append({"image": source, "frame": count, "detections": selection.rows(chosen)})
                if crops is not None:
                    save_crops(crops, f"{out.stem}-{count}", frame, chosen, selection.classes)
            with times("draw"):
                picture = draw_detections(frame, chosen or {}, selection.classes, min_score=0.0, scale=1.0)
            with times("write"):
                writer.add(picture)
            count += 1
            bar.update()
    if not count:
        raise UsageError(f"{reader.name} must have frames, got none")
    boxes = sum(len(row["detections"]) for row in found)
    told = f"{counted(count, 'frame')}, {detected} detected on, {counted(boxes, 'detection')}"
    say(f"{source}: {told}", times.line(count))
    if stopped() and not reader.live:  # which has no other end
        raise interruption(stopped.signal, f"wrote {out} after {counted(count, 'frame')}")
    say(f"wrote {out}")
    return 0


def _check_whole(reader: VideoReader, count: int) -> None:
    """What is missing may be an index alone, behind the last frame."""
    if count and reader.missing and (reader.frames is None or count < reader.frames):
        cut = f"its file ends {counted(reader.missing, 'byte')} too early, after {counted(count, 'frame')}"
        complain(f"{reader.name} was cut off: {cut}", "warning")


def _detect(model: Any, selection: Selection, frame: Tensor, times: StageTimes) -> dict[str, Tensor]:
    """The chosen detections of a frame, in its pixels."""
    from ..engine.evaluate import to_pixels

    resize = require("torchvision.transforms.v2.functional", "resizing images").resize
    with times("network"), torch.no_grad():
        sized = resize(frame, list(model.image_size), antialias=True)
        outputs = model.predict(sized[None].to(model.priors.device))
    with times("post-process"), torch.no_grad():
        (result,) = model.post_process(outputs, selection.within(model.detect_config)).to_list()
        return selection.of(to_pixels(result, (frame.shape[1], frame.shape[2])))
