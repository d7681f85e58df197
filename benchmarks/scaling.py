"""How the cost grows: series of one swept size, fitted exponents, tables, and charts on log axes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .baselines import NAMES
from .harness import EAGER, WARM, Result
from .report import seconds

Series = dict[tuple[str, str, str, int], list[Result]]
LIGHT = "its bytes at a copy's rate"
TAIL = 3  # sizes


def sweeps(results: Sequence[Result]) -> Series:
    """(family, what stays fixed, swept size, threads) -> results by size."""
    found: Series = {}
    for result in results:
        if result.sweep:
            fixed = " ".join(re.sub(rf"\b{result.sweep}=\d+|,", " ", result.name).split())
            found.setdefault((result.family, fixed, result.sweep, result.threads), []).append(result)
    return {
        key: sorted(rows, key=lambda r: r.params[r.sweep]) for key, rows in found.items() if len(rows) > 1
    }


def contestants(rows: Sequence[Result]) -> list[str]:
    """Who takes part in a series: ours first, each with at least two sizes."""
    names = dict.fromkeys(name for row in rows for name in row.timings)
    return [name for name in names if sum(name in row.timings for row in rows) > 1]


def slope(results: Sequence[Result], contestant: str = "ours", *, tail: bool = False) -> float:
    """Least-squares exponent of time against the swept size, on log axes: 1 is linear, 2 is quadratic.

    Fixed costs flatten the small sizes, so the ``tail``, the three largest, says where a cost is heading.
    """
    sizes = [(r.params[r.sweep], r) for r in results if contestant in r.timings and r.params[r.sweep] > 0]
    if tail:
        sizes = sizes[-TAIL:]
    if len(sizes) < 2:
        raise ValueError(f"a fit needs two sizes, got {len(sizes)}")
    points = [(math.log(size), math.log(r.timings[contestant].median)) for size, r in sizes]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def exponents(rows: Sequence[Result], name: str) -> tuple[str, str]:
    """Over all sizes and over the three largest, as text."""
    return f"{slope(rows, name):.2f}", f"{slope(rows, name, tail=True):.2f}"


def table(key: tuple[str, str, str, int], rows: Sequence[Result], copy_rate: float) -> str:
    """One series: a line a contestant, a column a size, then the exponents."""
    _, fixed, parameter, threads = key
    low, high = rows[0].params[parameter], rows[-1].params[parameter]
    where = f", {threads} thread" if rows[0].device == "cpu" else ""
    lines = [
        f"{parameter} = {low} .. {high} (x {high / low:.0f}); {fixed}{where}\n",
        f"| {parameter} | "
        + " | ".join(str(r.params[parameter]) for r in rows)
        + f" | {parameter}^x | last three |",
        "|---" * (len(rows) + 3) + "|",
    ]
    for name in contestants(rows):
        times = [seconds(r.timings[name].median) if name in r.timings else "" for r in rows]
        lines.append("| " + " | ".join([name, *times, *exponents(rows, name)]) + " |")
    light = [seconds(r.min_bytes / copy_rate) if r.min_bytes else "" for r in rows]
    if any(light):
        lines.append("| " + " | ".join([LIGHT, *light, "", ""]) + " |")
    return "\n".join(lines) + "\n"


def tables(results: Sequence[Result], copy_rate: float, family: str | None = None) -> str:
    """All series, of one family or of all."""
    found = {key: rows for key, rows in sweeps(results).items() if family in (None, key[0])}
    return "\n".join(
        ("" if family else f"{key[0]}: ") + table(key, rows, copy_rate) for key, rows in found.items()
    )


def _draw(axes: Any, key: tuple[str, str, str, int], rows: Sequence[Result], copy_rate: float) -> None:
    _, fixed, parameter, threads = key
    colours = {name: f"C{1 + index % 9}" for index, name in enumerate([*NAMES, EAGER, WARM])}
    for name in contestants(rows):
        points = [(r.params[parameter], r.timings[name].median * 1e3) for r in rows if name in r.timings]
        label = f"{name}, {parameter}^{exponents(rows, name)[1]}"
        colour, width = ("C0", 2.4) if name == "ours" else (colours.get(name, "C9"), 1.4)
        axes.plot(*zip(*points, strict=True), marker="o", ms=4, lw=width, color=colour, label=label)
    light = [(r.params[parameter], r.min_bytes / copy_rate * 1e3) for r in rows if r.min_bytes]
    if light:
        axes.plot(*zip(*light, strict=True), "k:", lw=1.2, label=LIGHT)
    axes.set(xscale="log", yscale="log", xlabel=parameter, ylabel="ms")
    threaded = f", {threads} thread" if rows[0].device == "cpu" else ""
    axes.set_title(f"against {parameter} ({fixed}{threaded})", fontsize=10)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8)


def chart_name(family: str, device: str) -> str:
    """The file of a family's chart."""
    return f"{family}_{device}.png"


def plot(results: Sequence[Result], copy_rate: float, folder: Path) -> list[Path]:
    """One chart a family, a panel a swept size: log axes, and the time that the bytes alone would take.

    A label ends in the exponent of the three largest sizes.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise RuntimeError("charts need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    written = []
    found = sweeps(results)
    for family in dict.fromkeys(key[0] for key in found):
        panels = [(key, rows) for key, rows in found.items() if key[0] == family]
        across = 1 if len(panels) == 1 else 2
        down = -(-len(panels) // across)
        size = (6.2 * across, 4 * down)
        figure, axes = plt.subplots(down, across, figsize=size, dpi=110, squeeze=False)
        for place in axes.flat[len(panels) :]:
            place.axis("off")
        for place, (key, rows) in zip(axes.flat, panels, strict=False):
            _draw(place, key, rows, copy_rate)
        device = panels[0][1][0].device
        figure.suptitle(f"{family} on {'a CPU' if device == 'cpu' else 'a card'}")
        figure.tight_layout()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / chart_name(family, device)
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)
        written.append(path)
    return written
