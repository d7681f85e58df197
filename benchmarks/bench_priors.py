"""priors: generation of SSD300's in several dialects, beside torchvision's generator and plain loops."""

from __future__ import annotations

import functools

import torch

from ssd_cuda import PriorSpec, nn, reference
from ssd_cuda.ops import priors as family

from . import scenes
from .baselines import seed
from .harness import Case, Contest


def _generate(spec: PriorSpec, device: torch.device) -> torch.Tensor:
    return family._generate(spec, device, torch.float32)  # without the cache that training reads


def _torchvision(device: torch.device, *, cells: int = 0) -> Contest:
    """SSD300's six maps, or one map of ``cells`` x ``cells`` with four boxes a cell."""
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    spec = PriorSpec.preset("torchvision")
    sides, options = scenes.SSD300_MAPS, scenes.SSD300
    if cells:
        sides, options = (cells,), {"aspect_ratios": [[2]], "scales": options["scales"][:2]}
        spec = spec.replace(
            feature_maps=(cells,),
            steps=None,
            ratios=spec.ratios[:1],
            sizes=spec.sizes[:1],
            larger_sizes=spec.larger_sizes[:1],
        )
    generator = DefaultBoxGenerator(**options)
    images = ImageList(torch.zeros(1, 3, 300, 300, device=device), [(300, 300)])
    maps = [torch.zeros(1, 1, f, f, device=device) for f in sides]

    def check() -> None:
        assert torch.equal(_generate(spec, device), generator(images, maps)[0])

    return Contest(
        ours=lambda: _generate(spec, device),
        baselines={"torchvision": lambda: generator(images, maps)},
        check=check,
        min_bytes=16 * spec.num_priors,
    )


def _preset(device: torch.device, *, name: str) -> Contest:
    spec = PriorSpec.preset(name)

    def ours() -> torch.Tensor:
        return _generate(spec, device)

    def check() -> None:
        torch.testing.assert_close(ours().cpu(), reference.priors.generate_priors(spec).float())

    baselines = {"reference": lambda: reference.priors.generate_priors(spec).to(device)}
    return Contest(ours, baselines, check, min_bytes=16 * spec.num_priors)


def _seed(device: torch.device) -> Contest:
    spec, plain = nn.DefaultBoxGenerator().spec(), seed.DefaultBoxGenerator()

    def check() -> None:
        torch.testing.assert_close(_generate(spec, device), plain.generate(device))

    return Contest(
        ours=lambda: _generate(spec, device),
        baselines={"seed": lambda: plain.generate(device)},
        check=check,
        min_bytes=16 * spec.num_priors,
    )


def cases() -> list[Case]:
    """Generation itself; training reads a cached tensor. One map of growing size gives the scaling line."""
    ssd300 = {"P": 8732}
    found = [
        Case("priors", "torchvision ssd300", ssd300, _torchvision, against=("torchvision",)),
        Case("priors", "seed", ssd300, _seed, against=("seed",)),
    ]
    for name in ("paper", "nvidia"):
        make = functools.partial(_preset, name=name)
        found.append(Case("priors", name, ssd300, make, against=("reference",)))
    for cells in (5, 16, 50, 160, 500):
        count = 4 * cells * cells
        make = functools.partial(_torchvision, cells=cells)
        found.append(Case("priors", f"one map, P={count}", {"P": count}, make, "P", ("torchvision",)))
    return found
