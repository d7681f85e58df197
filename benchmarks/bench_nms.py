"""nms and batched_nms against torchvision: sparse, dense and crowded boxes, from 1 to 200,000.

python -m benchmarks nms                         the cases below
python -m benchmarks.bench_nms [--up-to N] every size, one line each: is ours ever the slower one?
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time

import torch
from torch import Tensor

from ssd_cuda import ops

from .harness import Case, Contest, Run

THRESHOLD = 0.5
CLASSES = 20
SWEEP = (100, 400, 1600, 6400, 20_000, 100_000)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)


def scene(n: int, kind: str, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [n, 4], scores [n] without ties, classes [n].

    sparse: small boxes, the area grows with n, nearly all are kept. dense: boxes of 10 to 100 pixels in a
    frame of 300. crowded: every box is one of 10 objects moved by a pixel; a handful is kept.
    """
    g = torch.Generator().manual_seed(seed + n)
    if kind == "sparse":
        side, size = max(300.0, 20 * n**0.5), 4 + 20 * torch.rand(n, 2, generator=g)
    else:
        side, size = 300.0, 10 + 90 * torch.rand(n, 2, generator=g)
    corner = torch.rand(n, 2, generator=g) * side
    boxes = torch.cat([corner, corner + size], 1)
    if kind == "crowded":
        objects = boxes[:10].repeat(n // 10 + 1, 1)[:n]
        boxes = objects + torch.rand(n, 4, generator=g)
    scores = torch.randperm(n, generator=g).float() / max(n, 1)
    idxs = torch.randint(0, CLASSES, (n,), generator=g)
    return boxes.to(device), scores.to(device), idxs.to(device)


def _contest(device: torch.device, *, n: int, kind: str, batched: bool) -> Contest:
    from torchvision.ops import batched_nms, nms

    boxes, scores, idxs = scene(n, kind, device)
    if batched:

        def ours() -> Tensor:
            return ops.batched_nms(boxes, scores, idxs, THRESHOLD)

        def theirs() -> Tensor:
            return batched_nms(boxes, scores, idxs, THRESHOLD)
    else:

        def ours() -> Tensor:
            return ops.nms(boxes, scores, THRESHOLD)

        def theirs() -> Tensor:
            return nms(boxes, scores, THRESHOLD)

    # A suppressed pair is quadratic work there: on a CPU a call with 100,000 boxes takes 2 to 20 s.
    affordable = device.type == "cuda" or n <= 20_000 or kind == "crowded"

    def check() -> None:
        if not affordable:
            _assert_greedy(boxes, scores, idxs if batched else torch.zeros_like(idxs), ours())
            return
        # Below 1,000 boxes torchvision's batched form moves the coordinates, and its CUDA form rounds the
        # threshold: both may decide an IoU next to the threshold otherwise.
        result, expected = ours(), theirs()
        exact = device.type == "cpu" and (not batched or n > 1000)
        agree = torch.isin(result, expected).float().mean().item() if len(result) else 1.0
        assert torch.equal(result, expected) if exact else agree > 0.99, (kind, n, batched)

    baselines = {"torchvision": theirs} if affordable else {}
    return Contest(ours=ours, baselines=baselines, check=check, min_bytes=20 * n, graphs=())


def _assert_greedy(boxes: Tensor, scores: Tensor, idxs: Tensor, keep: Tensor, sample: int = 500) -> None:
    """What defines the result, for a sample: a box is kept if no better kept box of its class overlaps it."""
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    kept[keep] = True
    some = torch.arange(0, len(boxes), max(1, len(boxes) // sample), device=boxes.device)
    rival = (scores[keep][None] > scores[some, None]) & (idxs[keep][None] == idxs[some, None])
    overlapped = ((ops.box_iou(boxes[some], boxes[keep]) > THRESHOLD) & rival).any(1)
    assert torch.equal(kept[some], ~overlapped)
    assert torch.equal(scores[keep], scores[keep].sort(descending=True).values)


def _padded(device: torch.device, *, n: int, kind: str) -> Contest:
    boxes, scores, _ = scene(n, kind, device)

    def check() -> None:
        keep, count = ops.nms_padded(boxes, scores, THRESHOLD)
        assert torch.equal(keep[: count.item()], ops.nms(boxes, scores, THRESHOLD))

    return Contest(ours=lambda: ops.nms_padded(boxes, scores, THRESHOLD), check=check, min_bytes=28 * n)


def cases() -> list[Case]:
    """The sizes of the targets; the padded form, which a CUDA graph can hold; N over three decades."""
    found = []

    def add(name: str, make, sweep: str = "", against: tuple[str, ...] = ("torchvision",), **sizes) -> None:
        make = functools.partial(make, **sizes)
        found.append(Case("nms", name, {"N": sizes["n"]}, make, sweep, against))

    for kind in ("sparse", "dense", "crowded"):
        for n in (1000, 5000, 20_000):
            add(f"nms {kind} N={n}", _contest, n=n, kind=kind, batched=False)
    for kind in ("sparse", "dense"):
        for n in (1000, 5000, 20_000):
            add(f"batched_nms {CLASSES} classes {kind} N={n}", _contest, n=n, kind=kind, batched=True)
    for n in (10_000, 100_000):
        for kind in ("dense", "sparse"):
            add(f"nms_padded {kind} N={n}", _padded, against=(), n=n, kind=kind)
    for kind in ("dense", "sparse", "crowded"):
        for n in SWEEP:
            add(f"nms {kind}, N={n}", _contest, "N", n=n, kind=kind, batched=False)
    for n in SWEEP:
        add(f"batched_nms {CLASSES} classes dense, N={n}", _contest, "N", n=n, kind="dense", batched=True)
    return found


def cpu_medians(runs: list[Run], seconds: float = 0.5) -> list[float]:
    """Median CPU seconds of a call of each, in turns. CPU time, so that a busy machine does not decide."""
    calls: list[int] = []
    samples: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
        start = time.thread_time()
        run()
        calls.append(max(1, int(1e-3 / max(time.thread_time() - start, 1e-7))))
    end = time.perf_counter() + seconds * len(runs)
    while len(samples[0]) < 3 or (time.perf_counter() < end and len(samples[0]) < 101):
        for run, count, times in zip(runs, calls, samples, strict=True):
            start = time.thread_time()
            for _ in range(count):
                run()
            times.append((time.thread_time() - start) / count)
    return [statistics.median(times) for times in samples]


def main() -> None:
    """Every size and scene on one CPU thread: medians of CPU time in milliseconds, and their ratio."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--up-to", type=int, default=20_000, help="largest N; theirs takes minutes at 200000")
    sizes = [n for n in SIZES if n <= parser.parse_args().up_to]
    torch.set_num_threads(1)
    titles = f"{'torchvision ms':>15s} {'ours ms':>10s} {'ratio':>8s}"
    print(f"{'op':12s} {'scene':8s} {'N':>7s} {'kept':>7s} {titles}")
    for batched in (False, True):
        for kind in ("sparse", "dense", "crowded"):
            for n in sizes:
                contest = _contest(torch.device("cpu"), n=n, kind=kind, batched=batched)
                kept = len(contest.ours())
                ours, theirs = cpu_medians([contest.ours, contest.baselines["torchvision"]])
                name = "batched_nms" if batched else "nms"
                numbers = f"{theirs * 1e3:15.4f} {ours * 1e3:10.4f} {theirs / ours:7.1f}x"
                print(f"{name:12s} {kind:8s} {n:7d} {kept:7d} {numbers}", flush=True)


if __name__ == "__main__":
    main()
