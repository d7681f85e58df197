"""``make results``: RESULTS.md, its charts, the figures of README and docs, from benchmarks/results/*.json.

Every figure carries the conditions of its file. ``--check`` says whether the texts agree with the files; a
test runs it. ``--rehearse FILE`` prints the page that a card's FILE would give, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import card_pages, report, runtimes, scaling
from .harness import Result, Timing

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks/results"
TITLES = {"cpu": "CPU", "cuda": "CUDA"}
# The lines of the README: what a reader calls it, the family, the case, and the contestant beside ours.
README_LINES = (
    ("matching + loss, forward + backward, B = 32, C = 21", "multibox", "loss B=32 C=21", "torchvision"),
    ("matching + loss, forward + backward, B = 32, C = 91", "multibox", "loss B=32 C=91", "torchvision"),
    ("the seed's loss on ready targets, B = 32, C = 21", "multibox", "seed B=32 C=21", "seed"),
    ("matching, B = 32, 7 boxes an image", "matching", "B=32, 7 GT an image", "torchvision"),
    ("post-process, trained, B = 8, C = 91", "detect", "trained B=8 C=91", "torchvision"),
    ("post-process, before training, B = 8, C = 91", "detect", "fresh B=8 C=91", "torchvision"),
    ("nms, 5,000 sparse boxes", "nms", "nms sparse N=5000", "torchvision"),
    ("nms, 20,000 sparse boxes", "nms", "nms sparse N=20000", "torchvision"),
    ("nms, 20,000 dense boxes", "nms", "nms dense N=20000", "torchvision"),
    ("batched nms, 20 classes, 20,000 boxes", "nms", "batched_nms 20 classes dense N=20000", "torchvision"),
)
HEADLINE = ("multibox", "loss B=32 C=91", "torchvision")
# What a card should reach: family, case, seconds, or times of what its bytes take at a copy's rate.
GOALS: tuple[tuple[str, str, float | None, float | None], ...] = (
    ("multibox", "loss B=32 C=81", None, 1.25),
    ("multibox", "loss B=32 C=81, fp16", None, 1.25),
    ("detect", "trained B=32 C=81", 48e-6, None),
    ("detect", "trained B=32 C=81, fp16", 28e-6, None),
    ("mining", "B=32 P=8732, trained keys", 6e-6, None),
    ("matching", "B=32, 7 GT an image", 5e-6, None),
    ("matching", "B=32, 100 GT an image", 20e-6, None),
    ("nms", "nms_padded dense N=100000", 800e-6, None),
)
# How the rows begin that stand on the README.
SHORT = (
    "| matching + loss, forward + backward, B = 32, C = 91",
    "| post-process, trained",
    "| nms, 20,000 sparse",
)
# The README's rows of exponents: what a reader calls a family, and the columns.
GROWTH = {
    "multibox": "matching + loss, forward + backward",
    "matching": "matching",
    "mining": "hard-negative mining",
    "detect": "post-process",
    "nms": "nms",
}
GROWTH_SIZES = ("B", "P", "C", "G", "k", "candidates", "N")


def load(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """One file: its record, and the results as objects."""
    record = json.loads(path.read_text())
    if record.get("stub") and path.parent == FOLDER and path.name in {f"{name}.json" for name in TITLES}:
        raise ValueError(f"{path.name} must hold results, and it is a rehearsal; delete it")
    results = []
    for row in record["results"]:
        timings = {name: Timing(**timing) for name, timing in row["timings"].items()}
        fields = ("family", "name", "params", "sweep", "device", "threads", "min_bytes")
        facts = {key: row[key] for key in fields}
        results.append(Result(**facts, timings=timings, others=row.get("others", 0.0)))
    return record, results


def files() -> list[Path]:
    """The measured files, CPU first."""
    return [path for name in TITLES if (path := FOLDER / f"{name}.json").exists()]


def _family(record: dict[str, Any], results: Sequence[Result], family: str) -> str:
    """One family's table, its sweeps, its chart."""
    own = [result for result in results if result.family == family]
    parts = [f"### {family}\n", report.table(own, record["copy_rate"])]
    growth = scaling.tables(own, record["copy_rate"], family)
    if growth:
        chart = f"results/{scaling.chart_name(family, record['device'])}"
        parts.append(f"{growth}\n![{family} on log axes, with the time that its bytes take]({chart})\n")
    return "\n".join(part for part in parts if part)


def goals(record: dict[str, Any], results: Sequence[Result]) -> str:
    """A card's figures beside what was aimed at."""
    lines = ["| goal | aimed at | measured | |", "|---|---|---|---|"]
    for family, name, limit, times in GOALS:
        found = _find(results, family, name)
        if found is None:
            continue
        if limit is None:
            limit = (times or 1) * found.min_bytes / record["copy_rate"]
        median = found.timings["ours"].median
        verdict = "met" if median <= limit else f"{median / limit:.1f} times"
        cells = (f"{family}: {name}", report.seconds(limit), report.seconds(median), verdict)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _whole_steps(record: dict[str, Any]) -> str:
    """What the core is of a step, and what a step asks of the host."""
    parts = []
    if record.get("core_share"):
        parts.append(
            "### The core's share of a step\n\nThe core is what stands between the raw predictions "
            "and the loss with its gradient, or the boxes. Before: torchvision's own code; of ssd_small, "
            "which is ours, the plain PyTorch reference. The logits are those of a trained head "
            "unless a line says untrained.\n"
        )
        parts.append(report.shares(record["core_share"]))
        if record["device"] == "cuda":
            parts.append(f"The seed's table gives SSD300 {report.SEED_FPS} images per second.\n")
    if record.get("host_work"):
        parts.append(
            "### What a step asks of the host\n\nSSDlite320, counted on a CPU; the waits that remain are "
            "those of torchvision's image transform.\n"
        )
        parts.append(report.host_work(record["host_work"]))
    return "\n".join(parts)


def section(record: dict[str, Any], results: Sequence[Result]) -> str:
    """One file's part of RESULTS.md."""
    parts = [f"## {TITLES[record['device']]}\n", report.conditions(record) + "\n"]
    if record["device"] == "cuda" and (text := goals(record, results)):
        parts.append("### Goals\n\n" + text)
    parts += [_family(record, results, name) for name in dict.fromkeys(r.family for r in results)]
    parts.append(_whole_steps(record))
    for name, reason in record.get("failed", {}).items():
        parts.append(f"Failed: {name} ({reason}).\n")
    if record.get("left_out"):
        parts.append("Left out, the time was up: " + "; ".join(record["left_out"]) + ".\n")
    return "\n".join(part for part in parts if part)


def results_page(paths: Sequence[Path] | None = None) -> str:
    """RESULTS.md: every case of every file under its conditions, by family, with its sweeps and chart."""
    parts = [
        "# Results\n",
        "Generated by `make results` from the files in `benchmarks/results`. *busy* beside a spread means "
        "that others took over a tenth of the cores, or that p80 was more than 1.5 times p20. A sweep's last "
        "two columns are fitted exponents, time ~ size^x, over all sizes and over the three largest; a "
        "contestant without a figure would have taken seconds for one call there.\n",
    ]
    devices = []
    for path in files() if paths is None else paths:
        record, results = load(path)
        devices.append(record["device"])
        parts.append(section(record, results))
    if "cuda" not in devices:
        parts.append("## CUDA\n")
        parts.append(
            "Not every case was measured on a card yet: `make gpu-check` on a machine with one does it. What "
            "was:\n"
        )
        parts += [card_pages.steps() + "\n", card_pages.kernels() + "\n"]
    return "\n".join(parts)


def _find(results: Sequence[Result], family: str, name: str, threads: int = 1) -> Result | None:
    found = [r for r in results if (r.family, r.name, r.threads) == (family, name, threads)]
    return found[0] if found else None


def _need(results: Sequence[Result], family: str, name: str, other: str) -> Result:
    """A case that the README names."""
    found = _find(results, family, name)
    if found is None or other not in found.timings:
        raise ValueError(f"cpu.json must hold {family} {name!r} against {other}: run 'make measure'")
    return found


def readme_table() -> str:
    """The README's table of ratios, one thread and two."""
    lines = ["| CPU | ours | the other | times faster, 1 thread | 2 threads |", "|---|---|---|---|---|"]
    record, results = load(FOLDER / "cpu.json")
    for title, family, name, other in README_LINES:
        one, two = _need(results, family, name, other), _find(results, family, name, 2)
        both = f"{two.speedups[other]:.1f}" if two and other in two.timings else ""
        lines.append(
            f"| {title} | {report.seconds(one.timings['ours'].median)} | {other} "
            f"{report.seconds(one.timings[other].median)} | {one.speedups[other]:.1f} | {both} |"
        )
    return "\n".join(lines) + "\n\n" + report.conditions(record)


def numbers_table() -> str:
    """The same and, once they were measured, the goals on a card."""
    return readme_table() + readme_card()


def short_table() -> str:
    """Its first rows, for a first screen; the conditions are the same."""
    lines = readme_table().splitlines()
    return "\n".join([*lines[:2], *(line for line in lines[2:] if line.startswith(SHORT)), "", lines[-1]])


def readme_card() -> str:
    """The goals on a card, once one was measured."""
    path = FOLDER / "cuda.json"
    if not path.exists():
        return ""
    record, results = load(path)
    return f"\n\n{goals(record, results)}\n{report.conditions(record)}"


def readme_growth() -> str:
    """The exponents of ours, a row a family: the steepest of its sweeps over each size."""
    record, results = load(FOLDER / "cpu.json")
    steepest: dict[tuple[str, str], float] = {}
    ends: dict[str, list[int]] = {}
    for (family, _, size, _), rows in scaling.sweeps(results).items():
        if family not in GROWTH:
            continue
        steepest[family, size] = max(steepest.get((family, size), -9.0), scaling.slope(rows, tail=True))
        ends.setdefault(size, []).extend(row.params[size] for row in rows)
    columns = [size for size in GROWTH_SIZES if size in ends]
    lines = ["| time grows with | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for family, title in GROWTH.items():
        cells = [
            f"{size}^{steepest[family, size]:.2f}" if (family, size) in steepest else "" for size in columns
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    ranges = ", ".join(f"{size} {min(ends[size]):,} to {max(ends[size]):,}" for size in columns)
    return "\n".join(lines) + (
        "\n\nFitted over the three largest sizes of each sweep, one thread of an "
        f"{record['environment']['cpu']}: {ranges}. G: ground truths an image, k: negatives selected in a "
        "row."
    )


def readme_share() -> str:
    """What of a step the core was and is, in one sentence a step."""
    record, _ = load(FOLDER / "cpu.json")
    lines = []
    for row in record.get("core_share", []):
        before, after = report.share_of(row)
        if before is None or "core_share" not in before or "untrained" in row["step"]:
            continue
        speeds = (f"{part['images_per_second']:.3g}" for part in (before, after))
        parts = (report.percent(part["core_share"]) for part in (before, after))
        lines.append("| " + " | ".join([row["step"], *speeds, *parts]) + " |")
    if not lines:
        return "Not measured yet."
    head = ["| step | images/s before | after | the core was | is |", "|---|---|---|---|---|"]
    return "\n".join(head + lines)


def readme_headline() -> str:
    """One sentence, one figure, its conditions."""
    family, name, other = HEADLINE
    record, results = load(FOLDER / "cpu.json")
    found = _need(results, family, name, other)
    machine = record["environment"]["cpu"]
    ours, theirs = (report.seconds(found.timings[who].median) for who in ("ours", other))
    return (
        f"**{found.speedups[other]:.0f} times as fast as torchvision's loss** (matching + loss, forward + "
        f"backward, 32 images, 91 classes: {ours} against {theirs}; one core of an {machine}, torch "
        f"{record['environment']['torch']}, medians of one run)."
    )


def readme_compat() -> str:
    """What the preset of each codebase saves against its own rule in plain PyTorch."""
    record, results = load(FOLDER / "cpu.json")
    lines = ["| rule | ours | its own rule in PyTorch | times faster |", "|---|---|---|---|"]
    for result in results:
        if result.family == "compat" and result.threads == 1:
            (other,) = (name for name in result.timings if name != "ours")
            ours, theirs = (result.timings[who].median for who in ("ours", other))
            cells = (result.name, report.seconds(ours), report.seconds(theirs), f"{theirs / ours:.1f}")
            lines.append("| " + " | ".join(cells) + " |")
    machine = record["environment"]["cpu"]
    return "\n".join(lines) + f"\n\n21 classes (retinaface 2), 8732 priors, 1 thread; {machine}."


def deploy_runtimes() -> str:
    """What an image costs in each runtime."""
    record = json.loads((FOLDER / "runtimes.json").read_text())
    return f"{runtimes.table(record['results'])}\n\n{runtimes.conditions(record)}"


def host_work() -> str:
    """What a step asks of the host, as it was counted on the CPU."""
    record, _ = load(FOLDER / "cpu.json")
    return report.host_work(record["host_work"]).rstrip() if record.get("host_work") else "Not counted yet."


# Block -> what it holds; a page holds some of them.
BLOCKS = {
    "headline": readme_headline,
    "short": short_table,
    "table": numbers_table,
    "card": card_pages.some_steps,
    "steps": card_pages.steps,
    "kernels": card_pages.kernels,
    "h100": card_pages.runs_of_an_h100,
    "h200": card_pages.runs_of_an_h200,
    "growth": readme_growth,
    "share": readme_share,
    "compat": readme_compat,
    "host": host_work,
    "runtimes": deploy_runtimes,
}
PAGES = {
    "README.md": ("headline", "short", "card"),
    "docs/numbers.md": ("table", "steps", "kernels", "h100", "h200", "compat", "growth", "share", "host"),
    "docs/deploy.md": ("runtimes",),
}


def fill(name: str, text: str | None = None) -> str:
    """The page of that name, or its text as given, with its marked blocks filled in."""
    text = (ROOT / name).read_text() if text is None else text
    for block in PAGES[name]:
        pattern = rf"(<!-- results:{block} -->\n).*?(<!-- /results:{block} -->)"
        if not re.search(pattern, text, re.S):
            raise ValueError(f"{name} must hold a block results:{block}, found none")
        body = BLOCKS[block]()
        text = re.sub(pattern, lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text, flags=re.S)
    return text


def draw() -> list[Path]:
    """The charts of every file; those that no file has any more go away."""
    drawn = []
    for path in files():
        record, results = load(path)
        drawn += scaling.plot(results, record["copy_rate"], FOLDER)
    for path in set(FOLDER.glob("*.png")) - set(drawn):
        path.unlink()
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make results", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a text disagrees")
    parser.add_argument("--rehearse", type=Path, metavar="FILE", help="print the page with a card's FILE")
    options = parser.parse_args(arguments)
    if options.rehearse:
        print(results_page([FOLDER / "cpu.json", options.rehearse]))
        return 0
    wanted = {ROOT / "benchmarks/RESULTS.md": results_page(), **{ROOT / name: fill(name) for name in PAGES}}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if options.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} disagrees with benchmarks/results: run 'make results'")
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path])
        print("wrote", path.relative_to(ROOT))
    try:
        print("drew", ", ".join(path.name for path in draw()))
    except RuntimeError as error:
        print(f"left the charts as they are: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
