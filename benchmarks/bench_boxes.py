"""boxes: pairwise IoU, encode, decode against torchvision and the reference."""

from __future__ import annotations

import functools

import torch

from ssd_cuda import ops, reference

from .harness import Case, Contest

POINTS = (1000, 4000, 16_000, 64_000, 250_000, 1_000_000)  # priors, or boxes, of the scaling lines


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
        graphs=("ours", "torchvision"),
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
        graphs=("ours", "reference"),
    )


def cases() -> list[Case]:
    """IoU of an image's ground truths with the priors; encode and decode of a batch; both over 3 decades."""
    found = []

    def iou(name: str, g: int, p: int, sweep: str = "") -> None:
        make = functools.partial(_iou, n=g, m=p)
        found.append(Case("boxes", name, {"G": g, "P": p}, make, sweep, ("torchvision",)))

    def code(name: str, way: str, b: int, p: int, sweep: str = "") -> None:
        make = functools.partial(_coder, b=b, p=p, way=way)
        found.append(Case("boxes", name, {"B": b, "P": p}, make, sweep, ("reference",)))

    for g in (7, 100):
        iou(f"iou {g} x 8732", g, 8732)
    for way in ("encode", "decode"):
        for b in (1, 8, 32, 128):
            code(f"{way} B={b}", way, b, 8732)
    for p in POINTS:
        iou(f"iou G=7 P={p}", 7, p, "P")
    for p in POINTS:
        code(f"decode B=1 P={p}", "decode", 1, p, "P")
    return found
