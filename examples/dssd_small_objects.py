"""SSD321 and DSSD321 at a reduced width on small shapes: what do deconvolutions give?

python examples/dssd_small_objects.py --steps 1200 --more 600 --seeds 0 1 2

As in the paper SSD learns first; from its weights SSD and DSSD go on for the same number of steps with the
same images, DSSD with new deconvolutions and heads. ``--steps 0``: both from random weights. COCO's small
objects are those below 32 x 32 pixels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import count, islice
from pathlib import Path

import torch
from torch.utils.data import Dataset

from ssd_cuda import models
from ssd_cuda.data import BatchLoader, ShapesDataset, prepare
from ssd_cuda.engine.evaluate import evaluate
from ssd_cuda.engine.finetune import Pretrained
from ssd_cuda.engine.train import TrainConfig, Trainer

SIZE = (321, 321)
RADII = (0.025, 0.12)  # objects of 16 to 77 pixels
KEYS = ("ap50", "map", "map_small", "map_medium")


def batches(loader: BatchLoader):
    """Epoch after epoch."""
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def train(
    name: str, steps: int, images: Dataset, num_classes: int, seed: int, options, weights=None
) -> Trainer:
    """A model after ``steps`` steps, from random weights or those of another."""
    config = TrainConfig(steps=max(1, steps), lr=options.rate, warmup_steps=steps // 20, seed=seed)
    torch.manual_seed(seed)
    model = getattr(models, name)(num_classes, depth=50, width=options.width)
    if weights is not None:
        Pretrained("SSD", weights).load_into(model)
    loader = BatchLoader(images, config.batch_size, train=True, seed=seed, workers=0)
    trainer = Trainer(model, config, len(loader))
    trainer.run_epoch(islice(batches(loader), steps))
    return trainer


def score(name: str, seed: int, images: Dataset, test_set: ShapesDataset, options, weights) -> dict:
    """One run: a model trained and evaluated."""
    start = time.process_time()
    trainer = train(name, options.more, images, len(test_set.classes) + 1, seed, options, weights)
    seconds = time.process_time() - start
    found = evaluate(trainer.average, test_set, workers=0)
    scores = {"ap50": found["ap50"], **{key: found["coco"][key] for key in KEYS[1:]}}
    return {"model": name, "seed": seed, "cpu_seconds": seconds, **scores}


def table(rows: list[dict]) -> str:
    """A row a run, then the means of each model."""
    lines = ["| model | seed | " + " | ".join(KEYS) + " |", "|" + "---|" * (len(KEYS) + 2)]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['seed']} | " + " | ".join(f"{row[k]:.3f}" for k in KEYS) + " |"
        )
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        means = (statistics.mean(row[k] for row in own) for k in KEYS)
        lines.append(f"| {name} | mean of {len(own)} | " + " | ".join(f"{m:.3f}" for m in means) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1200, help="of 8 images, SSD alone (default: 1200)")
    parser.add_argument("--more", type=int, default=600, help="steps of both after it (default: 600)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=4, help="of the stem; 64 as published (default: 4)")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--tests", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/dssd_small_objects.json"))
    options = parser.parse_args(arguments)
    train_set, test_set = (
        ShapesDataset(split, length=length, size=SIZE, radii=RADII)
        for split, length in (("train", options.images), ("test", options.tests))
    )
    images = prepare(train_set, SIZE, "flip")  # painted once
    rows = []
    for seed in options.seeds:
        weights = None
        if options.steps:
            first = train("ssd321", options.steps, images, len(test_set.classes) + 1, seed, options)
            weights = first.average.state_dict()
        for name in ("ssd321", "dssd321"):
            rows.append(score(name, seed, images, test_set, options, weights))
            print(json.dumps(rows[-1]), flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
