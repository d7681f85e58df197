"""What the warps of each kernel waited for on a card, by instruction: reads the samples of ncu.

    ncu --profile-from-start off --clock-control none --section SourceCounters -k regex:_kernel -o samples \
        python -m benchmarks.kernel_counts run
    ncu -i samples.ncu-rep --page source --csv > samples.csv
    python -m benchmarks.kernel_samples samples.csv              # a line a kernel: its reasons
    python -m benchmarks.kernel_samples samples.csv keys scan    # and instructions of 1% or more

A reason stands at the instruction that could not be issued: ``long_sb`` at the first use of what a load from
memory brings, ``short_sb`` of shared memory, ``barrier`` behind one; ``selected`` is one that was issued. A
kernel whose warps wait can still be as fast as memory: others may run meanwhile (NOTES.md has a case).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import kernel_times

REASON = "stall_"
COUNT = "Instructions Executed"


@dataclass(frozen=True)
class Instruction:
    """One line of a kernel's machine code."""

    line: int
    text: str
    executed: int
    reasons: dict[str, int]  # samples by reason, those of none left out

    @property
    def samples(self) -> int:
        return sum(self.reasons.values())


@dataclass(frozen=True)
class Kernel:
    name: str
    code: tuple[Instruction, ...]

    @property
    def samples(self) -> int:
        return sum(instruction.samples for instruction in self.code)

    def reasons(self) -> dict[str, int]:
        """Samples by reason, most first."""
        found: dict[str, int] = {}
        for instruction in self.code:
            for reason, count in instruction.reasons.items():
                found[reason] = found.get(reason, 0) + count
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def _number(text: str) -> int:
    return int(float(text.replace(",", ""))) if text and text != "-" else 0


def _instruction(line: int, row: dict[str, str]) -> Instruction:
    reasons = {
        name.removeprefix(REASON): count
        for name, text in row.items()
        if name.startswith(REASON) and "(" not in name and (count := _number(text))
    }
    return Instruction(line, row["Source"].strip(), _number(row[COUNT]), reasons)


def kernels_of(lines: Iterable[str]) -> list[Kernel]:
    """The kernels of a profile in its order; ncu prints each of them twice."""
    found: list[Kernel] = []
    name, header, code = "", [], []  # type: str, list[str], list[Instruction]
    for row in [*csv.reader(lines), ["Kernel Name", ""]]:
        if row and row[0] == "Kernel Name":
            kernel = Kernel(kernel_times.short(name), tuple(code))
            if code and (not found or found[-1] != kernel):
                found.append(kernel)
            name, header, code = row[1], [], []
        elif row and row[0] == "Address":
            header = row
        elif row and header:
            code.append(_instruction(len(code), dict(zip(header, row, strict=False))))
    return found


def summary(kernel: Kernel) -> str:
    """``keys_kernel<float>: 8243 samples; long_sb 32%, short_sb 15%``, the reasons from 3% on."""
    total = kernel.samples
    parts = [
        f"{reason} {100 * count / total:.0f}%"
        for reason, count in kernel.reasons().items()
        if count >= 0.03 * total
    ]
    return f"{kernel.name}: {total} samples" + (f"; {', '.join(parts)}" if parts else "")


def listing(kernel: Kernel, least: float = 0.01) -> str:
    """Its instructions with that part of the samples or more: line, how often a warp executed it, reasons."""
    rows = []
    for instruction in kernel.code:
        part = instruction.samples / kernel.samples if kernel.samples else 0.0
        if part < least or part == 0.0:
            continue
        reasons = sorted(instruction.reasons.items(), key=lambda item: -item[1])[:3]
        text = " ".join(f"{reason} {count}" for reason, count in reasons)
        count = f"{instruction.line:5} {instruction.executed:9} {100 * part:5.1f}%"
        rows.append(f"  {count}  {instruction.text:60} {text}")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_samples",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("csv", type=Path, help="ncu's --page source --csv")
    parser.add_argument("kernel", nargs="*", help="list the instructions of kernels that begin so")
    options = parser.parse_args(arguments)
    if not options.csv.is_file():
        parser.error(f"csv must be a file that ncu printed, got {options.csv}")
    with options.csv.open(newline="") as file:
        kernels = kernels_of(file)
    if not kernels:
        print(f"kernel_samples: {options.csv} has no kernel with code (ncu --page source --csv)")
        return 1
    for kernel in kernels:
        print(summary(kernel))
        if kernel.name.startswith(tuple(options.kernel)):  # of none: no kernel
            print(listing(kernel))
    return 0


if __name__ == "__main__":
    sys.exit(main())
