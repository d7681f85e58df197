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
    priors = scenes.ssd300_priors(device, pixels=False)
    boxes, labels = scenes.targets(b, 7, classes, device)
    boxes = [box / 300 for box in boxes]
    labels = [label - config.label_offset for label in labels]
    loc, conf = scenes.head(b, classes, device, trained=True)
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

    return Contest(ours, {"its own rule": theirs}, check)


def _detect(device: torch.device, *, name: str) -> Contest:
    config = replace(DetectConfig.preset(name), soft_nms=None)
    priors = scenes.ssd300_priors(device, pixels=False)
    loc, conf = scenes.head(1, CLASSES, device, trained=True)
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()

    def ours():
        return ops.detect(loc, conf, priors, config).to_list()

    def check() -> None:
        assert len(ours()[0]["scores"]) == len(_rule(name).detect(loc[0], conf[0], priors)[1])

    return Contest(ours, {"its own rule": lambda: _rule(name).detect(loc[0], conf[0], priors)}, check)


def cases() -> list[Case]:
    """SSD300's priors; 8 images for the losses, one for detection."""
    found = []
    for name in LOSSES:
        found.append(Case("compat", f"{name} loss B=8", {"B": 8}, functools.partial(_loss, name=name, b=8)))
    for name in DETECTIONS:
        found.append(Case("compat", f"{name} detection B=1", {"B": 1}, functools.partial(_detect, name=name)))
    return found
