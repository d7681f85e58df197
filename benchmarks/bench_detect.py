"""detect: the fused post-process against torchvision's, from raw head outputs to the boxes of each image."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ssd_cuda import DetectConfig, ops

from . import scenes
from .baselines import torchvision_ssd
from .harness import Case, Contest

CONFIG = DetectConfig.preset("torchvision")
# Height of the background logit over unit normal ones, for each C: about 1.4k and 1.7k candidates an image.
TRAINED = {21: 7.9, 81: 8.35, 91: 8.4}


def _contest(device: torch.device, loc: Tensor, conf: Tensor, priors: Tensor) -> Contest:
    model = torchvision_ssd.bare_ssd()  # with SSD300's options, which the preset repeats
    inputs = (loc, conf, priors)

    def torchvisions() -> list[dict[str, Tensor]]:
        return torchvision_ssd.postprocess(model, *inputs)

    def check() -> None:
        if conf.dtype != torch.float32:  # theirs computes in half precision, ours in float32
            wide = ops.detect(loc.float(), conf.float(), priors, CONFIG)
            torch.testing.assert_close(ops.detect(*inputs, CONFIG)[:5], wide[:5], rtol=0, atol=0)
            return
        for mine, theirs in zip(ops.detect(*inputs, CONFIG).to_list(), torchvisions(), strict=True):
            torch.testing.assert_close(mine["scores"], theirs["scores"], rtol=1e-5, atol=0)
            # Scores agree to a few bits, so two rows whose scores are that close may change places.
            near = ((mine["boxes"] - theirs["boxes"]).abs() <= 1e-2).all(1)
            assert (near & (mine["labels"] == theirs["labels"])).float().mean() > 0.98 or not len(near)

    def ours():
        found = ops.detect(*inputs, CONFIG)
        return found.to_list() if device.type == "cpu" else found  # on a card: nothing that waits for it

    rows = len(conf) * CONFIG.detections_per_image
    affordable = device.type == "cuda" or len(conf) <= 256  # a CPU takes 2 s for one call with 1024 images
    return Contest(
        ours=ours,
        baselines={"torchvision": torchvisions} if affordable else {},
        check=check,
        min_bytes=conf.numel() * conf.element_size() + 40 * rows,
    )


def _normal(
    device: torch.device, *, b: int, c: int, background: float, dtype: torch.dtype = torch.float32
) -> Contest:
    loc, conf = scenes.head(b, c, device, background=background)
    return _contest(device, loc.to(dtype), conf.to(dtype), scenes.priors(device))


def _counted(
    device: torch.device, *, b: int, c: int, candidates: int, p: int = scenes.SSD300_PRIORS
) -> Contest:
    loc, conf = scenes.head_with_candidates(b, c, device, count=p, candidates=candidates)
    return _contest(device, loc, conf, scenes.priors(device, p))


def cases() -> list[Case]:
    """Logits as of a trained head and as of a fresh one (every class near the threshold everywhere); B, P, C
    and the number of candidates an image over three decades."""
    found = []

    def add(name: str, make, sweep: str = "", devices: tuple[str, ...] = ("cpu", "cuda"), **sizes: Any):
        names = {"b": "B", "c": "C", "p": "P", "candidates": "candidates"}
        params = {"P": scenes.SSD300_PRIORS}
        params |= {title: sizes[key] for key, title in names.items() if key in sizes}
        make = functools.partial(make, **sizes)
        found.append(Case("detect", name, params, make, sweep, ("torchvision",), devices))

    for c in (21, 91):
        for kind, background in (("trained", TRAINED[c]), ("fresh", 0.0)):
            for b in (1, 8, 32):
                add(f"{kind} B={b} C={c}", _normal, b=b, c=c, background=background)
    for dtype, suffix in ((torch.float32, ""), (torch.float16, ", fp16")):
        for kind, background in (("trained", TRAINED[81]), ("fresh", 0.0)):
            for b in (1, 8, 32, 128):
                name = f"{kind} B={b} C=81{suffix}"
                add(name, _normal, devices=("cuda",), b=b, c=81, background=background, dtype=dtype)
    for b in (1, 4, 16, 64, 256, 1024):
        add(f"P=1000 C=21 candidates=100 B={b}", _counted, "B", b=b, c=21, p=1000, candidates=100)
    for p in (128, 512, 2048, 8192, 32_768, 131_072):
        add(f"B=4 C=21 candidates=100 P={p}", _counted, "P", b=4, c=21, p=p, candidates=100)
    for c in (2, 6, 21, 91, 400, 2000):
        add(f"B=1 P=8732 candidates=1000 C={c}", _counted, "C", b=1, c=c, candidates=1000)
    for n in (100, 400, 1600, 6400, 25_000, 100_000):
        add(f"B=1 P=8732 C=21 candidates={n}", _counted, "candidates", b=1, c=21, candidates=n)
    return found
