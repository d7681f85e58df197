"""How long each kernel should take on a card that is not there: a model, not a measurement.

    python -m benchmarks.model H100 --batch 32

A kernel's time is that of its start and of the longest of two things:

- **bytes** at the rate of a copy, 0.87 of the memory's rate (what an H100 and an H200 reach);
- **instructions**. ``counts.json`` has what each kernel executed on an H100 (``kernel_counts.py``).
  A warp issues one instruction in 10 cycles, as what follows mostly waits for what came before; W warps of a
  scheduler one a cycle at best, so that a wave of blocks takes max(10, W) cycles an instruction.

A kernel that is newer than that is ``reckoned`` from its SASS.
Where one has grown or shrunk since it was counted, by the length of its PTX, its instructions are taken
to have as well. What the model leaves out: loads that wait for loads (a chain of them is 600 cycles each),
warps of a block that wait for its slowest, caches smaller than an H100's. NOTES.md has how far it was off
where a card was at hand.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import kernel_table
from .kernel_counts import COUNTS, ptx_lengths

START = 1.5e-6  # of a kernel behind another: seconds
CHAIN = 10  # cycles an instruction of a warp alone
COPY = 0.87  # of the memory's rate
FIRST_PANEL = 1024  # boxes, of nms: csrc/nms/cuda/nms_args.cuh


@dataclass(frozen=True)
class Card:
    """Of the data sheet. clock: the boost, Hz; memory: bytes a second; warps: of a multiprocessor."""

    multiprocessors: int
    clock: float
    memory: float
    warps: int = 64


CARDS = {
    "T4": Card(40, 1.59e9, 320e9, 32),
    "A100": Card(108, 1.41e9, 2039e9),
    "L4": Card(58, 2.04e9, 300e9, 48),
    "H100": Card(132, 1.98e9, 3350e9),
    "H200": Card(132, 1.98e9, 4800e9),
    "B200": Card(148, 1.965e9, 8000e9),
}


@dataclass(frozen=True)
class Size:
    """Of a case: images, priors, classes, bytes of a logit, truths an image, boxes of nms."""

    b: int = 32
    p: int = 8732
    c: int = 81
    t: int = 4
    g: int = 7
    n: int = 10_000


def keys_bytes(s: Size) -> float:
    return s.b * s.p * (2 * s.c * s.t + 8)


# Bytes from and to memory, each once, by the kernel's name without its template.
BYTES: dict[str, Callable[[Size], float]] = {
    "scan_kernel": lambda s: s.b * s.p * s.c * s.t,
    "image_kernel": lambda s: s.b * (1000 * 8 + 400 * 32 + 200 * 40),
    "group_kernel": lambda s: 17 * s.p + 8 * s.b * s.g,
    "match_kernel": lambda s: 17 * s.p + 4 * s.b * s.p + 16 * s.b * s.g,
    "claim_kernel": lambda s: 28 * s.b * s.g,
    "cluster_match_kernel": lambda s: 16 * s.p + 4 * s.b * s.p + 16 * s.b * s.g,  # without the groups
    "hard_negatives_kernel": lambda s: 7 * s.b * s.p,
    "keys_kernel": keys_bytes,
    "keys_beside_match_kernel": keys_bytes,
    "select_kernel": lambda s: 4 * s.b * s.p,
    "backward_kernel": lambda s: s.b * s.p * (8 + 16) + 2 * s.b * 4 * 5 * s.g * s.c * s.t,
    "nms_tile_kernel": lambda s: 36 * s.n,
    "nms_merge_kernel": lambda s: 16 * s.n,
    "nms_gather_kernel": lambda s: 90 * s.n,
    "nms_pairs_kernel": lambda s: FIRST_PANEL * 16 + FIRST_PANEL**2 / 16,
    "nms_settle_kernel": lambda s: FIRST_PANEL + FIRST_PANEL**2 / 16,
    "nms_sweep_kernel": lambda s: 60 * s.n,
    "nms_clear_kernel": lambda s: 60 * s.n,
    "nms_decide_kernel": lambda s: 60 * s.n,
    "nms_resolve_kernel": lambda s: 4,
    "nms_compact_kernel": lambda s: 14 * s.n,
}
GROWS_WITHOUT_IMAGES = {"group_kernel"}  # as many blocks whatever the batch


@dataclass(frozen=True)
class Time:
    """Of one launch, seconds."""

    start: float
    instructions: float
    bytes: float

    @property
    def total(self) -> float:
        return self.start + max(self.instructions, self.bytes)


def plain(kernel: str) -> str:
    return kernel.split("<")[0]


def size_of(count: dict[str, Any], images: int) -> Size:
    """The size of a counted case at another batch."""
    truths = 100 if "100 GT" in count["case"] else 7
    return Size(b=images, g=truths)


def time_of(count: dict[str, Any], card: Card, images: int = 32, growth: float = 1.0) -> Time:
    """Of a kernel as it was counted; growth: of its instructions since."""
    warps = count["block"] // 32
    each = growth * count["instructions"] / (count["blocks"] * warps)
    blocks = count["blocks"]
    if count["family"] != "nms" and plain(count["kernel"]) not in GROWS_WITHOUT_IMAGES:
        blocks = math.ceil(blocks * images / 32)
    resident = max(1, min(count["resident"], card.warps // warps))
    waves, rest = divmod(blocks, card.multiprocessors * resident)
    cycles = waves * each * max(CHAIN, resident * warps / 4)
    if rest:
        cycles += each * max(CHAIN, math.ceil(rest / card.multiprocessors) * warps / 4)
    moved = BYTES[plain(count["kernel"])](size_of(count, images))
    return Time(START, cycles / card.clock, moved / (COPY * card.memory))


def growths(kernels: Sequence[dict[str, Any]], lengths: dict[str, int]) -> dict[str, float]:
    """The length of each kernel over what it was when counted; 1 where either is not known."""
    return {
        k["kernel"]: lengths[k["kernel"]] / k["ptx"] if k["ptx"] and k["kernel"] in lengths else 1.0
        for k in kernels
    }


def table(card: str, images: int, kernels: Sequence[dict[str, Any]], growth: dict[str, float]) -> str:
    lines = [f"Modelled, not measured: {card}, {images} images, microseconds.", ""]
    for case in dict.fromkeys((k["family"], k["case"]) for k in kernels):
        rows = [k for k in kernels if (k["family"], k["case"]) == case]
        times = [time_of(k, CARDS[card], images, growth.get(k["kernel"], 1.0)) for k in rows]
        name = case[1].replace("B=32", f"B={images}")
        moved = sum(t.bytes for t in times)
        lines.append(
            f"{case[0]} {name}: {1e6 * sum(t.total for t in times):.1f}, its bytes alone {1e6 * moved:.1f}"
        )
        for count, time in zip(rows, times, strict=True):
            parts = f"instructions {1e6 * time.instructions:6.1f}   bytes {1e6 * time.bytes:6.1f}"
            note = ", reckoned" if count.get("reckoned") else ""
            lines.append(f"  {1e6 * time.total:8.1f}   {parts}   {count['kernel']}{note}")
    return "\n".join(lines)


def growths_of_today(kernels: Sequence[dict[str, Any]]) -> dict[str, float]:
    """By what nvcc makes of the sources here; 1 for all where there is no nvcc."""
    if not kernel_table.find_nvcc():
        return {}
    families = sorted({kernel["family"] for kernel in kernels})
    lengths = [ptx_lengths(family) for family in families]
    return growths(kernels, {key: count for own in lengths for key, (_, count) in own.items()})


def counted() -> list[dict[str, Any]]:
    return json.loads(COUNTS.read_text())["kernels"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("card", nargs="?", default="H100", choices=sorted(CARDS))
    parser.add_argument("--batch", type=int, default=32, help="images")
    options = parser.parse_args(arguments)
    if options.batch < 1:
        parser.error(f"argument --batch: expected 1 or more, got {options.batch}")
    kernels = counted()
    print(table(options.card, options.batch, kernels, growths_of_today(kernels)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
