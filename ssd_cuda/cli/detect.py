"""``ssd-cuda detect``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._extras import require
from .._names import counted
from ..data.files import IMAGE_SUFFIXES
from ..engine.console import complain, say
from ..engine.files import image_files, picture_paths, refuse_inputs
from ..engine.outputs import check_apart, check_ending, check_folder
from ..engine.video import is_video, without_password
from .options import (
    RUN,
    UsageError,
    check_counts,
    check_json,
    json_places,
    pick_device,
    progress_bar,
    write_json,
)

if TYPE_CHECKING:
    from ..data.coco import CocoIds
    from ..engine.selection import ResultIds, Selection

HELP = "detections on images, a video, a camera or a stream of your own"
PARENTS = ("run_options",)
_CHECKPOINT = f"{RUN}/checkpoint.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        help="image files, or folders of them; or one video; or the number of a camera, "
        "or the address of a stream (rtsp://, http://)",
    )
    add(
        "--checkpoint",
        "-c",
        help=f"file that train or import wrote (default: {_CHECKPOINT}, where train writes)",
    )
    add(
        "--out", "-o", default="runs/detect", help="folder, or with one image its file (default: %(default)s)"
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        help="lowest score, also below the model's own (default: %(default)s)",
    )
    add(
        "--class-threshold",
        action="append",
        default=[],
        metavar="NAME=SCORE",
        help="lowest score of one class; may be given several times",
    )
    add("--classes", help="the only classes to keep, joined by commas (default: all)")
    add("--json", metavar="FILE", help="also write the detections to FILE; - is stdout")
    add(
        "--coco",
        metavar="FILE",
        help="also write them as COCO results: with the category ids of the COCO data that the model was "
        "trained on, or else COCO's own, 1 to 90, of its 80 names, or else 1, 2, ... in the order of the "
        "classes; with an image's number if its file is named by one, or else the name without its ending; "
        "with a frame's number from 0; - is stdout",
    )
    add(
        "--annotations",
        metavar="FILE",
        help="of --coco: take the ids of this COCO file, of categories by name and of images by file_name",
    )
    add("--crops", metavar="FOLDER", help="also write what is inside of each box")
    add(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="of a video: detect on every Nth frame; the others show the boxes of the last",
    )
    add("--limit", type=int, metavar="N", help="of a video: stop after N frames; of images: after N")


def run(options: argparse.Namespace) -> int:
    from ..engine.checkpoint import load_model
    from ..engine.selection import ResultIds, Selection
    from .video import check_video, detect_video

    chosen = options.checkpoint is not None
    options.checkpoint = options.checkpoint or _CHECKPOINT
    video = any(map(is_video, options.images))
    _check(options, video)
    out = check_video(options) if video else None
    pictures = {} if video else _pictures(options)
    files = list(pictures)[: options.limit]
    inputs = [*files, *([options.images[0]] if video else [])]
    annotations = _annotations(options, video)
    check_json(options, *inputs, options.checkpoint, *([options.annotations] if annotations else []))
    _check_places(options, [out] if out else pictures.values())
    if not chosen and not Path(_CHECKPOINT).exists():
        raise UsageError(f"--checkpoint must name what train or import wrote: there is no {_CHECKPOINT}")
    model, spec = load_model(options.checkpoint, pick_device(options.device))
    only = [name.strip() for name in options.classes.split(",")] if options.classes else None
    selection = Selection(spec.classes, options.threshold, _thresholds(options.class_threshold), only)
    ids = ResultIds(selection, spec, files, annotations) if options.coco else None
    if options.crops:
        check_folder("--crops", Path(options.crops))
    found: list[dict[str, Any]] = []
    try:
        if out is not None:
            return detect_video(model, selection, options, out, found)
        check_folder("--out", next(iter(pictures.values())).parent)
        _detect_files(model, selection, files, pictures, options, found)
    finally:  # after Ctrl-C too: what there is
        _write(options, found, ids)
    say(*(f"{row['image']}: {counted(len(row['detections']), 'detection')}" for row in found))
    say(f"wrote {counted(len(found), 'picture')} to {options.out}")
    return 1 if len(found) < len(files) else 0


def _pictures(options: argparse.Namespace) -> dict[Path, Path]:
    """Where the picture of each image goes."""
    files, out = image_files(options.images), Path(options.out)
    check_ending("--out", out, IMAGE_SUFFIXES, "one image")
    if options.crops:  # which would be images of the next run, or replace one
        refuse_inputs("--crops", [Path(options.crops)], {path.parent for path in files})
    return picture_paths(files, out)


def _check_places(options: argparse.Namespace, pictures: Iterable[Path]) -> None:
    """Each option writes somewhere else."""
    others = {**json_places(options), **({"--crops": options.crops} if options.crops else {})}
    places = {option: [Path(name)] for option, name in others.items()}
    check_apart({"--out": [Path(options.out), *pictures], **places})


def _check(options: argparse.Namespace, video: bool) -> None:
    check_counts(options)
    if not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold must lie in [0, 1], got {options.threshold}")
    for name in ("every", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if options.every > 1 and not video:
        raise UsageError(f"--every must be 1 for images, each of which is detected on, got {options.every}")


def _thresholds(pairs: list[str]) -> dict[str, float]:
    found = {}
    for pair in pairs:
        name, _, value = pair.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--class-threshold must be NAME=SCORE, got {pair}") from None
    return found


def _annotations(options: argparse.Namespace, video: bool) -> CocoIds | None:
    from ..data.coco import CocoIds

    if options.annotations is None:
        return None
    if not options.coco:
        raise UsageError("--annotations gives the ids that --coco writes, got no --coco")
    if video:
        raise UsageError(f"--annotations is for images, got {without_password(options.images[0])}")
    return CocoIds(options.annotations)


def _write(options: argparse.Namespace, found: list[dict[str, Any]], ids: ResultIds | None) -> None:
    from ..engine.selection import coco_results

    if options.json:
        write_json(options.json, found)
    if ids is not None:
        write_json(options.coco, coco_results(found, ids))


def _detect_files(
    model: Any,
    selection: Selection,
    files: list[Path],
    pictures: dict[Path, Path],
    options: argparse.Namespace,
    found: list[dict[str, Any]],
) -> None:
    for start in progress_bar()(range(0, len(files), options.batch_size), desc="detect"):
        images = _read(files[start : start + options.batch_size], options.workers)
        if images:
            found += _detect_batch(model, selection, images, pictures, options.crops)


def _read(files: list[Path], threads: int) -> dict[Path, Tensor]:
    """The images that can be read; of the others one sentence each."""
    from ..data import DataError, read_image

    def read(path: Path) -> Tensor | DataError:
        try:
            return read_image(path).as_subclass(Tensor)
        except DataError as error:
            return error

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(read, files))
    else:
        found = list(map(read, files))
    images = {}
    for path, image in zip(files, found, strict=True):
        if isinstance(image, DataError):
            complain(f"{image}; it is left out")
        else:
            images[path] = image
    return images


def _detect_batch(
    model: Any,
    selection: Selection,
    images: dict[Path, Tensor],
    pictures: dict[Path, Path],
    crops: str | None,
) -> list[dict[str, Any]]:
    """Detect on a few images, write their pictures, return what was found in pixels of each."""
    from ..engine.draw import draw_detections, save_picture
    from ..engine.evaluate import to_pixels
    from ..engine.selection import save_crops

    resize = require("torchvision.transforms.v2.functional", "resizing images").resize
    sized = [resize(image, list(model.image_size), antialias=True) for image in images.values()]
    rows = []
    batch = torch.stack(sized).to(model.priors.device)
    detections = model.detect(batch, selection.within(model.detect_config)).to_list()
    for (path, image), fractions in zip(images.items(), detections, strict=True):
        chosen = selection.of(to_pixels(fractions, (image.shape[1], image.shape[2])))
        save_picture(pictures[path], draw_detections(image, chosen, selection.classes, min_score=0.0))
        if crops:
            save_crops(Path(crops), pictures[path].stem, image, chosen, selection.classes)
        rows.append({"image": str(path), "detections": selection.rows(chosen)})
    return rows
