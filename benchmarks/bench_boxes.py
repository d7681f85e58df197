"""boxes: pairwise IoU, encode, decode against torchvision and the reference."""

from __future__ import annotations

import functools

import torch

from ssd_cuda import ops, reference

from .harness import Case, Contest


def _boxes(n: int, device: torch.device) -> torch.Tensor:
    a, b = torch.rand(2, n, 2, device=device)
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b) + 1e-3], -1) * 300


def _iou(device: torch.device, *, n: int, m: int) -> Contest:
    from torchvision.ops import box_iou

    first, second = _boxes(n, device), _boxes(m, device)

    def check() -> None:
        torch.testing.assert_close(ops.box_iou(first, second), box_iou(first, second), rtol=0, atol=0)

    return Contest(
        ours=lambda: ops.box_iou(first, second),
        baselines={"torchvision": lambda: box_iou(first, second)},
        check=check,
        min_bytes=16 * (n + m) + 4 * n * m,
    )


def _coder(device: torch.device, *, b: int, p: int, way: str) -> Contest:
    priors = torch.rand(p, 4, device=device) + 0.1
    rows = torch.randn(b, p, 4, device=device) if way == "decode" else _boxes(b * p, device).view(b, p, 4)
    ours, plain = getattr(ops, way), getattr(reference.boxes, way)

    def check() -> None:
        torch.testing.assert_close(ours(rows, priors), plain(rows, priors), rtol=1e-4, atol=1e-3)

    return Contest(
        ours=lambda: ours(rows, priors),
        baselines={"reference": lambda: plain(rows, priors)},
        check=check,
        min_bytes=32 * b * p + 16 * p,
    )


def cases() -> list[Case]:
    """IoU of an image's ground truths with the priors; encode and decode of a batch."""
    found = []
    for g in (7, 100):
        make = functools.partial(_iou, n=g, m=8732)
        found.append(Case("boxes", f"iou {g} x 8732", {"G": g, "P": 8732}, make))
    for way in ("encode", "decode"):
        for b in (1, 8, 32, 128):
            make = functools.partial(_coder, b=b, p=8732, way=way)
            sweep = "B" if way == "decode" else ""
            found.append(Case("boxes", f"{way} B={b}", {"B": b, "P": 8732}, make, sweep=sweep))
    return found
