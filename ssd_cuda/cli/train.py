"""``ssd-cuda train``."""

from __future__ import annotations

import argparse
import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._names import counted, name_list
from ..engine.console import StopOnInterrupt, interruption, say
from ..engine.outputs import check_folder
from ..engine.run_folder import check_run_folder, files_of_a_run, held_folder, remove_files
from . import train_options
from .evaluate import print_scores
from .options import UsageError, ap_rule, check_counts, open_data, pick_device, progress_bar, usual_split

if TYPE_CHECKING:
    from ..data import BatchLoader, DetectionDataset
    from ..engine.checkpoint import ModelSpec
    from ..engine.finetune import Pretrained
    from ..engine.processes import Processes
    from ..engine.recipe import TrainConfig
    from ..engine.train import Trainer
    from ..engine.validation import Validation

HELP = "train a detector; --weights starts from others, --resume goes on"
PARENTS = ("data_options", "score_options", "device_options")
_STRIDE = 64  # of the last map of ssd_small; the others take one size only
_BYTES_A_PIXEL = 60  # an image and what the first stage makes of it, in float32: less than any step takes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train_options.add_arguments(parser)
    add = parser.add_argument_group("what it shows").add_argument
    add("--test-split", help="evaluated at the end (default: what the folder names as one)")
    add("--no-eval", action="store_true", help="do not evaluate at the end")
    add("--eval-every", type=int, metavar="N", help="evaluate every N epochs too, and keep best.pt")
    add("--patience", type=int, metavar="N", help="end after N such evaluations without a better AP50")
    add("--tensorboard", action="store_true", help="write for TensorBoard, in OUT/tensorboard")


def run(options: argparse.Namespace) -> None:
    from ..engine.processes import join_processes

    check_counts(options)
    device = _own_device(pick_device(options.device))
    chosen = train_options.choose(options)
    size = _image_size(options, chosen, device)
    _check_options(options)
    out = Path(options.out)
    check_folder("--out", out)
    with held_folder(out) if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext():
        _check_start(options, out)
        with join_processes(device, options.timeout) as processes:
            _train(options, chosen.model, size, chosen.config, device, processes)


def _own_device(device: torch.device) -> torch.device:
    """Of several processes on a machine, each has the card of its number."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


def _check_options(options: argparse.Namespace) -> None:
    from ..engine.draw import figure_class
    from ..engine.metrics import coco_modules

    if options.resume and options.weights:
        raise UsageError("--weights starts a run and --resume goes on with one: give one of them")
    if options.extend and not options.resume:
        raise UsageError("--extend is for --resume, got none")
    if options.patience is not None and options.eval_every is None:
        raise UsageError("--patience counts the evaluations of --eval-every, got none")
    if options.no_eval and not options.eval_every:
        for name in ("test_split", "voc07"):
            if getattr(options, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} is of an evaluation, got --no-eval and no --eval-every"
                )
    for name in ("eval_every", "patience"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    figure_class()  # what is missing at the end of a run is told before it
    if options.eval_every or not options.no_eval:
        coco_modules()


def _check_start(options: argparse.Namespace, out: Path) -> None:
    from ..engine.checkpoint import load_checkpoint

    check_run_folder(out, resume=options.resume, weights=options.weights, overwrite=options.overwrite)
    if options.resume:  # looked at before the images are read
        load_checkpoint(options.resume)


def _spec(
    options: argparse.Namespace,
    spec: ModelSpec,
    dataset: DetectionDataset,
    pretrained: Pretrained | None,
    tell: Callable[..., Any],
) -> ModelSpec:
    """``spec`` with the priors that are asked for, or those that the run or the weights have."""
    from ..engine.checkpoint import load_checkpoint
    from ..engine.priors_fit import with_fitted_priors

    if options.resume:
        found = load_checkpoint(options.resume)[0]
        if options.priors:
            tell(f"priors stay those of {options.resume}: a run does not change them")
        return replace(spec, options=found.options) if replace(found, options="") == spec else spec
    if options.priors == "auto":
        spec, told = with_fitted_priors(spec, dataset)
        tell(told)
    theirs = pretrained.spec if pretrained and options.priors is None else None
    if theirs is not None and theirs.options and theirs.name == spec.name:
        tell(f"priors are those of {options.weights}; --priors model takes the model's own")
        return replace(spec, options=theirs.options)
    return spec


def _train(
    options: argparse.Namespace,
    name: str,
    size: tuple[int, int],
    config: TrainConfig,
    device: torch.device,
    processes: Processes,
) -> None:
    from ..data.loading import warn_if_empty
    from ..engine.checkpoint import ModelSpec
    from ..engine.finetune import read_pretrained
    from ..engine.progress import RunLog
    from ..engine.step import Speed
    from ..engine.train import train

    tell: Callable[..., Any] = say if processes.is_first else lambda *_: None
    pretrained = read_pretrained(options.weights) if options.weights else None
    split = options.split or usual_split(options, "train")
    dataset = open_data(options, split)
    warn_if_empty(dataset, f"the split {split!r} of {options.data}")
    spec = ModelSpec(name, tuple(dataset.classes), size, category_ids=dataset.category_ids)
    spec = _spec(options, spec, dataset, pretrained, tell)
    config = _weighted(options, config, dataset, tell)
    _check_batch(config, spec, len(dataset), processes)
    tested = _tested(options, spec, (split, dataset), processes)
    validation = _validation(options, tested, config) if tested and options.eval_every else None
    replaced = files_of_a_run(Path(options.out)) if options.overwrite and processes.is_first else []
    log = RunLog(Path(options.out), tell, validation, tensorboard=options.tensorboard and processes.is_first)
    batches = _batches(dataset, size, config, device, processes)
    remove_files(replaced)  # the last that is done before the run: what is refused takes nothing away
    checkpoint = Path(options.out) / "checkpoint.pt"
    tell(
        f"training {spec.name} on {device}{f' with {processes.count} processes' * (processes.count > 1)}: "
        f"{counted(len(dataset), 'image')} of {options.data} ({name_list(dataset.classes)})"
    )
    with StopOnInterrupt() as stop:
        trainer = train(
            batches,
            spec,
            config,
            checkpoint,
            resume=options.resume,
            extend=options.extend,
            initial=_initial(pretrained, spec, tell),
            device=device,
            processes=processes,
            speed=Speed(options.channels_last, options.compile),
            progress=progress_bar() if processes.is_first else None,
            validation=validation,
            on_epoch=log.on_epoch,
            stop=stop,
        )
    _finish(options, trainer, checkpoint, None if options.no_eval else tested, stop.signal)


def _weighted(
    options: argparse.Namespace, config: TrainConfig, dataset: DetectionDataset, tell: Callable[..., Any]
) -> TrainConfig:
    """The recipe with the class weights that are asked for."""
    from ..engine.class_weights import balanced_weights, parse_weights

    if options.class_weights is None:
        return config
    if options.class_weights.strip() == "balanced":
        weights = balanced_weights(dataset)
        named = zip(dataset.classes, weights[1:], strict=True)
        tell("class weights: " + ", ".join(f"{name} {weight:.3g}" for name, weight in named))
    else:
        weights = parse_weights(options.class_weights, dataset.classes, "--class-weights")
    return replace(config, class_weights=weights)


def _batches(
    dataset: DetectionDataset,
    size: tuple[int, int],
    config: TrainConfig,
    device: torch.device,
    processes: Processes,
) -> BatchLoader:
    from .. import data
    from ..data.sampling import Share

    share = Share(processes.rank, processes.count, config.accumulate)
    share.check(config.batch_size, len(dataset))  # before the images are read
    progress = progress_bar() if processes.is_first else None
    return data.BatchLoader(
        data.prepare(dataset, size, config.augment, progress=progress),
        config.batch_size,
        train=True,
        seed=config.seed,
        workers=config.workers,
        device=device,
        share=share,
    )


def _initial(
    pretrained: Pretrained | None, spec: ModelSpec, tell: Callable[..., Any]
) -> Callable[[Any], None] | None:
    if pretrained is None:
        return None
    return lambda model: tell(pretrained.load_into(model, spec.classes))


def _tested(
    options: argparse.Namespace, spec: ModelSpec, trained: tuple[str, DetectionDataset], processes: Processes
) -> DetectionDataset | None:
    """What is evaluated, if anything: looked at before hours of training end in a split that is not there,
    or in scores of images that were trained on."""
    from ..engine.validation import overlap_of

    if options.no_eval and not options.eval_every:
        return None
    other = "give another --test-split, or --no-eval and no --eval-every"
    split = options.test_split or usual_split(options, "test", other)
    whose = "of the checkpoint" if options.resume else f"of the split {trained[0]!r}, which is trained on"
    tested = open_data(options, split, spec, whose)
    overlap = overlap_of(trained[1], tested, (trained[0], split), f": {other}")
    if overlap and processes.is_first:
        warnings.warn(overlap, stacklevel=2)
    return tested


def _validation(options: argparse.Namespace, tested: DetectionDataset, config: TrainConfig) -> Validation:
    from ..engine.validation import Validation

    return Validation(
        tested,
        every=options.eval_every,
        patience=options.patience,
        best=Path(options.out) / "best.pt",
        batch_size=config.batch_size,
        workers=config.workers,
        rule=ap_rule(options),
    )


def _image_size(
    options: argparse.Namespace, chosen: train_options.Chosen, device: torch.device
) -> tuple[int, int]:
    height, width = chosen.size or (240, 320)
    if min(height, width) < _STRIDE:
        raise UsageError(
            f"--size must be at least {_STRIDE} pixels a side, the stride of the last map, "
            f"got {height} {width}"
        )
    batch = chosen.config.batch_size // chosen.config.accumulate
    needed = _BYTES_A_PIXEL * batch * height * width
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        known = hasattr(os, "sysconf")  # not on Windows
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else needed
    if needed > there:
        raise UsageError(
            f"--size {height} {width} with --batch-size {chosen.config.batch_size} needs more than "
            f"{needed / 1e9:.0f} GB, {device} has {there / 1e9:.0f}: lower one of them"
        )
    return height, width


def _check_batch(config: TrainConfig, spec: ModelSpec, images: int, processes: Processes) -> None:
    """Batch norm needs two numbers of each channel, and the last map may have a single cell."""
    from ..models import MODELS

    pieces = config.accumulate * processes.count
    joined = config.sync_batchnorm and processes.count > 1
    if min(config.batch_size, images) // pieces > 1 or joined or _trains_on_one_image(config, spec):
        return
    parts = f" for --accumulate {config.accumulate}" if config.accumulate > 1 else ""
    parts += f" for {processes.count} processes" if processes.count > 1 else ""
    height, width = spec.image_size
    raised = "" if MODELS[spec.name][1] else "; or raise --size"
    raise UsageError(
        f"--batch-size must be at least {2 * pieces}{parts} where --size {height} {width} "
        f"leaves the last map one cell, got {config.batch_size} and {counted(images, 'image')}{raised}"
    )


def _trains_on_one_image(config: TrainConfig, spec: ModelSpec) -> bool:
    """Tried by shapes alone: which batch norms are trained, and see the last map, is the model's to say."""
    with torch.device("meta"):
        model = spec.build().freeze(config.freeze, config.freeze_norms).train()
        try:
            model(torch.empty(1, 3, *spec.image_size))
        except ValueError:
            return False
    return True


def _finish(
    options: argparse.Namespace,
    trainer: Trainer,
    checkpoint: Path,
    tested: DetectionDataset | None,
    stopped: int,
) -> None:
    from ..engine.draw import save_loss_curve
    from ..engine.evaluate import evaluate

    if trainer.processes.is_first:
        looks = [(row["step"], row["ap50"]) for row in trainer.scores if row["ap50"] is not None]
        save_loss_curve(checkpoint.with_name("loss.png"), trainer.loss_rows(), evaluations=looks)
    # One process may have been asked alone: the others end with it, and none waits for it in an evaluation.
    stopped = max(trainer.processes.gather(stopped))
    if stopped:
        told = f"wrote {checkpoint} after step {trainer.step}; --resume goes on from there"
        raise interruption(stopped, told)
    if trainer.processes.is_first:
        say(f"wrote {checkpoint} and loss.png beside it")
    if tested is None:
        return
    scores = evaluate(
        trainer.average,
        tested,
        batch_size=trainer.config.batch_size,
        workers=trainer.config.workers,
        rule=ap_rule(options),
        progress=progress_bar() if trainer.processes.is_first else None,
        processes=trainer.processes,
    )
    if trainer.processes.is_first:
        print_scores(scores)
