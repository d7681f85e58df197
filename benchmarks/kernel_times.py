"""How long each kernel of an op takes on a card, beside the op as a whole: where the time goes.

The kernels' own times come from the driver's trace (torch.profiler), of eager calls over inputs that rotate
through more than the L2 cache; a kernel that a call launches several times has their sum. ``graph`` is the
whole op replayed as a CUDA graph, ``kernels`` the sum of its kernels: what is between them is gaps. Nothing
is compared or checked here; for that there is ``python -m benchmarks``. ``--json`` keeps it.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from . import harness, machine, report
from .__main__ import cases

# (family, case) as the benchmarks name them: the goals, then the ends of what they depend on.
CHOSEN = (
    *(
        ("multibox", f"loss B=32 C={c}")
        for c in ("21", "81", "81, fp16", "81, 100 GT an image", "81, untrained")
    ),
    ("multibox", "loss B=1 C=81"),
    ("multibox", "loss B=128 C=81"),
    *(("matching", f"B={b} GT an image") for b in ("1, 7", "32, 7", "32, 100", "128, 7")),
    *(("mining", f"B={b} P=8732, trained keys") for b in (1, 32, 128)),
    ("mining", "B=32 P=8732, untrained keys"),
    *(("detect", f"trained B={b} C=81") for b in (1, 32, 128)),
    ("detect", "trained B=32 C=81, fp16"),
    ("detect", "fresh B=32 C=81"),
    *(("nms", f"nms_padded {kind} N={n}") for n in (10_000, 100_000) for kind in ("dense", "sparse")),
)
CALLS = 20


def short(name: str) -> str:
    """A kernel's name without namespaces and arguments, with its template's: ``keys_kernel<float, 81>``."""
    plain = re.sub(r"\((?:anonymous namespace|bool|int)\)(?:::)?", "", name)
    found = re.search(r"(\w+_kernel)(<[^()]*>)?", plain)
    if not found:
        return plain.split("(")[0][-60:]
    arguments = re.sub(r"(?:\w+::)+|\s", "", found[2] or "")
    return found[1] + (arguments if len(arguments) <= 40 else arguments[:37] + "...")


def of_trace(events: Iterable[tuple[str, float]], calls: int) -> dict[str, tuple[float, float]]:
    """(kernel, seconds) in the order of the trace -> kernel: (seconds a call, launches a call).

    A kernel that a call launches once has the median of its launches; one that it launches several times,
    which differ, the mean of their sums.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for name, seconds in events:
        times[name].append(seconds)
    found = {}
    for name, each in times.items():
        count = len(each) / calls
        found[name] = (statistics.median(each) * count if count <= 1 else sum(each) / calls, count)
    return found


def _trace(runs: Sequence[harness.Run], calls: int) -> dict[str, tuple[float, float]]:
    for run in runs:
        run()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for call in range(calls):
            runs[call % len(runs)]()
        torch.cuda.synchronize()
    on_card = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    on_card.sort(key=lambda e: e.time_range.start)
    return of_trace(((short(e.name), e.time_range.elapsed_us() * 1e-6) for e in on_card), calls)


def measure(case: harness.Case, seconds: float) -> dict[str, Any]:
    """One case: its kernels and the whole."""
    device = torch.device("cuda")
    contest = case.make(device)
    copies = harness.copies_of(contest, torch.cuda.get_device_properties(device).L2_cache_size)
    runs = [contest.ours, *(case.make(device).ours for _ in range(copies - 1))]
    graph = harness.time_cuda(runs, graph=True, size=contest.min_bytes, seconds=seconds)
    kernels = _trace(runs, CALLS)
    return {
        "family": case.family,
        "name": case.name,
        "graph": graph.median,
        "how": graph.how,
        "min_bytes": contest.min_bytes,
        "kernels": {name: {"seconds": time, "launches": count} for name, (time, count) in kernels.items()},
    }


def table(record: dict[str, Any]) -> str:
    """A block a case: the whole, the bytes' time at the copy's rate, its kernels by their part."""
    lines = []
    for case in record["cases"]:
        total = sum(kernel["seconds"] for kernel in case["kernels"].values())
        floor = case["min_bytes"] / record["copy_rate"]
        lines.append(
            f"{case['family']} {case['name']}: {case['graph'] * 1e6:.1f} us ({case['how']}); "
            f"kernels {total * 1e6:.1f}; bytes {floor * 1e6:.1f}"
        )
        for name, kernel in sorted(case["kernels"].items(), key=lambda item: -item[1]["seconds"]):
            times = f" x{kernel['launches']:.3g}" if kernel["launches"] != 1 else ""
            lines.append(f"  {kernel['seconds'] * 1e6:8.2f} us  {name}{times}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_times",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("family", nargs="*", help="only these families")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="for the graph of a case (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the record")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("kernel_times: needs a CUDA card, and torch finds none")
        return 3
    chosen: Callable[[harness.Case], bool] = lambda c: (c.family, c.name) in CHOSEN  # noqa: E731
    families = options.family or sorted({family for family, _ in CHOSEN})
    record: dict[str, Any] = {
        "environment": machine.environment(),
        "copy_rate": harness.copy_bandwidth(torch.device("cuda")),
        "cases": [],
    }
    for case in filter(chosen, cases(families, device="cuda")):
        try:
            record["cases"].append(measure(case, options.seconds))
        except RuntimeError as error:  # one op that fails must not hide the others
            print(f"{case.family} {case.name}: {error}", file=sys.stderr)
            continue
        print(table({**record, "cases": record["cases"][-1:]}), flush=True)
        if options.json:
            report.save(record, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
