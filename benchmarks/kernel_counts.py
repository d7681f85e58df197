r"""What kernels execute on a card: blocks and instructions of named cases, counted by ncu, for the model.

    ncu --profile-from-start off --section LaunchStats --section Occupancy --metrics smsp__inst_executed.sum \
        -k regex:_kernel -o counts python -m benchmarks.kernel_counts run
    ncu -i counts.ncu-rep --page raw --csv > counts.csv
    python -m benchmarks.kernel_counts read counts.csv      # needs nvcc, for the kernels' length

Written to counts.json. A card with clusters matches in them: the counts of the three kernels there, which
cards without run, are of 586d49d, before that was so. Beside each kernel stands the length of its PTX, so
that the model can tell a kernel that has grown since it was counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import kernel_table, kernel_times

COUNTS = Path(__file__).parent / "results" / "counts.json"
# (family, case) as the benchmarks name them, in the order in which they run.
CASES = (
    ("detect", "trained B=32 C=81"),
    ("matching", "B=32, 7 GT an image"),
    ("matching", "B=32, 100 GT an image"),
    ("mining", "B=32 P=8732, trained keys"),
    ("multibox", "loss B=32 C=81"),
    ("nms", "nms_padded dense N=10000"),
)
COLUMNS = {
    "blocks": "launch__grid_size",
    "block": "launch__block_size",
    "instructions": "smsp__inst_executed.sum",
}


def run() -> None:
    """The cases once each, between the profiler's marks; the L2 cache is emptied before each."""
    import torch

    from .__main__ import cases

    device = torch.device("cuda")
    found = {(case.family, case.name): case for case in cases(sorted({f for f, _ in CASES}), device="cuda")}
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    for name in CASES:
        contest = found[name].make(device)
        for _ in range(2):
            contest.ours()
        flush.zero_()
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        contest.ours()
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


def key(kernel: str) -> str:
    """A kernel's name as a profile, a trace and KERNELS.md all give it."""
    return re.sub(r"\s", "", kernel).replace("true", "1").replace("false", "0")


def _number(text: str) -> int:
    return round(float(text.replace(",", "")))


def rows_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Kernels of ssd_cuda in the order of the profile: name, blocks, block, resident, instructions."""
    found = []
    for row in csv.DictReader(line for line in lines if line.startswith('"')):
        name = row["Kernel Name"]
        if "ssd_cuda::" not in name:  # the units below the header too
            continue
        limits = [
            value for key, value in row.items() if re.fullmatch("launch__occupancy_limit_.*", key or "")
        ]
        found.append(
            {
                "kernel": key(kernel_times.short(name)),
                "blocks": _number(row[COLUMNS["blocks"]]),
                "block": _number(row[COLUMNS["block"]]),
                "resident": min(_number(value) for value in limits if value),
                "instructions": _number(row[COLUMNS["instructions"]]),
            }
        )
    return found


def ptx_lengths(family: str, arch: str = "sm_90") -> dict[str, tuple[str, int]]:
    """The name in the source of each kernel of a family, and the instructions in its PTX, by its key()."""
    found = {}
    for text in re.split(r"\.entry ", kernel_table.ptx(family, arch))[1:]:
        name = kernel_table.readable(re.match(r"\w+", text).group())  # type: ignore[union-attr]
        found[key(name)] = name, len(re.findall(r"^\s+[^.\s/][^:]*;", text, re.M))
    return found


def by_case(
    rows: Sequence[dict[str, Any]], lengths: dict[str, dict[str, tuple[str, int]]]
) -> list[dict[str, Any]]:
    """Deals the rows to the cases: a case begins with the first kernel of its family's op."""
    first = {
        "detect": "scan",
        "matching": ("group", "cluster_match"),
        "mining": "hard_neg",
        "multibox": ("group", "cluster_match"),
        "nms": "nms_tile",
    }
    starts, at = [], 0
    for family, _ in CASES:
        while not rows[at]["kernel"].startswith(first[family]):
            at += 1
        starts.append(at)
        at += 1
    found = []
    for (family, name), begin, end in zip(CASES, starts, [*starts[1:], len(rows)], strict=True):
        for row in rows[begin:end]:
            known = [own[row["kernel"]] for own in lengths.values() if row["kernel"] in own]
            full, ptx = known[0] if known else (row["kernel"], 0)
            found.append({"family": family, "case": name, **row, "name": full, "ptx": ptx})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_counts", description=__doc__)
    parser.add_argument("what", choices=("run", "read"))
    parser.add_argument("csv", nargs="?", type=Path)
    parser.add_argument("--card", default="", help="the name of the card that was counted on")
    options = parser.parse_args(arguments)
    if options.what == "run":
        run()
        return 0
    if options.csv is None or not options.csv.is_file():
        parser.error(f"csv must be a file that ncu printed, got {options.csv}")
    lengths = {family: ptx_lengths(family) for family in ("detect", "matching", "mining", "multibox", "nms")}
    kernels = by_case(rows_of(options.csv.read_text().splitlines()), lengths)
    COUNTS.write_text(
        json.dumps({"card": options.card, "arch": "sm_90", "kernels": kernels}, indent=1) + "\n"
    )
    print(f"wrote {COUNTS}: {len(kernels)} kernels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
