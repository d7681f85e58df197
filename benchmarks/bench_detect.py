"""detect: the fused post-process against torchvision's, from raw head outputs to the boxes of each image."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ssd_cuda import DetectConfig, ops

from . import scenes  # noqa: F401  puts the oracles on the path
from .harness import Case, Contest

P = 8732
CONFIG = DetectConfig.preset("torchvision")
# Height of the background logit over unit normal ones, for each C: about 1.4k and 1.7k candidates an image.
TRAINED = {21: 7.9, 81: 8.35, 91: 8.4}


def head(b: int, c: int, background: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """loc [B, P, 4], conf [B, P, C], priors [P, 4] in pixels of a 300 x 300 image."""
    generator = torch.Generator().manual_seed(0)
    loc = 0.5 * torch.randn(b, P, 4, generator=generator)
    conf = torch.randn(b, P, c, generator=generator)
    conf[..., 0] += background
    center = 300 * torch.rand(P, 2, generator=generator)
    half = 10 + 60 * torch.rand(P, 2, generator=generator)
    priors = torch.cat([center - half, center + half], -1)
    return loc.to(device), conf.to(device), priors.to(device)


def _detect(device: torch.device, *, b: int, c: int, background: float) -> Contest:
    from oracles import torchvision_ssd

    inputs = head(b, c, background, device)
    model = torchvision_ssd.bare_ssd()  # with SSD300's options, which the preset repeats

    def torchvisions() -> list[dict[str, Tensor]]:
        return torchvision_ssd.postprocess(model, *inputs)

    def check() -> None:
        for mine, theirs in zip(ops.detect(*inputs, CONFIG).to_list(), torchvisions(), strict=True):
            assert torch.equal(mine["labels"], theirs["labels"])
            torch.testing.assert_close(mine["boxes"], theirs["boxes"], rtol=1e-5, atol=1e-3)

    def ours():
        found = ops.detect(*inputs, CONFIG)
        return found.to_list() if device.type == "cpu" else found  # on a card: nothing that waits for it

    return Contest(
        ours=ours,
        baselines={"torchvision": torchvisions},
        check=check,
        min_bytes=4 * b * P * c + 40 * b * CONFIG.detections_per_image,
    )


def cases() -> list[Case]:
    """Logits as of a trained head and as of a fresh one (every class near the threshold everywhere)."""
    found = []
    for c in (21, 91):
        for kind, background in (("trained", TRAINED[c]), ("fresh", 0.0)):
            for b in (1, 8, 32):
                make = functools.partial(_detect, b=b, c=c, background=background)
                name = f"{kind} B={b} C={c}"
                found.append(Case("detect", name, {"B": b, "P": P, "C": c}, make, "B" if c == 21 else ""))
    return found
