"""multibox: matching + loss, forward + backward, beside torchvision, torch.compile and the seed's class."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ssd_cuda import MultiBoxConfig, ops

from . import scenes
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


def _loss(
    device: torch.device,
    *,
    b: int,
    c: int,
    trained: bool = True,
    g: int = 7,
    compiled: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Contest:
    from oracles import torchvision_ssd

    priors = scenes.ssd300_priors(device)
    boxes, labels = scenes.targets(b, g, c, device)
    gt = scenes.ground_truth(boxes, labels)
    loc, conf = (x.to(dtype).requires_grad_() for x in scenes.head(b, c, device, trained=trained))
    model = torchvision_ssd.bare_ssd()

    def ours() -> tuple[Tensor, ...]:
        return _step(lambda x, y: ops.multibox_loss(x, y, gt, priors, TORCHVISION), loc, conf)

    def theirs(compute: Callable = torchvision_ssd.compute_loss) -> tuple[Tensor, ...]:
        return _step(lambda x, y: compute(model, x, y, boxes, labels, priors), loc, conf)

    baselines = {"torchvision": theirs}
    if compiled:
        baselines["torch.compile"] = functools.partial(theirs, torch.compile(torchvision_ssd.compute_loss))
    check = None if dtype in HALF else lambda: _assert_same(ours(), theirs())
    return Contest(ours, baselines, check, _bytes(conf))


def _seed(device: torch.device, *, b: int, c: int) -> Contest:
    from oracles.seed import SSDLoss

    priors = scenes.ssd300_priors(device)
    boxes, labels = scenes.targets(b, 7, c, device)
    gt = scenes.ground_truth(boxes, labels)
    codes = ops.match(gt, priors, config=TORCHVISION.match)
    rows = gt.offsets[:-1, None] + codes.clamp(min=0)
    conf_target = torch.where(codes >= 0, gt.labels[rows], 0)
    loc_target = ops.encode(gt.boxes[rows], priors, prior_format="xyxy")
    loc, conf = (x.requires_grad_() for x in scenes.head(b, c, device, trained=True))
    plain = SSDLoss(c)

    def ours() -> tuple[Tensor, ...]:
        return _step(lambda x, y: ops.ssd_loss(x, y, loc_target, conf_target), loc, conf)

    def theirs() -> tuple[Tensor, ...]:
        return _step(lambda x, y: plain(x, y, loc_target, conf_target), loc, conf)

    return Contest(ours, {"seed": theirs}, lambda: _assert_same(ours(), theirs()), _bytes(conf))


def cases() -> list[Case]:
    """SSD300's 8732 priors, 7 boxes an image; trained-like logits unless the name says otherwise."""
    found = []

    def add(name: str, make: Callable[..., Contest], sweep: str = "", **sizes) -> None:
        params = {"B": sizes["b"], "C": sizes["c"], "P": scenes.SSD300_PRIORS, "G": sizes.get("g", 7)}
        found.append(Case("multibox", name, params, functools.partial(make, **sizes), sweep=sweep))

    for b in (8, 32):
        for c in (21, 91):
            add(f"loss B={b} C={c}", _loss, b=b, c=c, compiled=b == 8)
    add("loss B=32 C=21, untrained", _loss, b=32, c=21, trained=False)
    add("loss B=32 C=21, 50 GT an image", _loss, b=32, c=21, g=50)
    add("loss B=32 C=81, fp16", _loss, b=32, c=81, dtype=torch.float16)
    for c in (21, 91):
        add(f"seed B=32 C={c}", _seed, b=32, c=c)
    for c in (5, 11, 41, 161):
        add(f"loss B=4 C={c} (sweep)", _loss, sweep="C", b=4, c=c)
    return found


def main() -> None:
    """The table of this family alone, 1 and 2 threads: python -m benchmarks.bench_multibox."""
    from .harness import measure

    device = torch.device("cpu")
    print(f"{'case':34} threads   ours ms   against")
    for case in cases():
        for threads in (1, 2):
            result = measure(case, device, threads=threads)
            ratios = ", ".join(f"{name} {ratio:.1f}x" for name, ratio in result.speedups.items())
            print(f"{case.name:34} {threads:7} {1e3 * result.timings['ours'].median:9.2f}   {ratios}")


if __name__ == "__main__":
    main()
