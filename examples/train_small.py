"""Train our small SSD on a Pascal VOC folder, with the fused loss and with plain PyTorch: the same curve.

python examples/train_small.py path/to/folder --steps 20
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from side_by_side import show
from torch import Tensor

from ssd_cuda import models, reference
from ssd_cuda.data import BatchLoader, data_splits, open_dataset, prepare
from ssd_cuda.ops import GroundTruth

SIZE = (240, 320)


def fused_loss(model: models.SSD, images: Tensor, gt: GroundTruth) -> Tensor:
    losses = model.loss(images, gt)
    return losses.localization + losses.classification


def plain_loss(model: models.SSD, images: Tensor, gt: GroundTruth) -> Tensor:
    loc, conf = model(images)
    target = (gt.boxes, gt.labels, gt.offsets)
    losses = reference.multibox.multibox_loss(loc, conf, *target, model.priors, **asdict(model.loss_config))
    return losses[0] + losses[1]


def train(loss_of, batches, num_classes: int, rate: float) -> tuple[list[float], float]:
    """AdamW from the same first weights; returns the losses and the seconds."""
    torch.manual_seed(0)
    model = models.ssd_small(num_classes, SIZE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses, start = [], time.perf_counter()
    for images, gt in batches:
        loss = loss_of(model, images, gt)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, time.perf_counter() - start


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a Pascal VOC or COCO folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--out", type=Path, default=Path("runs/train_small.png"))
    options = parser.parse_args()

    dataset = open_dataset(options.data, data_splits(options.data)[0])
    loader = BatchLoader(prepare(dataset, SIZE, "flip", cache=False), options.batch, train=True, seed=0)
    batches = list(islice(loader, options.steps))
    fused, fast = train(fused_loss, batches, dataset.num_classes, options.rate)
    plain, slow = train(plain_loss, batches, dataset.num_classes, options.rate)
    print(f"{len(batches)} steps: {slow:.1f} s with plain PyTorch, {fast:.1f} s with the fused loss")
    return show(("plain PyTorch", "fused"), (plain, fused), options.out)


if __name__ == "__main__":
    raise SystemExit(main() > 1e-3)
