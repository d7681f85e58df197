"""Which lines of the kernels the emulated suite takes: runs it instrumented by gcov and prints a table.

    python tests/emulator/coverage.py [--fail-under 95] [family ...]   # whose table is wanted

Exits non-zero when a family is under the bound. Lines are those of csrc/*/cuda/*.cuh that g++ made code for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulator import build
from emulator.build import ROOT, TESTS, cache_folder


def families() -> list[str]:
    """Every family with kernels and a test that runs them."""
    return [f for f in build.families() if (TESTS / f"test_emulated_{f}.py").exists()]


def run_suite() -> int:
    """Runs the emulated suite with instrumented kernels; pytest's exit code."""
    folder = cache_folder() / "coverage"
    for stale in folder.glob("*.gcda"):
        stale.unlink()
    return build.run_suite("coverage", build.suite())


def line_counts(names: list[str]) -> dict[str, dict[int, int]]:
    """Executions of each line of each .cuh, summed over template instantiations and families."""
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    folder = cache_folder() / "coverage"
    for name in names:
        data = folder / f"emulated_{name}_coverage.gcda"
        done = subprocess.run(
            ["gcov", "--json-format", "--stdout", str(data)], capture_output=True, text=True, cwd=folder
        )
        if done.returncode or not done.stdout.strip():
            sys.exit(f"coverage: gcov cannot read {data}: {done.stderr.strip()}")
        for file in json.loads(done.stdout)["files"]:
            path = Path(os.path.normpath(folder / file["file"]))
            if path.suffix != ".cuh" or path.name == "launch.cuh" or ROOT / "csrc" not in path.parents:
                continue
            for line in file["lines"]:
                counts[str(path.relative_to(ROOT))][line["line_number"]] += line["count"]
    return counts


def report(counts: dict[str, dict[int, int]], bound: float) -> bool:
    """Prints one line a file; whether every file reaches the bound."""
    enough = True
    for file, lines in sorted(counts.items()):
        missed = sorted(number for number, count in lines.items() if count == 0)
        percent = 100 * (1 - len(missed) / len(lines))
        enough &= percent >= bound
        where = f"  missed: {', '.join(map(str, missed))}" if missed else ""
        print(f"{percent:6.1f}%  {len(lines):4d} lines  {file}{where}")
    return enough


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("family", nargs="*")
    parser.add_argument("--fail-under", type=float, default=95.0, metavar="PERCENT")
    options = parser.parse_args()
    names = options.family or families()
    if run_suite():
        sys.exit("coverage: the suite fails")
    if not report(line_counts(names), options.fail_under):
        sys.exit(f"coverage: a file is under {options.fail_under:g}%")


if __name__ == "__main__":
    main()
