"""fusion: weighted boxes fusion of a batch, beside the package ensemble-boxes, image by image.

python -m benchmarks fusion
"""

from __future__ import annotations

import functools
import warnings

import numpy as np
import torch
from torch import Tensor

from ssd_cuda import ops

from .baselines import packages
from .harness import Case, Contest

MODELS = 5
WEIGHTS = (2.0, 1.0, 1.0, 1.0, 0.5)


def scene(images: int, each: int, labels: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """boxes [B, M, N, 4], scores, labels: every model sees the same things, each a little otherwise."""
    g = torch.Generator().manual_seed(0)
    things = each // 3 + 1
    low = 0.8 * torch.rand(images, things, 2, generator=g)
    truth = torch.cat([low, low + 0.02 + 0.15 * torch.rand(images, things, 2, generator=g)], -1)
    kind = torch.randint(0, labels, (images, things), generator=g)
    which = torch.randint(0, things, (images, MODELS, each), generator=g)
    rows = torch.arange(images)[:, None, None]
    boxes = truth[rows, which] + 0.01 * torch.randn(images, MODELS, each, 4, generator=g)
    scores = torch.rand(images, MODELS, each, generator=g)
    return tuple(t.to(device) for t in (boxes.clamp(0.001, 0.999), scores, kind[rows, which]))


def _contest(device: torch.device, *, images: int, each: int, labels: int) -> Contest:
    inputs = scene(images, each, labels, device)
    arrays = [t.double().cpu().numpy() for t in inputs]

    def ours() -> tuple[Tensor, ...]:
        return ops.weighted_boxes_fusion(*inputs, weights=WEIGHTS)

    wbf = packages.ensemble_boxes("ensemble_boxes_wbf").weighted_boxes_fusion

    def theirs() -> list[tuple[np.ndarray, ...]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [wbf(*(array[b] for array in arrays), weights=WEIGHTS) for b in range(images)]

    def check() -> None:
        wide = ops.weighted_boxes_fusion(inputs[0].double(), *inputs[1:], weights=WEIGHTS)
        for b, (boxes, scores, _) in enumerate(theirs()):
            count = int(wide.counts[b])
            assert count == len(scores)
            np.testing.assert_allclose(wide.boxes[b, :count].cpu().numpy(), boxes, atol=1e-5)
            np.testing.assert_allclose(wide.scores[b, :count].cpu().numpy(), scores, rtol=1e-5)

    moved = images * MODELS * each * (5 * 4 + 8 + 8)
    return Contest(ours, {"ensemble-boxes": theirs}, check, moved)


def cases() -> list[Case]:
    """Five models: few boxes, many, and those of one label, which is the most work."""
    found = []
    for images, each, labels in ((8, 100, 20), (100, 300, 80), (100, 300, 1)):
        name = f"{images} images, {MODELS} x {each} boxes, {labels} labels"
        params = {"B": images, "N": MODELS * each}
        make = functools.partial(_contest, images=images, each=each, labels=labels)
        found.append(Case("fusion", name, params, make, "", ("ensemble-boxes",)))
    return found
