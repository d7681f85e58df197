"""``ssd-cuda bench [family ...]``: check, measure, print a table; --json and --plot keep it."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import harness, report

FAMILIES = tuple(sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py")))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="ssd-cuda bench", description=__doc__)
    p.add_argument("family", nargs="*", help=f"of {', '.join(FAMILIES)}; none: all")
    p.add_argument(
        "--against", help="baselines, comma-separated: torchvision,compile,reference,seed,topk,dle"
    )
    p.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    p.add_argument("--threads", default="1,2", help="CPU thread counts, comma-separated (default 1,2)")
    p.add_argument("--filter", default="", help="only cases whose name contains this")
    p.add_argument("--seconds", type=float, default=4.0, help="CPU time a case and thread count (default 4)")
    p.add_argument("--quick", action="store_true", help="without the scaling sweeps")
    p.add_argument("--json", type=Path, metavar="FILE", help="write environment and results")
    p.add_argument("--plot", type=Path, nargs="?", const=Path("benchmarks/results"), metavar="FOLDER")
    return p


def cases(families: Sequence[str], *, quick: bool = False, containing: str = "") -> list[harness.Case]:
    """The cases of the named families, in order."""
    chosen = []
    for family in families:
        if family not in FAMILIES:
            raise SystemExit(f"ssd-cuda bench: family must be one of {', '.join(FAMILIES)}, got {family!r}")
        module = importlib.import_module(f"benchmarks.bench_{family}")
        chosen += [c for c in module.cases() if containing in c.name and not (quick and c.sweep)]
    return chosen


def progress(items: Sequence[harness.Case]):
    """tqdm where it is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, unit="case", disable=None)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("ssd-cuda bench: --device cuda needs a CUDA card, and torch finds none")
    against = options.against.split(",") if options.against else None
    threads = [int(n) for n in options.threads.split(",")] if device.type == "cpu" else [1]
    environment = harness.environment()
    copy_rate = harness.copy_bandwidth(device)
    results = []
    for case in progress(cases(options.family or FAMILIES, quick=options.quick, containing=options.filter)):
        counts = threads[:1] if case.sweep else threads[-1:] if case.family == "end_to_end" else threads
        for n in counts:  # a sweep is about its slope, a whole step about all cores
            results.append(harness.measure(case, device, threads=n, against=against, seconds=options.seconds))
    print(report.conditions(environment, copy_rate), "\n")
    print(report.markdown(results, copy_rate))
    print(report.fits(results))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "environment": environment,
            "device": device.type,
            "copy_rate": copy_rate,
            "results": [result.to_json() for result in results],
        }
        if any(result.family == "end_to_end" for result in results):
            record["host_work"] = importlib.import_module("benchmarks.bench_end_to_end").host_work()
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.plot:
        for path in report.plot(results, copy_rate, options.plot):
            print("wrote", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
