"""Train torchvision's SSD on a Pascal VOC folder, as it is and with the fused core inside: the same curve.

python examples/train_torchvision.py path/to/folder --steps 20
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from side_by_side import show
from torchvision.models import detection
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

import ssd_cuda
from ssd_cuda.data import data_splits, open_dataset


def sample(dataset, index: int, transform) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """An image in [0, 1] and torchvision's target dict, randomly flipped."""
    image, target = dataset[index]
    size = (int(image.shape[-2]), int(image.shape[-1]))
    boxes = BoundingBoxes(target["boxes"], format=BoundingBoxFormat.XYXY, canvas_size=size)
    image, boxes = transform(image, boxes)
    return image, {"boxes": boxes.as_subclass(torch.Tensor), "labels": target["labels"]}


def train(model, batches, rate: float) -> tuple[list[float], float]:
    """Plain SGD, as anyone would write it; returns the losses and the seconds."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # batches this small have no statistics, and rounding would be blown up by them
    losses, start = [], time.perf_counter()
    for images, targets in batches:
        torch.manual_seed(len(losses))
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, time.perf_counter() - start


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a Pascal VOC folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--model", default="ssdlite320_mobilenet_v3_large", help="or ssd300_vgg16")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("runs/train_torchvision.png"))
    options = parser.parse_args()

    dataset = open_dataset(options.data, data_splits(options.data)[0])
    torch.manual_seed(0)
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    batches = []
    for _ in range(options.steps):
        picked = torch.randint(len(dataset), (options.batch,)).tolist()
        images, targets = zip(*(sample(dataset, i, transform) for i in picked), strict=True)
        batches.append((list(images), list(targets)))

    make = getattr(detection, options.model)
    before = make(weights=None, weights_backbone=None, num_classes=dataset.num_classes)
    after = ssd_cuda.accelerate(copy.deepcopy(before))  # the one line
    first, slow = train(before, batches, options.rate)
    second, fast = train(after, batches, options.rate)
    print(f"{options.steps} steps: {slow:.1f} s before, {fast:.1f} s after accelerate")
    return show(("torchvision", "accelerated"), (first, second), options.out)


if __name__ == "__main__":
    raise SystemExit(main() > 1e-3)
