"""``ssd-cuda detect``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._extras import require
from ..engine.console import say
from .options import UsageError, check_counts, pick_device, progress_bar, write_json

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


def run(options: argparse.Namespace) -> None:
    from ..engine.checkpoint import load_model
    from ..engine.files import image_files, picture_paths

    check_counts(options)
    if not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold must lie in [0, 1], got {options.threshold}")
    files = image_files(options.images)
    pictures = picture_paths(files, Path(options.out))
    model, spec = load_model(options.checkpoint, pick_device(options.device))
    found: list[dict[str, Any]] = []
    starts = range(0, len(files), options.batch_size)
    for start in progress_bar()(starts, desc="detect"):
        batch = files[start : start + options.batch_size]
        found += _detect_batch(model, spec, batch, pictures, options.threshold)
    for row in found:
        say(f"{row['image']}: {len(row['detections'])} detections")
    say(f"wrote {len(files)} picture{'s' * (len(files) != 1)} to {options.out}")
    if options.json:
        write_json(options.json, found)


def _detect_batch(
    model: Any, spec: ModelSpec, files: list[Path], pictures: dict[Path, Path], threshold: float
) -> list[dict[str, Any]]:
    """Detect on a few files, write their pictures, return what was found in pixels of each."""
    from ..data import read_image
    from ..engine.draw import draw_detections
    from ..engine.evaluate import to_pixels

    resize = require("torchvision.transforms.v2.functional", "resizing images").resize
    images = [read_image(path).as_subclass(torch.Tensor) for path in files]
    batch = torch.stack([resize(image, list(model.image_size), antialias=True) for image in images])
    rows = []
    detections = model.detect(batch.to(model.priors.device)).to_list()
    for path, image, fractions in zip(files, images, detections, strict=True):
        result = to_pixels(fractions, (image.shape[1], image.shape[2]))
        picture = draw_detections(image, result, spec.classes, min_score=threshold)
        pictures[path].parent.mkdir(parents=True, exist_ok=True)
        picture.save(pictures[path])
        boxes, scores, labels = (result[key].tolist() for key in ("boxes", "scores", "labels"))
        chosen = [
            {"box": [round(v, 2) for v in box], "score": round(score, 4), "class": spec.classes[label - 1]}
            for box, score, label in zip(boxes, scores, labels, strict=True)
            if score >= threshold
        ]
        rows.append({"image": str(path), "detections": chosen})
    return rows
