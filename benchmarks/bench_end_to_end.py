"""end_to_end: whole steps of torchvision's models before and after ``accelerate``, and of our own models.

Every step stands beside its core (priors, matching and loss with its backward; or the post-process) on the
same raw predictions, so that the core's share before and after can be read off one run. A model without
weights would detect everything everywhere, so its head gets a trained one's logits on top, unless the name
says "untrained". On a CPU the backbone is nearly all of a step; what a card would save shows in the host
work: operators dispatched and waits for the card (benchmarks/waits.py).
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

import ssd_cuda
from ssd_cuda import models, ops, reference
from ssd_cuda.compat import torchvision as compat

from . import scenes, waits
from .baselines import torchvision_ssd
from .harness import Case, Contest
from .report import CORE

CLASSES = 21
SSD300, SSDLITE = "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"
Run = Callable[[], Any]


class _Trained:
    """A forward hook: a trained head's logits on top of what the network says."""

    def __init__(self) -> None:
        self.logits: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        if isinstance(outputs, dict):
            return {**outputs, "cls_logits": self.add(outputs["cls_logits"])}
        return outputs[0], self.add(outputs[1])

    def add(self, conf: Tensor) -> Tensor:
        _, p, c = conf.shape
        if (p, c) not in self.logits:
            self.logits[p, c] = scenes.head(1, c, conf.device, count=p, **scenes.TRAINED)[1]
        return conf + self.logits[p, c].to(conf.dtype)


def _prepared(model: nn.Module, device: torch.device, training: bool, trained: bool, last: bool) -> nn.Module:
    """Without dropout and batch statistics in training mode too: a step can be repeated and compared."""
    model = model.to(device).train(training)
    if last:
        model = model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
            module.eval()
    if trained:
        getattr(model, "head", model).register_forward_hook(_Trained())
    return model


@functools.cache
def _fresh(name: str) -> nn.Module:
    from torchvision.models import detection

    torch.manual_seed(0)
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=CLASSES)


def _torchvision(name: str) -> nn.Module:
    """A model of one's own with the same weights every time; drawing them takes a second."""
    return copy.deepcopy(_fresh(name))


def _batch(
    device: torch.device, b: int, size: tuple[int, int] = (300, 300)
) -> tuple[list[Tensor], list[dict]]:
    g = torch.Generator(device).manual_seed(0)
    images = [torch.rand(3, *size, generator=g, device=device) for _ in range(b)]
    boxes, labels = scenes.targets(b, 7, CLASSES, device)
    scale = torch.tensor([size[1], size[0]] * 2, device=device) / 300
    return images, [{"boxes": x * scale, "labels": y} for x, y in zip(boxes, labels, strict=True)]


def _amp(device: torch.device, on: bool) -> Any:
    """float16 on a card, as people train there; the cache of casts would outlive a graph.

    A rehearsal on a CPU goes without: a step in half precision takes minutes on some.
    """
    if not on or device.type == "cpu":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.float16, cache_enabled=False)


def _train(model: nn.Module, losses: Callable[[], Any]) -> tuple[Tensor, Tensor]:
    """One step without the optimizer: (localization, classification), the gradients are the parameters'."""
    model.zero_grad(set_to_none=True)
    first, second, *_ = losses()
    (first + second).backward()
    return first, second


def _steps(
    model: nn.Module, images: list[Tensor], targets: list[dict], training: bool, amp: bool = False
) -> Run:
    """A step of a torchvision model, accelerated or not."""
    device = images[0].device

    def losses() -> tuple[Tensor, Tensor]:
        with _amp(device, amp):
            found = model(images, [dict(target) for target in targets])
        return found["bbox_regression"], found["classification"]

    def detect() -> list[dict]:
        with torch.no_grad(), _amp(device, amp):
            return model(images)

    return functools.partial(_train, model, losses) if training else detect


def _same(ours: Run, theirs: Run, training: bool, amp: bool = False) -> None:
    mine, other = ours(), theirs()
    if training:
        tolerance = 1e-2 if amp else 1e-4
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)
        return
    counts = [sum(len(image["boxes"]) for image in found) for found in (mine, other)]
    # A score beside a threshold may fall on either side of it; in half precision the scores themselves move.
    assert abs(counts[0] - counts[1]) <= (0.1 if amp else 0.01) * max(counts), counts


def _accelerated(
    device: torch.device,
    *,
    b: int,
    name: str = SSD300,
    training: bool,
    trained: bool = True,
    amp: bool = False,
    last: bool = False,
) -> Contest:
    plain = _prepared(_torchvision(name), device, training, trained, last)
    fused = ssd_cuda.accelerate(copy.deepcopy(plain))
    batch = _batch(device, b)
    ours, theirs = (_steps(model, *batch, training, amp) for model in (fused, plain))
    check = functools.partial(_same, ours, theirs, training, amp)
    return Contest(ours, {"torchvision": theirs}, check, graphs=(), rotate=False)


def _accelerated_core(
    device: torch.device, *, b: int, name: str = SSD300, training: bool, trained: bool = True
) -> Contest:
    """What stands between the head and the result, on the head's own predictions."""
    plain: Any = _prepared(_torchvision(name), device, training, trained, False)
    fused: Any = ssd_cuda.accelerate(copy.deepcopy(plain))
    images, targets = plain.transform(*_batch(device, b))
    with torch.no_grad():
        features = list(plain.backbone(images.tensors).values())
        outputs = {key: x.detach() for key, x in plain.head(features).items()}
    leaves = [outputs[key].requires_grad_(training) for key in ("bbox_regression", "cls_logits")]
    boxes, labels = ([target[key] for target in targets] for key in ("boxes", "labels"))
    size = images.image_sizes[0]

    def theirs() -> Any:
        priors = plain.anchor_generator(images, features)[0]
        if not training:
            return torchvision_ssd.postprocess(plain, *leaves, priors, size)
        losses = torchvision_ssd.compute_loss(plain, *leaves, boxes, labels, priors)
        torch.autograd.grad(sum(losses), leaves)
        return losses

    def ours() -> Any:
        priors = compat._pixel_priors(fused, images, features)
        if not training:
            sizes = compat._clip_sizes(images.image_sizes, priors)
            return ops.detect(*leaves, priors, compat.detect_config(fused), clip_sizes=sizes).to_list()
        losses = compat._losses(fused, outputs, targets, priors)
        torch.autograd.grad(losses["bbox_regression"] + losses["classification"], leaves)
        return losses["bbox_regression"], losses["classification"]

    check = functools.partial(_same, ours, theirs, training)
    # One input: a core finds in the L2 what its step has just written.
    return Contest(ours, {"torchvision": theirs}, check, graphs=(), rotate=False)


def _own_steps(model: Any, images: Tensor, gt: Any, training: bool, amp: bool) -> Run:
    def losses() -> Any:
        with _amp(images.device, amp):
            return model.loss(images, gt)

    def detect() -> Any:
        with _amp(images.device, amp):
            return model.detect(images)

    return functools.partial(_train, model, losses) if training else detect


def _own(device: torch.device, *, b: int, training: bool, amp: bool = False, last: bool = False) -> Contest:
    """Our SSD300 beside torchvision's: nothing in its step waits, so on a card a CUDA graph holds it."""
    model = _prepared(models.ssd300_vgg16(num_classes=CLASSES), device, training, True, last)
    plain = _prepared(_torchvision(SSD300), device, training, True, last)
    images, targets = _batch(device, b)
    boxes, labels = ([target[key] for target in targets] for key in ("boxes", "labels"))
    gt = ops.GroundTruth.from_list([box / 300 for box in boxes], labels)
    ours = _own_steps(model, torch.stack(images), gt, training, amp)
    theirs = _steps(plain, images, targets, training, amp)

    def check() -> None:
        first, second = ours(), ours()
        if training:
            assert all(x.isfinite() for x in first)
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)

    return Contest(ours, {"torchvision": theirs}, check, rotate=False)


def _small(device: torch.device, *, b: int, training: bool, core: bool = False) -> Contest:
    model: Any = models.ssd_small(num_classes=CLASSES, image_size=(240, 320))
    model = _prepared(model, device, training, True, False)
    images, targets = _batch(device, b, (240, 320))
    batch, unit = torch.stack(images), torch.tensor([320, 240, 320, 240], device=device)
    gt = ops.GroundTruth.from_list([t["boxes"] / unit for t in targets], [t["labels"] for t in targets])
    with torch.no_grad():
        leaves = [x.requires_grad_(training) for x in model(batch)]

    def raw() -> Any:
        return leaves if core else model(batch)

    def loss(op: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        losses = op(*raw(), *inputs, **options)
        if core:
            torch.autograd.grad(losses[0] + losses[1], leaves)
        return losses

    if training:
        fused = functools.partial(loss, ops.multibox_loss, gt, model.priors, model.loss_config)
        ragged = (gt.boxes, gt.labels, gt.offsets, model.priors)
        plain = functools.partial(
            loss, reference.multibox.multibox_loss, *ragged, **asdict(model.loss_config)
        )
        runs = [run if core else functools.partial(_train, model, run) for run in (fused, plain)]
    else:
        options = asdict(model.detect_config)

        @torch.no_grad()
        def ours() -> Any:
            return ops.detect(*raw(), model.priors, model.detect_config)

        @torch.no_grad()
        def theirs() -> Any:
            return reference.detect.detect(*raw(), model.priors, **options)

        runs = [ours, theirs]

    def check() -> None:
        mine, other = (list(run()) for run in runs)
        if not training:
            mine, other = mine[4:5], other[4:]  # how many were found in each image
        torch.testing.assert_close(mine[:2], other[:2], rtol=1e-4, atol=1e-4)

    return Contest(runs[0], {"reference": runs[1]}, check, rotate=False)


def cases() -> list[Case]:
    """A step and its core, training and detection; images of 300 x 300, of the small SSD 240 x 320."""
    found: list[Case] = []

    def add(title: str, make: Callable[..., Contest], device: str, against: str, **options: Any) -> None:
        make = functools.partial(make, **options)
        params = {"B": options["b"]}
        found.append(Case("end_to_end", title, params, make, "", (against,), (device,), threads="last"))

    def pair(name: str, b: int, device: str, **options: Any) -> None:
        for training in (True, False):
            title = f"{name} B={b} {'training step' if training else 'detection'}"
            for end, core in (("", _accelerated), (CORE, _accelerated_core)):
                add(title + end, core, device, "torchvision", name=name, b=b, training=training, **options)

    def small(b: int, device: str) -> None:
        for training in (True, False):
            title = f"ssd_small B={b} {'training step' if training else 'detection'}"
            for end in ("", CORE):
                add(title + end, _small, device, "reference", b=b, training=training, core=bool(end))

    pair(SSD300, 2, "cpu")
    title, options = f"{SSD300} B=2 detection, untrained", dict(b=2, training=False, trained=False)
    for end, core in (("", _accelerated), (CORE, _accelerated_core)):
        add(title + end, core, "cpu", "torchvision", **options)
    pair(SSDLITE, 4, "cpu")
    small(8, "cpu")
    for b in (1, 8, 32, 128):
        pair(SSD300, b, "cuda")
    small(32, "cuda")
    for training in (True, False):
        what = "training step" if training else "detection"
        for extra, flags in (("AMP", dict(amp=True)), ("AMP channels_last", dict(amp=True, last=True))):
            title = f"{SSD300} B=32 {what}, {extra}"
            add(title, _accelerated, "cuda", "torchvision", b=32, training=training, **flags)
        for extra, flags in (("", {}), (", AMP channels_last", dict(amp=True, last=True))):
            for b in (1, 32):
                title = f"our {SSD300} B={b} {what}, CUDA graph{extra}"
                add(title, _own, "cuda", "torchvision", b=b, training=training, **flags)
    return found


def host_work(batches: tuple[int, ...] = (2, 8)) -> list[dict[str, Any]]:
    """Operators and waits of one SSDlite step, before and after accelerate: counts, not times."""
    rows = []
    for training in (True, False):
        for b in batches:
            plain = _torchvision(SSDLITE).train(training)
            row: dict[str, Any] = {"step": "training" if training else "detection", "B": b, "C": CLASSES}
            batch = _batch(torch.device("cpu"), b)
            for label in ("torchvision", "accelerated"):
                model = plain if label == "torchvision" else ssd_cuda.accelerate(plain)
                found = waits.count(_steps(model, *batch, training))
                row[label] = {"operators": found["operators"], "waits": found["waits"]}
            ssd_cuda.restore(plain)
            rows.append(row)
    return rows
