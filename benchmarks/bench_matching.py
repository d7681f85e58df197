"""matching: ragged ground truth against 8732 priors, beside torchvision's box_iou + SSDMatcher."""

from __future__ import annotations

import functools

import torch

from ssd_cuda import ops, reference

from . import scenes
from .baselines import torchvision_ssd
from .harness import Case, Contest

BOTH = ("torchvision", "reference")


def _contest(
    device: torch.device,
    *,
    b: int,
    g: int,
    p: int = scenes.SSD300_PRIORS,
    against: tuple[str, ...] = BOTH,
) -> Contest:
    priors = scenes.priors(device, p)
    boxes, labels = scenes.targets(b, g, 21, device)
    gt = scenes.ground_truth(boxes, labels)
    model = torchvision_ssd.bare_ssd()

    def ours() -> torch.Tensor:
        return ops.match(gt, priors, 0.5, prior_format="xyxy")

    def plain() -> torch.Tensor:
        return reference.matching.match(gt.boxes, gt.offsets, priors, prior_format="xyxy")

    def check() -> None:
        expected = torch.stack(torchvision_ssd.match(model, boxes, priors))
        assert torch.equal(ours().long(), expected)

    rivals = {"torchvision": lambda: torchvision_ssd.match(model, boxes, priors), "reference": plain}
    return Contest(
        ours=ours,
        baselines={name: rivals[name] for name in against},
        check=check,
        min_bytes=4 * b * len(priors) + 16 * len(priors) + 24 * b * g,
    )


def cases() -> list[Case]:
    """B and the ground truths per image (7 is COCO's mean), more on a card; B, P and G over three decades."""
    found = []

    def add(name: str, sweep: str = "", devices: tuple[str, ...] = ("cpu", "cuda"), **sizes) -> None:
        params = {"P": scenes.SSD300_PRIORS, **{key.upper(): value for key, value in sizes.items()}}
        against = BOTH[:1] if sweep else BOTH
        make = functools.partial(_contest, **sizes, against=against)
        found.append(Case("matching", name, params, make, sweep, against, devices))

    for b, g in ((1, 7), (8, 7), (32, 7), (32, 100)):
        add(f"B={b}, {g} GT an image", b=b, g=g)
    for b, g in ((128, 7), (32, 0), (32, 50)):
        add(f"B={b}, {g} GT an image", devices=("cuda",), b=b, g=g)
    for b in (1, 4, 16, 64, 256, 1024):
        add(f"P=1000 G=7 B={b}", "B", b=b, g=7, p=1000)
    for p in (128, 512, 2048, 8192, 32_768, 131_072):
        add(f"B=4 G=7 P={p}", "P", b=4, g=7, p=p)
    for g in (1, 4, 16, 64, 250, 1000):
        add(f"B=1 P=8732 G={g}", "G", b=1, g=g)
    return found
