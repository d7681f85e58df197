"""matching: ragged ground truth against 8732 priors, beside torchvision's box_iou + SSDMatcher."""

from __future__ import annotations

import functools

import torch

from ssd_cuda import ops, reference

from . import scenes
from .harness import Case, Contest


def _contest(device: torch.device, *, b: int, g: int) -> Contest:
    from oracles import torchvision_ssd

    priors = scenes.ssd300_priors(device)
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

    return Contest(
        ours=ours,
        baselines={
            "torchvision": lambda: torchvision_ssd.match(model, boxes, priors),
            "reference": plain,
        },
        check=check,
        min_bytes=4 * b * len(priors) + 16 * len(priors) + 24 * b * g,
    )


def cases() -> list[Case]:
    """B and the ground truths per image (7 is COCO's mean); sweeps over both."""
    found = []
    for b, g in ((1, 7), (8, 7), (32, 7), (32, 100)):
        params = {"B": b, "G": g, "P": scenes.SSD300_PRIORS}
        found.append(
            Case("matching", f"B={b}, {g} GT an image", params, functools.partial(_contest, b=b, g=g))
        )
    for g in (1, 3, 10, 30, 100, 300, 1000):
        params = {"B": 4, "G": g, "P": scenes.SSD300_PRIORS}
        make = functools.partial(_contest, b=4, g=g)
        found.append(Case("matching", f"B=4 G={g} (sweep)", params, make, sweep="G"))
    for b in (1, 4, 16, 64, 128):
        params = {"B": b, "G": 7, "P": scenes.SSD300_PRIORS}
        make = functools.partial(_contest, b=b, g=7)
        found.append(Case("matching", f"B={b} G=7 (sweep)", params, make, sweep="B"))
    return found
