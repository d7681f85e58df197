"""``ssd-cuda train``."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .._names import name_list
from ..engine.console import StopOnInterrupt, say
from ..engine.outputs import check_folder
from .evaluate import print_scores
from .options import UsageError, ap_rule, check_counts, open_data, pick_device, progress_bar

if TYPE_CHECKING:
    from ..engine.checkpoint import ModelSpec
    from ..engine.train import Trainer

HELP = "train a detector; --resume goes on"
PARENTS = ("data_options", "run_options")
_STRIDE = 64  # of the last map of ssd_small; the others take one size only
_BYTES_A_PIXEL = 60  # an image and what the first stage makes of it, in float32: less than any step takes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/train", help="folder to write to (default: %(default)s)")
    parser.add_argument(
        "--model", default="ssd_small", help="ssd_small (default), ssd300_vgg16, ssd512_vgg16"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="image size (default: the model's, or 240 320)",
    )
    parser.add_argument("--epochs", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument(
        "--augment", default="flip", choices=("none", "flip", "flips", "ssd"), help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--min-negatives",
        type=int,
        default=0,
        help="priors that an image without objects trains as background (default: %(default)s)",
    )
    parser.add_argument("--test-split", help="evaluated at the end (default: what the folder names as one)")
    parser.add_argument("--no-eval", action="store_true", help="do not evaluate at the end")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="go on from there, with the same options")


def run(options: argparse.Namespace) -> None:
    from .. import data
    from ..data.loading import warn_if_empty
    from ..engine.checkpoint import ModelSpec, load_checkpoint
    from ..engine.train import TrainConfig, train

    check_counts(options)
    device = pick_device(options.device)
    size = _image_size(options, device)
    config = TrainConfig(
        **{field.name: getattr(options, field.name) for field in fields(TrainConfig) if field.name in options}
    )
    check_folder("--out", Path(options.out))
    if options.resume:  # looked at before the images are read
        load_checkpoint(options.resume)
    split = options.split or data.data_splits(options.data)[0]
    dataset = open_data(options, split)
    warn_if_empty(dataset, f"the split {split!r} of {options.data}")
    spec = ModelSpec(options.model, tuple(dataset.classes), size)
    _check_batch(options, len(dataset), size)
    progress = progress_bar()
    batches = data.BatchLoader(
        data.prepare(dataset, size, config.augment, progress=progress),
        config.batch_size,
        train=True,
        seed=config.seed,
        workers=config.workers,
        device=device,
    )
    checkpoint = Path(options.out) / "checkpoint.pt"
    say(
        f"training {spec.name} on {device}: {len(dataset)} images of {options.data} "
        f"({name_list(dataset.classes)})"
    )
    with StopOnInterrupt() as stop:
        trainer = train(
            batches,
            spec,
            config,
            checkpoint,
            resume=options.resume,
            device=device,
            progress=progress,
            on_epoch=lambda t, mean: say(f"epoch {t.epoch}/{config.epochs}  loss {mean:.3f}"),
            stop=stop,
        )
    _finish(options, trainer, checkpoint, spec, stop())


def _image_size(options: argparse.Namespace, device: torch.device) -> tuple[int, int]:
    from ..models import MODELS

    if options.model not in MODELS:
        raise UsageError(f"--model must be one of {', '.join(MODELS)}, got {options.model!r}")
    height, width = options.size or MODELS[options.model][1] or (240, 320)
    if min(height, width) < _STRIDE:
        raise UsageError(
            f"--size must be at least {_STRIDE} pixels a side, the stride of the last map, "
            f"got {height} {width}"
        )
    needed = _BYTES_A_PIXEL * options.batch_size * height * width
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        known = hasattr(os, "sysconf")  # not on Windows
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else needed
    if needed > there:
        raise UsageError(
            f"--size {height} {width} with --batch-size {options.batch_size} needs more than "
            f"{needed / 1e9:.0f} GB, {device} has {there / 1e9:.0f}: lower one of them"
        )
    return height, width


def _check_batch(options: argparse.Namespace, images: int, size: tuple[int, int]) -> None:
    """Batch norm needs two numbers of each channel, and the last map may have a single cell."""
    from ..models.small import SmallBackbone

    rows, columns = SmallBackbone.map_sizes(size)[-1]
    if options.model == "ssd_small" and min(options.batch_size, images) * rows * columns < 2:
        raise UsageError(
            f"--batch-size must be at least 2 where --size {size[0]} {size[1]} leaves the last map one cell, "
            f"got {options.batch_size} and {images} image{'s' * (images != 1)}; or raise --size"
        )


def _finish(
    options: argparse.Namespace, trainer: Trainer, checkpoint: Path, spec: ModelSpec, stopped: bool
) -> None:
    from .. import data
    from ..engine.draw import save_loss_curve
    from ..engine.evaluate import evaluate

    save_loss_curve(checkpoint.with_name("loss.png"), trainer.loss_rows())
    if stopped:
        raise KeyboardInterrupt(f"wrote {checkpoint} after step {trainer.step}; --resume goes on from there")
    say(f"wrote {checkpoint} and loss.png beside it")
    if options.no_eval:
        return
    split = options.test_split or data.data_splits(options.data)[1]
    scores = evaluate(
        trainer.average,
        open_data(options, split, spec),
        batch_size=options.batch_size,
        workers=options.workers,
        rule=ap_rule(options),
        progress=progress_bar(),
    )
    print_scores(scores)
