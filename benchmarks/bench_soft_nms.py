"""Soft-NMS on plain boxes against the plain PyTorch of the reference and a loop over the classes.

python -m benchmarks soft_nms
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ssd_cuda import ops, reference

from .bench_nms import scene
from .harness import Case, Contest

RULE = {"sigma": 0.5, "score_threshold": 0.01}


def _composed(boxes: Tensor, scores: Tensor, idxs: Tensor) -> tuple[Tensor, Tensor]:
    return reference.soft_nms.batched_soft_nms(boxes, scores, idxs, **RULE)


def _contest(device: torch.device, *, n: int, kind: str, batched: bool) -> Contest:
    boxes, scores, idxs = scene(n, kind, device)
    if not batched:
        idxs = torch.zeros_like(idxs)

    def ours() -> tuple[Tensor, ...]:
        return ops.soft_nms_padded(boxes, scores, idxs=idxs if batched else None, **RULE)

    def theirs() -> tuple[Tensor, Tensor]:
        return _composed(boxes, scores, idxs)

    def check() -> None:
        keep, kept_scores, count = ours()
        rows = int(count)
        index, values = theirs() if n <= 1000 else (keep[:rows], kept_scores[:rows])
        assert torch.equal(keep[:rows], index)
        torch.testing.assert_close(kept_scores[:rows], values)
        assert bool((kept_scores[:rows].diff() <= 0).all())

    baselines = {"reference": theirs} if n <= 1000 else {}
    return Contest(ours=ours, baselines=baselines, check=check, min_bytes=36 * n)


def cases() -> list[Case]:
    """Few, many and very many boxes, in one list and in classes."""
    found = []
    for batched in (False, True):
        for kind in ("sparse", "dense"):
            for n in (1000, 5000):
                name = f"{'batched_soft_nms' if batched else 'soft_nms'} {kind} N={n}"
                make = functools.partial(_contest, n=n, kind=kind, batched=batched)
                found.append(Case("soft_nms", name, {"N": n}, make, "", ("reference",)))
    return found
