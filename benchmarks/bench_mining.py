"""mining: per row its own k hardest, beside the double sort of the codebases and torch.topk with one k."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ssd_cuda import ops

from .harness import Case, Contest


def _two_sorts(keys: Tensor, positive: Tensor) -> Tensor:
    """Rank by sorting twice, as the SSD codebases do."""
    filled = keys.masked_fill(positive, -torch.inf)
    rank = filled.sort(dim=1, descending=True, stable=True)[1].sort(dim=1)[1]
    k = (3 * positive.sum(1)).clamp(max=keys.shape[1])
    return (rank < k[:, None]) & ~positive


def _topk(keys: Tensor, k: int) -> Tensor:
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(1, keys.topk(k, 1)[1], True)


def _contest(device: torch.device, *, b: int, p: int, trained: bool) -> Contest:
    keys = torch.rand(b, p, device=device)
    keys = keys**12 if trained else 3.04 + 1e-3 * keys  # a few hard ones; or all nearly the same
    positive = torch.rand(b, p, device=device) < 0.008
    k = int(3 * positive.sum(1).float().mean())

    def ours() -> Tensor:
        return ops.select_hard_negatives(keys, positive)

    def check() -> None:
        assert torch.equal(ours(), _two_sorts(keys, positive))

    return Contest(
        ours=ours,
        baselines={"seed": lambda: _two_sorts(keys, positive), "topk": lambda: _topk(keys, k)},
        check=check,
        min_bytes=6 * b * p,
    )


def cases() -> list[Case]:
    """Trained and untrained keys at B = 32; sweeps over P and B."""
    found = []
    for trained in (True, False):
        name = "B=32 P=8732, " + ("trained keys" if trained else "untrained keys")
        make = functools.partial(_contest, b=32, p=8732, trained=trained)
        found.append(Case("mining", name, {"B": 32, "P": 8732}, make))
    for p in (500, 2_000, 8_732, 24_564, 100_000):
        make = functools.partial(_contest, b=8, p=p, trained=True)
        found.append(Case("mining", f"B=8 P={p} (sweep)", {"B": 8, "P": p}, make, sweep="P"))
    for b in (1, 4, 16, 64):
        make = functools.partial(_contest, b=b, p=8732, trained=True)
        found.append(Case("mining", f"B={b} P=8732 (sweep)", {"B": b, "P": 8732}, make, sweep="B"))
    return found
