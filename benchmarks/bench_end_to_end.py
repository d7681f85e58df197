"""end_to_end: whole steps of torchvision's models before and after ``accelerate``, and of our small SSD.

On a CPU the backbone is nearly all of a step, so the gain is small there and said as it is; what a card would
save shows in the host work: operators dispatched and waits for the card (benchmarks/waits.py).
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

import ssd_cuda
from ssd_cuda import models, ops, reference

from . import scenes, waits
from .harness import Case, Contest, time_cpu

CLASSES = 21


def _torchvision(name: str, classes: int = CLASSES) -> nn.Module:
    from torchvision.models import detection

    torch.manual_seed(0)
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes)


def _batch(device: torch.device, b: int, classes: int = CLASSES) -> tuple[list[Tensor], list[dict]]:
    images = [torch.rand(3, 300, 300, device=device) for _ in range(b)]
    boxes, labels = scenes.targets(b, 7, classes, device)
    return images, [{"boxes": x, "labels": y} for x, y in zip(boxes, labels, strict=True)]


def _train(model: nn.Module, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    losses = model(images, [dict(target) for target in targets])
    sum(losses.values()).backward()
    return losses


def _detect(model: nn.Module, images: list[Tensor]) -> list[dict]:
    with torch.no_grad():
        return model(images)


def _accelerated(device: torch.device, *, name: str, b: int, training: bool) -> Contest:
    plain = _torchvision(name).to(device).train(training)
    for module in plain.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
            module.eval()
    fused = ssd_cuda.accelerate(copy.deepcopy(plain))
    images, targets = _batch(device, b)
    if training:
        runs = [functools.partial(_train, model, images, targets) for model in (fused, plain)]
    else:
        runs = [functools.partial(_detect, model, images) for model in (fused, plain)]

    def check() -> None:
        ours, theirs = (run() for run in runs)
        if training:
            torch.testing.assert_close(dict(ours), dict(theirs), rtol=1e-4, atol=1e-4)
        else:
            assert [len(x["boxes"]) for x in ours] == [len(x["boxes"]) for x in theirs]

    return Contest(runs[0], {"torchvision": runs[1]}, check)


def _small(device: torch.device, *, b: int) -> Contest:
    model = models.ssd_small(num_classes=4, image_size=(240, 320)).to(device).train()
    images = torch.rand(b, 3, 240, 320, device=device)
    boxes, labels = scenes.targets(b, 15, 4, device)
    gt = ops.GroundTruth.from_list([x / 300 for x in boxes], labels)
    config = model.loss_config
    options = {**vars(config), "match": vars(config.match), "mining": vars(config.mining)}

    def ours() -> Tensor:
        losses = model.loss(images, gt)
        (losses.localization + losses.classification).backward()
        return losses.classification

    def plain() -> Tensor:
        loc, conf = model(images)
        losses = reference.multibox.multibox_loss(
            loc, conf, gt.boxes, gt.labels, gt.offsets, model.priors, **options
        )
        (losses[0] + losses[1]).backward()
        return losses[1]

    return Contest(ours, {"reference": plain})


def cases() -> list[Case]:
    """Training and evaluation of SSD300-VGG16, SSDlite and the small SSD; images are 300 x 300."""
    found = []
    for name, b in (("ssd300_vgg16", 2), ("ssdlite320_mobilenet_v3_large", 4)):
        for training in (True, False):
            title = f"{name} B={b} {'training step' if training else 'detection'}"
            make = functools.partial(_accelerated, name=name, b=b, training=training)
            found.append(Case("end_to_end", title, {"B": b}, make))
    found.append(Case("end_to_end", "ssd_small B=8 training step", {"B": 8}, functools.partial(_small, b=8)))
    return found


def host_work(batches: tuple[int, ...] = (2, 8)) -> list[dict[str, Any]]:
    """Operators and waits of one SSDlite step, before and after accelerate: counts, not times."""
    rows = []
    for training in (True, False):
        for b in batches:
            plain = _torchvision("ssdlite320_mobilenet_v3_large").train(training)
            row: dict[str, Any] = {"step": "training" if training else "detection", "B": b, "C": CLASSES}
            images, targets = _batch(torch.device("cpu"), b)
            for label in ("torchvision", "accelerated"):
                model = plain if label == "torchvision" else ssd_cuda.accelerate(plain)
                step = functools.partial(_train, model, images, targets) if training else None
                found = waits.count(step or functools.partial(_detect, model, images))
                row[label] = {"operators": found["operators"], "waits": found["waits"]}
            ssd_cuda.restore(plain)
            rows.append(row)
    return rows


def core_share(device: torch.device) -> dict[str, float]:
    """Part of torchvision's SSD300 step that is the core: matching and loss, or the post-process."""
    from oracles import torchvision_ssd

    model = torchvision_ssd.bare_ssd()
    priors = scenes.ssd300_priors(device)
    boxes, labels = scenes.targets(2, 7, CLASSES, device)
    loc, conf = scenes.head(2, CLASSES, device, trained=True)
    loc.requires_grad_(), conf.requires_grad_()

    def loss() -> None:
        losses = torchvision_ssd.compute_loss(model, loc, conf, boxes, labels, priors)
        torch.autograd.grad(sum(losses), (loc, conf))

    def post() -> None:
        with torch.no_grad():
            torchvision_ssd.postprocess(model, loc, conf, priors)

    whole = {
        training: _accelerated(device, name="ssd300_vgg16", b=2, training=training).baselines["torchvision"]
        for training in (True, False)
    }
    times = time_cpu({"loss": loss, "post": post, "train": whole[True], "eval": whole[False]}, rounds=5)
    return {
        "training": times["loss"].median / times["train"].median,
        "detection": times["post"].median / times["eval"].median,
    }
