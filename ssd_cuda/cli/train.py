"""``ssd-cuda train``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .._names import name_list
from ..engine.console import say
from .evaluate import print_scores
from .options import UsageError, check_counts, class_option, pick_device, progress_bar

if TYPE_CHECKING:
    from ..engine.checkpoint import ModelSpec
    from ..engine.train import TrainConfig, Trainer

HELP = "train a detector; --resume goes on"
PARENTS = ("data_options", "run_options")


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
    parser.add_argument("--test-split", help="evaluated at the end (default: what the folder names as one)")
    parser.add_argument("--no-eval", action="store_true", help="do not evaluate at the end")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="go on from there, with the same options")


def run(options: argparse.Namespace) -> None:
    from .. import data
    from ..engine.checkpoint import ModelSpec, load_checkpoint
    from ..engine.train import TrainConfig, train

    check_counts(options)
    device = pick_device(options.device)
    size = _image_size(options)
    config = TrainConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        augment=options.augment,
        seed=options.seed,
        workers=options.workers,
    )
    if options.resume:  # looked at before the images are read
        load_checkpoint(options.resume)
    split = options.split or data.data_splits(options.data)[0]
    dataset = data.open_dataset(options.data, split)
    spec = ModelSpec(options.model, tuple(dataset.classes), size)
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
    trainer = train(
        batches,
        spec,
        config,
        checkpoint,
        resume=options.resume,
        device=device,
        progress=progress,
        on_epoch=lambda t, mean: say(f"epoch {t.epoch}/{config.epochs}  loss {mean:.3f}"),
    )
    _finish(options, trainer, checkpoint, config, spec)


def _image_size(options: argparse.Namespace) -> tuple[int, int]:
    from ..models import MODELS

    if options.model not in MODELS:
        raise UsageError(f"--model must be one of {', '.join(MODELS)}, got {options.model!r}")
    size = tuple(options.size) if options.size else (MODELS[options.model][1] or (240, 320))
    if min(size) < 1:
        raise UsageError(f"--size must be at least 1 pixel a side, got {size[0]} {size[1]}")
    return size


def _finish(
    options: argparse.Namespace, trainer: Trainer, checkpoint: Path, config: TrainConfig, spec: ModelSpec
) -> None:
    from .. import data
    from ..engine.draw import save_loss_curve
    from ..engine.evaluate import evaluate

    save_loss_curve(checkpoint.with_name("loss.png"), trainer.loss_rows())
    say(f"wrote {checkpoint} and loss.png beside it")
    if options.no_eval:
        return
    split = options.test_split or data.data_splits(options.data)[1]
    dataset = data.open_dataset(options.data, split, **class_option(options.data, spec))
    print_scores(
        evaluate(
            trainer.average,
            dataset,
            batch_size=config.batch_size,
            workers=config.workers,
            progress=progress_bar(),
        )
    )
