"""Fine-tuning on few photographs: weights of the built-in shapes and half the epochs, against new weights.

python examples/fine_tune.py path/to/folder --images 32 --epochs 80

The small SSD at 120x160. First it learns the shapes; then both runs have the same recipe, images and seed,
and are tested on the same split. ``--check`` ends with status 1 where the weights did not help.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from ssd_cuda.data import BatchLoader, DetectionDataset, data_splits, open_dataset, prepare
from ssd_cuda.engine.checkpoint import ModelSpec, save_model
from ssd_cuda.engine.evaluate import evaluate
from ssd_cuda.engine.finetune import Pretrained, read_pretrained
from ssd_cuda.engine.train import TrainConfig, Trainer

SIZE = (120, 160)


def train(dataset: DetectionDataset, config: TrainConfig, weights: Pretrained | None = None) -> Trainer:
    """A run of the recipe, epoch by epoch."""
    torch.manual_seed(config.seed)
    model = ModelSpec("ssd_small", tuple(dataset.classes), SIZE).build()
    if weights is not None:
        print(weights.load_into(model, dataset.classes), flush=True)
    loader = BatchLoader(
        prepare(dataset, SIZE, config.augment), config.batch_size, train=True, seed=config.seed, workers=0
    )
    trainer = Trainer(model, config, len(loader))
    while not trainer.is_done:
        loader.set_epoch(trainer.epoch)
        trainer.run_epoch(loader)
    return trainer


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="a Pascal VOC or COCO folder")
    parser.add_argument("--images", type=int, default=32, help="of it to train on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=80, help="from new weights (default: %(default)s)")
    parser.add_argument("--shapes", type=int, default=400, help="images of shapes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="status 1 where fine-tuning is no better")
    options = parser.parse_args(arguments)
    start = time.process_time()
    shapes = open_dataset("shapes", "train", length=options.shapes)
    recipe = TrainConfig(epochs=8, augment="flip", warmup_steps=20)
    trained = train(shapes, recipe)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "shapes.pt"
        save_model(file, ModelSpec("ssd_small", tuple(shapes.classes), SIZE), trained.average.state_dict())
        weights = read_pretrained(file)
    splits = data_splits(options.data)
    few, tests = (open_dataset(options.data, split) for split in splits)
    few.records = few.records[: options.images]
    print(
        f"{len(few)} images of {splits[0]!r} to train on, {len(tests)} of {splits[1]!r} to test on",
        flush=True,
    )
    found = []
    for epochs, begin in ((options.epochs, None), (options.epochs // 2, weights)):
        config = TrainConfig(epochs=epochs, lr=4e-3, warmup_steps=5, seed=options.seed)
        scores = evaluate(train(few, config, begin).average, tests, workers=0)
        found.append(scores["ap50"])
        print(f"{'shapes' if begin else 'new':<7} {epochs:>3} epochs  AP50 {scores['ap50']:.3f}  "
              f"mAP {scores['map']:.3f}  {time.process_time() - start:.0f} CPU s", flush=True)  # fmt: skip
    return int(options.check and found[1] <= found[0])


if __name__ == "__main__":
    raise SystemExit(main())
