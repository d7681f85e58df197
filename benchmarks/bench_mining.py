"""mining: per row its own k hardest, beside the double sort of the codebases and torch.topk with one k."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ssd_cuda import ops

from .baselines import selection
from .harness import Case, Contest

RATIO = 3


def _contest(device: torch.device, *, b: int, p: int, trained: bool = True, k: int = 0) -> Contest:
    """k: negatives to select in every row; 0: as 0.8% of the priors match, in each row another number."""
    keys = torch.rand(b, p, device=device)
    keys = keys**12 if trained else 3.04 + 1e-3 * keys  # a few hard ones; or all nearly the same
    if k:
        positive = torch.rand(b, p, device=device).argsort(1) < k // RATIO
    else:
        positive = torch.rand(b, p, device=device) < 0.008
    mean_k = max(1, int(RATIO * positive.sum(1).float().mean()))

    def ours() -> Tensor:
        return ops.select_hard_negatives(keys, positive)

    def check() -> None:
        assert torch.equal(ours(), selection.two_sorts(keys, positive))

    return Contest(
        ours=ours,
        baselines={
            "sort": lambda: selection.two_sorts(keys, positive),
            "topk": lambda: selection.top_k(keys, positive, mean_k),
        },
        check=check,
        min_bytes=6 * b * p,
        graphs=("ours", "sort", "topk"),
    )


def _whole(device: torch.device, *, b: int, p: int) -> Contest:
    """The batch ranked as one row: the sorts of a view of it."""
    keys = torch.rand(b, p, device=device) ** 12
    positive = torch.rand(b, p, device=device) < 0.008

    def ours() -> Tensor:
        return ops.select_hard_negatives(keys, positive, scope="batch")

    def sorts() -> Tensor:
        return selection.two_sorts(keys.view(1, -1), positive.view(1, -1)).view_as(keys)

    def check() -> None:
        assert torch.equal(ours(), sorts())

    return Contest(ours, {"sort": sorts}, check, 6 * b * p, graphs=("ours", "sort"))


def cases() -> list[Case]:
    """Trained and untrained keys at B = 32, on a card at every B; B, P and k over three decades."""
    found = []

    def add(name: str, sweep: str = "", devices: tuple[str, ...] = ("cpu", "cuda"), **sizes) -> None:
        params = {"B": sizes["b"], "P": sizes["p"], **({"k": sizes["k"]} if "k" in sizes else {})}
        make = functools.partial(_contest, **sizes)
        found.append(Case("mining", name, params, make, sweep, ("sort", "topk"), devices))

    for b in (1, 8, 32, 128):
        devices = ("cpu", "cuda") if b == 32 else ("cuda",)
        for kind in ("trained", "untrained"):
            add(f"B={b} P=8732, {kind} keys", devices=devices, b=b, p=8732, trained=kind == "trained")
    whole = functools.partial(_whole, b=32, p=8732)
    params = {"B": 32, "P": 8732}
    found.append(Case("mining", "B=32 P=8732, the whole batch", params, whole, "", ("sort",)))
    for b in (1, 4, 16, 64, 256, 1024):
        add(f"P=1000 B={b}", "B", b=b, p=1000)
    for p in (128, 512, 2048, 8192, 32_768, 131_072):
        add(f"B=8 P={p}", "P", b=8, p=p)
    for k in (3, 30, 300, 3000, 12_000):
        add(f"B=8 P=32768 k={k}", "k", b=8, p=32_768, k=k)
    return found
