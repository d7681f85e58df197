"""Tables, fits and charts of measured cases."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .harness import Result


def seconds(value: float) -> str:
    """A time with a unit that a reader takes in at once."""
    if value >= 1:
        return f"{value:.2f} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} us"


def row(result: Result, copy_rate: float) -> list[str]:
    """One line: case, ours, bandwidth reached, each baseline with its ratio."""
    ours = result.timings["ours"]
    reached = result.min_bytes / ours.median if result.min_bytes else 0.0
    share = f"{100 * reached / copy_rate:.0f}%" if reached else ""
    ratios = result.speedups
    others = [f"{name} {seconds(result.timings[name].median)} ({x:.1f}x)" for name, x in ratios.items()]
    spread = f"{seconds(ours.p20)}..{seconds(ours.p80)}" + (" busy" if result.contended else "")
    return [result.name, str(result.threads), seconds(ours.median), spread, share, ", ".join(others)]


def host_work(rows: Sequence[dict[str, Any]]) -> str:
    """What a step asks of the host, before and after accelerate; see waits.py."""
    lines = [
        "| step | B | C | operators before | after | waits for a card before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, after = row["torchvision"], row["accelerated"]
        lines.append(
            f"| {row['step']} | {row['B']} | {row['C']} | {before['operators']} | {after['operators']} | "
            f"{before['waits']} | {after['waits']} |"
        )
    return "\n".join(lines) + "\n"


HEADER = ["case", "threads", "ours (median)", "p20..p80", "of a copy", "others (times ours)"]


def markdown(results: Sequence[Result], copy_rate: float) -> str:
    """A table per family."""
    lines: list[str] = []
    for family in dict.fromkeys(result.family for result in results):
        lines += ["", f"### {family}", "", "| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
        lines += [
            "| " + " | ".join(row(result, copy_rate)) + " |" for result in results if result.family == family
        ]
    return "\n".join(lines).strip() + "\n"


def conditions(environment: dict[str, Any], copy_rate: float) -> str:
    """One paragraph that says where and how the figures came about."""
    build = environment["build"]
    machine = environment.get("gpu") or f"{environment['cpu']}, {environment['cores']} cores"
    return (
        f"{environment['date']}, {machine}, torch {environment['torch']}, commit {environment['commit']}, "
        f"SIMD {build['simd']}, CUDA {build['cuda'] or 'none'}; load {environment['load']} at the start; a "
        f"copy moves {copy_rate / 1e9:.1f} GB/s (read + written). Medians; contestants take turns in one run."
    )


def slope(results: Sequence[Result], contestant: str = "ours") -> float:
    """Least-squares exponent of time against the swept size, on log axes: 1 is linear, 2 is quadratic."""
    points = [
        (math.log(r.params[r.sweep]), math.log(r.timings[contestant].median))
        for r in results
        if contestant in r.timings and r.params[r.sweep] > 0
    ]
    if len(points) < 2:
        raise ValueError(f"a fit needs two sizes, got {len(points)}")
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def sweeps(results: Sequence[Result]) -> dict[tuple[str, str, int], list[Result]]:
    """Scaling series: (the name without the size, swept parameter, threads) -> results by size."""
    series: dict[tuple[str, str, int], list[Result]] = {}
    for result in results:
        if result.sweep:
            rest = re.sub(rf"\b{result.sweep}=\d+|\(sweep\)|,", "", result.name)
            what = " ".join([result.family, *rest.split()])
            series.setdefault((what, result.sweep, result.threads), []).append(result)
    return {
        key: sorted(rows, key=lambda r: r.params[r.sweep]) for key, rows in series.items() if len(rows) > 1
    }


def fits(results: Sequence[Result]) -> str:
    """The fitted exponents, one line a series."""
    lines = []
    for (what, parameter, threads), rows in sweeps(results).items():
        names = dict.fromkeys(name for row in rows for name in row.timings)
        parts = []
        for name in names:
            measured = [r for r in rows if name in r.timings]
            if len(measured) > 1:
                parts.append(f"{name} {parameter}^{slope(measured, name):.2f}")
        low, high = rows[0].params[parameter], rows[-1].params[parameter]
        lines.append(f"- {what}: {parameter} = {low}..{high}, {threads} thread(s): " + ", ".join(parts))
    return "\n".join(lines)


def plot(results: Sequence[Result], copy_rate: float, folder: Path) -> list[Path]:
    """One chart a series, log axes, with the time that its bytes alone would take."""
    try:
        import matplotlib
    except ImportError as error:
        raise RuntimeError("--plot needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for (what, parameter, threads), rows in sweeps(results).items():
        figure, axes = plt.subplots(figsize=(6, 4), dpi=130)
        for name in dict.fromkeys(name for r in rows for name in r.timings):
            points = [(r.params[parameter], r.timings[name].median * 1e3) for r in rows if name in r.timings]
            width = 2.4 if name == "ours" else 1.4
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, lw=width, label=name)
        light = [(r.params[parameter], r.min_bytes / copy_rate * 1e3) for r in rows if r.min_bytes]
        if light:
            axes.plot(*zip(*light, strict=True), "k:", lw=1.2, label="its bytes at a copy's rate")
        axes.set(xscale="log", yscale="log", xlabel=parameter, ylabel="ms")
        axes.set_title(
            f"{what}: time against {parameter} ({rows[0].device}, {threads} thread(s))", fontsize=10
        )
        axes.grid(True, which="both", alpha=0.25)
        axes.legend(fontsize=8)
        figure.tight_layout()
        path = folder / f"{what.replace(' ', '_')}_{parameter}_{rows[0].device}_{threads}t.png"
        figure.savefig(path)
        plt.close(figure)
        written.append(path)
    return written
