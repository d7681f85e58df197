"""Checks every contestant, measures them in turns, prints a table; --json and --plot keep the result."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from . import baselines, harness, machine, publish, report, scaling

FAMILIES = tuple(sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py")))
CHARTS = Path("runs/bench")  # where --plot draws without --json; git ignores runs
COMPILE_SECONDS = 90.0  # what a case with compilers may take: with less left on the clock none is started


def _counts(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError
    return numbers


_counts.__name__ = "list of thread counts"  # argparse names the type in its error


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="baselines:\n" + "\n".join(f"  {name:20} {what}" for name, what in baselines.NAMES.items()),
    )
    card = torch.cuda.is_available()
    p.add_argument("family", nargs="*", help=f"of {', '.join(FAMILIES)}; none: all")
    p.add_argument("--against", metavar="NAMES", help="only these baselines (see below), comma-separated")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if card else "cpu")
    p.add_argument("--threads", type=_counts, default=[1, 2], help="CPU thread counts (default 1,2)")
    p.add_argument("--filter", default="", metavar="TEXT", help="only cases whose name contains this")
    p.add_argument(
        "--seconds", type=float, default=4.0, help="CPU time for a case and thread count (default 4)"
    )
    p.add_argument("--limit", type=float, metavar="SECONDS", help="start no further case after this time")
    p.add_argument("--quick", action="store_true", help="without the scaling sweeps")
    p.add_argument("--list", action="store_true", help="print the cases and their baselines, measure nothing")
    p.add_argument("--json", type=Path, metavar="FILE", help="write environment and results")
    p.add_argument(
        "--plot", action="store_true", help=f"draw the sweeps, beside the --json FILE or in {CHARTS}"
    )
    p.add_argument(
        "--stub-gpu", action="store_true", help="rehearse a card's cases on the CPU; marks all output STUB"
    )
    return p


def cases(
    families: Sequence[str] = FAMILIES, *, quick: bool = False, containing: str = "", device: str = "cpu"
) -> list[harness.Case]:
    """The cases of the named families for a device: named sizes first, then sweeps, slow compilers last.

    On a card, whose clock may run out, the cases of the goals come first of all, then whole steps.
    """
    chosen: list[harness.Case] = []
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
        module = importlib.import_module(f"benchmarks.bench_{family}")
        chosen += [c for c in module.cases() if containing in c.name and not (quick and c.sweep)]
    goals = {(family, name) for family, name, *_ in publish.GOALS} if device == "cuda" else set()

    def order(case: harness.Case) -> tuple[int, bool, bool]:
        later = device == "cuda" and case.family != "end_to_end"
        return case.late, (case.family, case.name) not in goals, later

    return sorted((case for case in chosen if device in case.devices), key=order)


def progress(items: Sequence[harness.Case]) -> Iterable[harness.Case]:
    """tqdm where it is installed and somebody watches."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, unit="case", disable=None, leave=False)


def listing(chosen: Sequence[harness.Case]) -> str:
    """One line a case."""
    rows = [
        (case.family, case.name, "sweep" if case.sweep else "", ", ".join(case.against)) for case in chosen
    ]
    width = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join(f"{cell:{n}}" for cell, n in zip(row, [*width, 0], strict=True)) for row in rows
    )


def _select(options: argparse.Namespace) -> tuple[list[harness.Case], Any]:
    """The cases to run and the names to run them against.

    Raises:
        ValueError: nothing to run, with what was asked for.
    """
    families = options.family or FAMILIES
    chosen = cases(families, quick=options.quick, containing=options.filter, device=options.device)
    if not chosen:
        raise ValueError(f"--filter must be part of a case's name (see --list), got {options.filter!r}")
    against = baselines.chosen(options.against, chosen)
    if against is not None:
        chosen = [case for case in chosen if set(case.against) & set(against)]
    return chosen, against


def _environment(options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device("cpu" if options.stub_gpu else options.device)
    copy_rate = harness.copy_bandwidth(device)  # first: the clocks of a card are read after some work
    record = {"environment": machine.environment(), "device": options.device, "copy_rate": copy_rate}
    if options.stub_gpu:
        record["stub"] = True
        record["environment"]["gpu"] = "STUB (no card)"
    return record


def _save(record: dict[str, Any], results: Sequence[harness.Result], path: Path | None) -> None:
    record["results"] = [result.to_json() for result in results]
    if shares := report.core_share(results):
        record["core_share"] = shares
    if path:
        report.save(record, path)


def _measure(chosen: Sequence[harness.Case], against: Any, options: argparse.Namespace, record: dict) -> list:
    """Every case in turn; the file is kept up to date, so that a run cut short leaves what it has."""
    results: list[harness.Result] = []
    end = time.monotonic() + options.limit if options.limit else float("inf")
    for index, case in enumerate(progress(chosen)):
        record["left_out"] = [f"{late.family}: {late.name}" for late in chosen[index:]]
        _save(record, results, options.json)
        if time.monotonic() + (COMPILE_SECONDS if case.late == 2 else 0) > end:
            return results
        try:
            results += harness.measure(
                case,
                torch.device(options.device),
                threads=options.threads,
                against=against,
                seconds=options.seconds,
                stub=options.stub_gpu,
            )
        except Exception as error:  # told at the end; the other cases are worth having
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            record.setdefault("failed", {})[f"{case.family}: {case.name}"] = (
                f"{type(error).__name__}: {first}"
            )
        if options.device == "cuda":
            torch.cuda.empty_cache()
    record.pop("left_out", None)
    return results


def _print(record: dict[str, Any], results: Sequence[harness.Result]) -> None:
    print(report.conditions(record), "\n")
    print(report.markdown(results, record["copy_rate"]))
    if record.get("core_share"):
        print("### the core's share\n\n" + report.shares(record["core_share"]))
    if record.get("host_work"):
        print("### host work\n\n" + report.host_work(record["host_work"]))
    if scaling.sweeps(results):
        print("### scaling\n\n" + scaling.tables(results, record["copy_rate"]))
    for name, reason in record.get("failed", {}).items():
        print(f"FAILED {name}: {reason}")
    if record.get("left_out"):
        print(f"left out, the time was up: {len(record['left_out'])} cases, from {record['left_out'][0]} on")


def run(options: argparse.Namespace) -> int:
    if options.stub_gpu:
        options.device = "cuda"
    elif options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a CUDA card, and torch finds none")
    chosen, against = _select(options)
    if options.list:
        print(listing(chosen))
        return 0
    record = _environment(options)
    results = _measure(chosen, against, options, record)
    if options.device == "cpu" and any(result.family == "end_to_end" for result in results):
        record["host_work"] = importlib.import_module("benchmarks.bench_end_to_end").host_work()
    _save(record, results, options.json)
    _print(record, results)
    if options.json:
        print("wrote", options.json)
    if options.plot:
        folder = options.json.parent if options.json else CHARTS
        drawn = scaling.plot(results, record["copy_rate"], folder)
        print("\n".join(f"wrote {path}" for path in drawn) or "nothing to draw: no sweep among these cases")
    return 1 if record.get("failed") else 0


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        return run(parser().parse_args(arguments))
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"python -m benchmarks: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
