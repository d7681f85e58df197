"""``ssd-cuda detect``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._extras import require
from ..engine.console import complain, say
from ..engine.files import image_files, picture_paths
from ..engine.outputs import check_folder
from .options import UsageError, check_counts, check_json, pick_device, progress_bar, write_json

if TYPE_CHECKING:
    from ..engine.checkpoint import ModelSpec

HELP = "detections on images of your own"
PARENTS = ("run_options",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument(
        "--checkpoint",
        "-c",
        default="runs/demo/checkpoint.pt",
        help="file that train wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--out", "-o", default="runs/detect", help="folder, or with one image its file (default: %(default)s)"
    )
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the detections to FILE")


def run(options: argparse.Namespace) -> int:
    from ..engine.checkpoint import load_model

    check_counts(options)
    if not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold must lie in [0, 1], got {options.threshold}")
    pictures = picture_paths(image_files(options.images), Path(options.out))
    files = list(pictures)
    check_json(options, *files, options.checkpoint)
    model, spec = load_model(options.checkpoint, pick_device(options.device))
    check_folder("--out", next(iter(pictures.values())).parent)
    found: list[dict[str, Any]] = []
    starts = range(0, len(files), options.batch_size)
    try:
        for start in progress_bar()(starts, desc="detect"):
            images = _read(files[start : start + options.batch_size])
            if images:
                found += _detect_batch(model, spec, images, pictures, options.threshold)
    finally:  # after Ctrl-C too: what there is
        if options.json:
            write_json(options.json, found)
    say(*(f"{row['image']}: {len(row['detections'])} detections" for row in found))
    say(f"wrote {len(found)} picture{'s' * (len(found) != 1)} to {options.out}")
    return 1 if len(found) < len(files) else 0


def _read(files: list[Path]) -> dict[Path, Tensor]:
    """The images that can be read; of the others one sentence each."""
    from ..data import DataError, read_image

    images = {}
    for path in files:
        try:
            images[path] = read_image(path).as_subclass(Tensor)
        except DataError as error:
            complain(f"{error}; it is left out")
    return images


def _detect_batch(
    model: Any, spec: ModelSpec, images: dict[Path, Tensor], pictures: dict[Path, Path], threshold: float
) -> list[dict[str, Any]]:
    """Detect on a few images, write their pictures, return what was found in pixels of each."""
    from ..engine.draw import draw_detections, save_picture
    from ..engine.evaluate import to_pixels

    resize = require("torchvision.transforms.v2.functional", "resizing images").resize
    sized = [resize(image, list(model.image_size), antialias=True) for image in images.values()]
    rows = []
    detections = model.detect(torch.stack(sized).to(model.priors.device)).to_list()
    for (path, image), fractions in zip(images.items(), detections, strict=True):
        result = to_pixels(fractions, (image.shape[1], image.shape[2]))
        save_picture(pictures[path], draw_detections(image, result, spec.classes, min_score=threshold))
        boxes, scores, labels = (result[key].tolist() for key in ("boxes", "scores", "labels"))
        chosen = [
            {"box": [round(v, 2) for v in box], "score": round(score, 4), "class": spec.classes[label - 1]}
            for box, score, label in zip(boxes, scores, labels, strict=True)
            if score >= threshold
        ]
        rows.append({"image": str(path), "detections": chosen})
    return rows
