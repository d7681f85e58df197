"""The whole job in a few minutes on two cores: train the small SSD, evaluate it, draw, time the ops.

``python -m ssd_cuda.engine.demo [--data FOLDER] [--out runs/demo]``; without a folder it uses the
built-in shapes. It writes ``detections.png``, ``loss.png``, ``checkpoint.pt``, ``results.json`` and
``op_costs.md``.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from .._names import counted, name_list
from ..data import BatchLoader, DetectionDataset, ShapesDataset, collate, data_splits, open_dataset, prepare
from ..data.coco import in_order_of
from .checkpoint import ModelSpec
from .console import run_safely, say
from .draw import figure_class, save_grid, save_loss_curve
from .evaluate import evaluate
from .metrics import coco_modules
from .op_costs import costs_table, measure_op_costs
from .outputs import check_folder, write_text
from .recipe import Amp
from .report import without_nan
from .train import TrainConfig, Trainer, train
from .validation import overlap_of

__all__ = ["main", "run_demo"]

IMAGE_SIZE = (240, 320)
STEPS = 430  # of 8 images
BATCH = 8


def epochs_for(images: int, steps: int = STEPS) -> int:
    """Passes over the data that make about ``steps`` steps."""
    return max(1, round(steps / max(1, images // BATCH)))


def run_demo(
    data: str | Path = "shapes",
    out: str | Path = "runs/demo",
    *,
    epochs: int | None = None,
    seed: int = 0,
    amp: Amp = "none",
    **options: Any,
) -> dict[str, Any]:
    """Train, evaluate, draw and time; returns what ``results.json`` holds.

    Args:
        data: ``"shapes"``, or a Pascal VOC or COCO folder.
        out: the folder to write to.
        epochs: None: as many as make about 430 steps.
        seed: of weights, order and augmentation.
        amp: precision of the convolutions, ``"none"``, ``"bf16"`` or ``"fp16"``.
        options: passed on to :func:`ssd_cuda.data.open_dataset`.
    """
    out = Path(out)
    figure_class()
    coco_modules()
    check_folder("--out", out)
    train_split, test_split = data_splits(data)
    train_set = open_dataset(data, train_split, **options)
    test_set = in_order_of(open_dataset(data, test_split, **options), train_set.classes)
    if test_set.classes != train_set.classes:
        raise ValueError(
            f"{data} must have the same classes in both splits, got {name_list(train_set.classes)} in "
            f"{train_split!r} and {name_list(test_set.classes)} in {test_split!r}"
        )
    if overlap := overlap_of(train_set, test_set, (train_split, test_split)):
        warnings.warn(overlap, stacklevel=2)
    say(f"data: {data}, {counted(len(train_set), 'image')} of {train_split!r} to train on, "
          f"{len(test_set)} of {test_split!r} to test on; {name_list(train_set.classes)}")  # fmt: skip

    epochs = epochs_for(len(train_set)) if epochs is None else epochs
    trainer, seconds = _train(train_set, out, epochs, seed, amp)
    start = time.perf_counter()
    scores = evaluate(trainer.average, test_set)
    predictions = scores.pop("predictions")
    say(f"evaluated in {time.perf_counter() - start:.0f} s: AP50 (VOC) {scores['ap50']:.3f}, "
          f"mAP (COCO) {scores['map']:.3f}")  # fmt: skip
    for name, value in scores["voc"]["ap"].items():
        say(f"  {name:<16} AP50 {value:.3f}  ({counted(scores['voc']['objects'][name], 'object')})")

    costs = _op_costs(trainer, test_set)
    results = {
        "data": str(data),
        "classes": list(train_set.classes),
        "ap50": scores["ap50"],
        "map": scores["map"],
        "train_seconds": seconds,
        "steps": trainer.step,
        "epochs": trainer.epoch,
        "seed": seed,
        "amp": amp,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "voc": scores["voc"],
        "coco": scores["coco"],
        "op_costs": costs,
    }
    _write(out, results, trainer, test_set, predictions)
    return results


def _train(dataset: DetectionDataset, out: Path, epochs: int, seed: int, amp: Amp) -> tuple[Trainer, float]:
    # The built-in shapes stand upright in the test split too; photographs of the demo may not.
    augment = "flip" if isinstance(dataset, ShapesDataset) else "flips"
    config = TrainConfig(epochs=epochs, batch_size=BATCH, seed=seed, augment=augment, amp=amp)
    spec = ModelSpec("ssd_small", tuple(dataset.classes), IMAGE_SIZE, category_ids=dataset.category_ids)
    start = time.perf_counter()
    batches = BatchLoader(
        prepare(dataset, IMAGE_SIZE, config.augment),
        BATCH,
        train=True,
        seed=seed,
        workers=config.workers,
    )
    say(f"images read in {time.perf_counter() - start:.0f} s; training {counted(epochs, 'epoch')} of "
          f"{counted(len(batches), 'step')} on {counted(torch.get_num_threads(), 'thread')}")  # fmt: skip
    start = time.perf_counter()

    def report(trainer: Trainer, mean: float) -> None:
        passed = time.perf_counter() - start
        say(f"  epoch {trainer.epoch:>2}/{epochs}  loss {mean:.3f}  {passed:.0f} s")

    trainer = train(batches, spec, config, out / "checkpoint.pt", on_epoch=report)
    return trainer, time.perf_counter() - start


def _op_costs(trainer: Trainer, dataset: DetectionDataset) -> list[dict[str, Any]]:
    resized = prepare(dataset, trainer.average.image_size, cache=False)
    images, gt = collate([resized[index] for index in range(min(BATCH, len(dataset)))])
    return measure_op_costs(trainer.average, images, gt)


def _write(
    out: Path, results: dict[str, Any], trainer: Trainer, dataset: DetectionDataset, predictions: list[Any]
) -> None:
    shown = range(min(6, len(dataset)))
    save_grid(
        out / "detections.png",
        [dataset.image(index) for index in shown],
        [predictions[index] for index in shown],
        [dataset.target(index) for index in shown],
        dataset.classes,
        caption=f"AP50 {results['ap50']:.3f}",
    )
    save_loss_curve(out / "loss.png", trainer.loss_rows())
    table = costs_table(results["op_costs"])
    conditions = (
        f"{counted(results['threads'], 'CPU thread')}, torch {results['torch']}, float32, medians of 9 calls"
    )
    write_text(out / "op_costs.md", f"{table}\n\n{conditions}.\n")
    write_text(out / "results.json", json.dumps(without_nan(results), indent=2) + "\n")
    names = ", ".join(sorted(p.name for p in out.iterdir()))
    say("", *table.splitlines(), f"({conditions})", "", f"wrote {names} to {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the demo."""
    parser = argparse.ArgumentParser(
        prog="python -m ssd_cuda.engine.demo", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--data", default="shapes", help="a Pascal VOC or COCO folder (default: built-in shapes)"
    )
    parser.add_argument("--out", default="runs/demo", help="folder to write to (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="default: about 430 steps")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--amp", default="none", choices=get_args(Amp), help="default: %(default)s")
    given = parser.parse_args(arguments)
    run_demo(given.data, given.out, epochs=given.epochs, seed=given.seed, amp=given.amp)


if __name__ == "__main__":
    raise SystemExit(run_safely(main))
