"""priors: generation of SSD300's and SSD512's, beside torchvision's generator and the seed's Python loop."""

from __future__ import annotations

import functools

import torch

from ssd_cuda import PriorSpec, reference
from ssd_cuda.ops import priors as family

from . import scenes  # noqa: F401  puts the oracles on the path
from .harness import Case, Contest


def _torchvision(device: torch.device) -> Contest:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    scales, steps = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05], [8, 16, 32, 64, 100, 300]
    generator = DefaultBoxGenerator(ratios, scales=scales, steps=steps)
    images = ImageList(torch.zeros(1, 3, 300, 300, device=device), [(300, 300)])
    maps = [torch.zeros(1, 1, f, f, device=device) for f in (38, 19, 10, 5, 3, 1)]
    spec = PriorSpec.preset("torchvision")

    def ours() -> torch.Tensor:
        return family._generate(spec, device, torch.float32)  # without the cache

    def check() -> None:
        assert torch.equal(ours(), generator(images, maps)[0])

    return Contest(ours, {"torchvision": lambda: generator(images, maps)}, check, min_bytes=16 * 8732)


def _preset(device: torch.device, *, name: str) -> Contest:
    spec = PriorSpec.preset(name)

    def ours() -> torch.Tensor:
        return family._generate(spec, device, torch.float32)

    def check() -> None:
        torch.testing.assert_close(ours().cpu(), reference.priors.generate_priors(spec).float())

    baselines = {"reference": lambda: reference.priors.generate_priors(spec).to(device)}
    return Contest(ours, baselines, check, min_bytes=16 * spec.num_priors)


def cases() -> list[Case]:
    """Generation itself; training reads a cached tensor."""
    found = [Case("priors", "torchvision ssd300", {"P": 8732}, _torchvision)]
    for name in ("paper", "nvidia"):
        found.append(Case("priors", f"{name}", {"P": 8732}, functools.partial(_preset, name=name)))
    return found
