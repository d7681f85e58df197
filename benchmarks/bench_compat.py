"""compat: the rules of other codebases through our ops, beside those codebases' own rules in plain PyTorch.

The baselines are the transcriptions in ssd_cuda.reference.dialects, their loops over images and classes
included. Losses are matching + loss, forward + backward; detection is one image after another.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import replace

import torch

from ssd_cuda import DetectConfig, MultiBoxConfig, ops

from . import scenes
from .harness import Case, Contest

CLASSES = 21
LOSSES = ("amdegroot", "nvidia", "lufficc", "qfgaohao", "retinaface")
DETECTIONS = ("amdegroot", "nvidia", "lufficc")


def _rule(name: str):
    return importlib.import_module(f"ssd_cuda.reference.dialects.{name}")


def _loss(device: torch.device, *, name: str, b: int) -> Contest:
    config = MultiBoxConfig.preset(name)
    classes = 2 if config.single_class else CLASSES
    priors = scenes.priors(device, pixels=False)
    boxes, labels = scenes.targets(b, 7, classes, device)
    boxes = [box / 300 for box in boxes]
    labels = [label - config.label_offset for label in labels]
    loc, conf = scenes.head(b, classes, device, **scenes.TRAINED)
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()
    loc.requires_grad_(), conf.requires_grad_()
    gt = ops.GroundTruth.from_list(boxes, labels, degenerate="keep")

    def ours() -> tuple[torch.Tensor, ...]:
        losses = ops.multibox_loss(loc, conf, gt, priors, config)
        return torch.autograd.grad(losses.localization + losses.classification, (loc, conf))

    def theirs() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(sum(_rule(name).loss(loc, conf, boxes, labels, priors)), (loc, conf))

    def check() -> None:
        mine = ops.multibox_loss(loc, conf, gt, priors, config)
        other = _rule(name).loss(loc, conf, boxes, labels, priors)
        torch.testing.assert_close(
            (mine.localization, mine.classification), tuple(other), rtol=1e-4, atol=1e-4
        )

    # Logits and their gradient, loc's gradient, a key and a code a prior there and back.
    moved = 8 * conf.numel() + 32 * b * len(priors)
    return Contest(ours, {name: theirs}, check, moved)


def _detect(device: torch.device, *, name: str) -> Contest:
    config = replace(DetectConfig.preset(name), soft_nms=None)
    priors = scenes.priors(device, pixels=False)
    loc, conf = scenes.head(1, CLASSES, device, **scenes.TRAINED)
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()

    def ours():
        return ops.detect(loc, conf, priors, config).to_list()

    def check() -> None:
        assert len(ours()[0]["scores"]) == len(_rule(name).detect(loc[0], conf[0], priors)[1])

    theirs = functools.partial(_rule(name).detect, loc[0], conf[0], priors)
    return Contest(ours, {name: theirs}, check, conf.numel() * 4, graphs=())  # lists of boxes: everyone waits


def cases() -> list[Case]:
    """SSD300's priors; 8 images for the losses, one for detection."""
    found = []

    def add(title: str, name: str, make, **sizes) -> None:
        make = functools.partial(make, name=name, **sizes)
        found.append(Case("compat", title, {"B": sizes.get("b", 1)}, make, against=(name,), threads="first"))

    for name in LOSSES:
        add(f"{name} loss B=8", name, _loss, b=8)
    for name in DETECTIONS:
        add(f"{name} detection B=1", name, _detect)
    return found
