"""multibox: matching + loss, forward + backward, beside torchvision, compilers, the seed's and NVIDIA's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ssd_cuda import MultiBoxConfig, ops, reference
from ssd_cuda.reference.dialects import nvidia

from . import scenes
from .baselines import compiled, composed_loss, seed, torchvision_ssd
from .harness import Case, Contest

TORCHVISION = MultiBoxConfig.preset("torchvision")
HALF = (torch.float16, torch.bfloat16)


def _step(loss: Callable[..., tuple[Tensor, ...]], loc: Tensor, conf: Tensor) -> tuple[Tensor, ...]:
    """(localization, classification, d_loc, d_conf) of their sum."""
    localization, classification, *_ = loss(loc, conf)
    return (
        localization,
        classification,
        *torch.autograd.grad(localization + classification, (loc, conf)),
    )


def _bytes(conf: Tensor) -> int:
    """Logits read once, their gradient written once; loc's gradient, and a key and a code there and back."""
    b, p, c = conf.shape
    return b * p * ((2 * c + 4) * conf.element_size() + 16)


def _assert_same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    """Losses and d_loc to rounding; of d_conf its sums, for equal keys have no order in the others."""
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[3].sum((0, 1)), theirs[3].sum((0, 1)), rtol=1e-3, atol=1e-3)


def _torchvision(loc: Tensor, conf: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
    return torchvision_ssd.compute_loss(_bare_ssd(), loc, conf, *inputs)


_bare_ssd = functools.cache(torchvision_ssd.bare_ssd)


def _reference(loc: Tensor, conf: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return reference.multibox.multibox_loss(loc, conf, *inputs, **asdict(TORCHVISION))


def _loss(
    device: torch.device,
    *,
    b: int,
    c: int,
    g: int = 7,
    p: int = scenes.SSD300_PRIORS,
    logits: dict[str, float] = scenes.TRAINED,
    against: tuple[str, ...] = ("torchvision",),
    dtype: torch.dtype = torch.float32,
) -> Contest:
    priors = scenes.priors(device, p)
    boxes, labels = scenes.targets(b, g, c, device)
    gt = scenes.ground_truth(boxes, labels)
    loc, conf = (x.to(dtype).requires_grad_() for x in scenes.head(b, c, device, count=p, **logits))
    lists, ragged = (boxes, labels, priors), (gt.boxes, gt.labels, gt.offsets, priors)

    def ours() -> tuple[Tensor, ...]:
        return _step(lambda x, y: ops.multibox_loss(x, y, gt, priors, TORCHVISION), loc, conf)

    def run(loss: Callable[..., tuple[Tensor, ...]], *inputs: Any) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: _step(lambda x, y: loss(x, y, *inputs), loc, conf)

    def check() -> None:
        wide = [x.detach().float().requires_grad_() for x in (loc, conf)]
        theirs = _step(lambda x, y: _torchvision(x, y, *lists), *wide)
        if dtype in HALF:  # theirs rounds every step in half precision; of ours the result alone is rounded
            torch.testing.assert_close(ours()[:2], theirs[:2], rtol=1e-3, atol=1e-3)
        else:
            _assert_same(ours(), theirs)

    rivals = {
        "torchvision": run(_torchvision, *lists),
        "reference": run(_reference, *ragged),
        "compile": lambda: run(compiled(_reference), *ragged)(),
        "torchvision-compile": lambda: run(compiled(_torchvision), *lists)(),
    }
    return Contest(ours, {name: rivals[name] for name in against}, check, _bytes(conf))


def _options(
    device: torch.device, *, b: int, c: int, weighted: bool = False, whole: bool = False, **options: Any
) -> Contest:
    """The loss with options that torchvision's own lacks, beside the same of torch's functions."""
    mining = replace(TORCHVISION.mining, scope="batch" if whole else "image")
    config = replace(TORCHVISION, mining=mining, **options)
    priors = scenes.priors(device)
    boxes, labels = scenes.targets(b, 7, c, device)
    gt = scenes.ground_truth(boxes, labels)
    loc, conf = (x.requires_grad_() for x in scenes.head(b, c, device, **scenes.TRAINED))
    weight = torch.linspace(0.5, 2.0, c, device=device) if weighted else None

    def ours() -> tuple[Tensor, ...]:
        return _step(
            lambda x, y: ops.multibox_loss(x, y, gt, priors, config, class_weights=weight), loc, conf
        )

    def theirs() -> tuple[Tensor, ...]:
        given = dict(weight=weight, whole=whole, **options)
        composed = composed_loss.composed_loss
        return _step(lambda x, y: composed(x, y, boxes, labels, priors, **given), loc, conf)

    return Contest(ours, {"composed": theirs}, lambda: _assert_same(ours(), theirs()), _bytes(conf))


def _ready_targets(device: torch.device, *, b: int, c: int) -> Contest:
    """The seed's form of the loss: the targets of every prior are there already."""
    priors = scenes.priors(device)
    boxes, labels = scenes.targets(b, 7, c, device)
    gt = scenes.ground_truth(boxes, labels)
    codes = ops.match(gt, priors, config=TORCHVISION.match)
    rows = gt.offsets[:-1, None] + codes.clamp(min=0)
    conf_target = torch.where(codes >= 0, gt.labels[rows], 0)
    loc_target = ops.encode(gt.boxes[rows], priors, prior_format="xyxy")
    loc, conf = (x.requires_grad_() for x in scenes.head(b, c, device, **scenes.TRAINED))
    plain = seed.SSDLoss(c)

    def ours() -> tuple[Tensor, ...]:
        return _step(lambda x, y: ops.ssd_loss(x, y, loc_target, conf_target), loc, conf)

    def theirs() -> tuple[Tensor, ...]:
        return _step(lambda x, y: plain(x, y, loc_target, conf_target), loc, conf)

    return Contest(ours, {"seed": theirs}, lambda: _assert_same(ours(), theirs()), _bytes(conf))


def _nvidia(device: torch.device, *, b: int, c: int) -> Contest:
    """DeepLearningExamples' rule and layout, its two sorts on the other side."""
    config = MultiBoxConfig.preset("nvidia")
    priors = scenes.priors(device, pixels=False)
    boxes, labels = scenes.targets(b, 7, c, device)
    boxes = [box / 300 for box in boxes]
    gt = scenes.ground_truth(boxes, labels)
    loc, conf = (
        x.transpose(1, 2).contiguous().requires_grad_() for x in scenes.head(b, c, device, **scenes.TRAINED)
    )

    def ours() -> tuple[Tensor, ...]:
        return _step(lambda x, y: ops.multibox_loss(x, y, gt, priors, config), loc, conf)

    def theirs() -> tuple[Tensor, ...]:
        return _step(lambda x, y: nvidia.loss(x, y, boxes, labels, priors), loc, conf)

    def check() -> None:
        torch.testing.assert_close(ours()[:3], theirs()[:3], rtol=1e-4, atol=1e-5)

    return Contest(ours, {"nvidia": theirs}, check, _bytes(conf.transpose(1, 2)))


Add = Callable[..., None]


def _named(add: Add) -> None:
    """The sizes that people know; the compiled contestants at one thread, since each takes a minute."""
    for b in (8, 32):
        for c in (21, 91):
            add(f"loss B={b} C={c}", b=b, c=c)
    add("loss B=32 C=21, untrained", b=32, c=21, logits=scenes.UNTRAINED)
    add("loss B=32 C=21, 50 GT an image", b=32, c=21, g=50)
    add("loss B=32 C=81, fp16", b=32, c=81, dtype=torch.float16)
    for c in (21, 91):
        add(f"seed B=32 C={c}", _ready_targets, against=("seed",), b=32, c=c)
    add("nvidia B=32 C=81", _nvidia, against=("nvidia",), b=32, c=81)
    own = functools.partial(add, make=_options, against=("composed",), b=32, c=91)
    own("loss B=32 C=91, class weights", weighted=True)
    own("loss B=32 C=91, class weights, smoothing", weighted=True, label_smoothing=0.1)
    for kind in ("giou", "ciou"):
        own(f"loss B=32 C=91, {kind}", loc_loss=kind)
    own("loss B=32 C=91, mined over the batch", whole=True)
    for c in (21, 91):
        pair = ("reference", "compile")
        add(f"loss B=32 C={c}, compiled", against=pair, threads="first", b=32, c=c)
    pair = ("torchvision", "torchvision-compile")
    add("loss B=8 C=91, compiled", against=pair, threads="first", b=8, c=91)


def _on_a_card(add: Add) -> None:
    """What a CPU has no time for: C = 81 in both precisions at every B, the density of the ground truth."""
    for dtype, suffix in ((torch.float32, ""), (torch.float16, ", fp16")):
        for b in (1, 8, 32, 128):
            if (b, suffix) != (32, ", fp16"):  # everywhere already
                add(f"loss B={b} C=81{suffix}", devices=("cuda",), b=b, c=81, dtype=dtype)
    for g in (0, 50, 100):
        add(f"loss B=32 C=81, {g} GT an image", devices=("cuda",), b=32, c=81, g=g)
    add("loss B=32 C=81, untrained", devices=("cuda",), b=32, c=81, logits=scenes.UNTRAINED)


def _scaling(add: Add) -> None:
    for b in (1, 4, 16, 64, 256, 1024):
        add(f"P=1000 C=21 G=7 B={b}", sweep="B", b=b, c=21, p=1000)
    for p in (128, 512, 2048, 8192, 32_768, 131_072):
        add(f"B=4 C=21 G=7 P={p}", sweep="P", b=4, c=21, p=p)
    for c in (2, 6, 21, 91, 400, 2000):
        add(f"B=2 P=8732 G=7 C={c}", sweep="C", b=2, c=c)
    for g in (1, 4, 16, 64, 250, 1000):
        add(f"B=1 P=8732 C=21 G={g}", sweep="G", b=1, c=21, g=g)


def cases() -> list[Case]:
    """SSD300's 8732 priors, 7 boxes an image; trained-like logits unless the name says otherwise."""
    found = []

    def add(
        name: str,
        make: Callable[..., Contest] = _loss,
        against: tuple[str, ...] = ("torchvision",),
        sweep: str = "",
        devices: tuple[str, ...] = ("cpu", "cuda"),
        threads: str = "each",
        **sizes: Any,
    ) -> None:
        params = {"P": scenes.SSD300_PRIORS, "G": 7}
        params |= {key.upper(): sizes[key] for key in ("b", "c", "g", "p") if key in sizes}
        if make is _loss:
            sizes["against"] = against
        make = functools.partial(make, **sizes)
        found.append(Case("multibox", name, params, make, sweep, against, devices, threads))

    _named(add)
    _on_a_card(add)
    _scaling(add)
    return found
