"""Tables of measured cases."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .harness import EAGER, WARM, Result, Timing
from .machine import BUSY

SEED_FPS = 46  # images per second of SSD300 in the seed's table


def save(record: dict[str, Any], path: Path) -> None:
    """A JSON file that is whole at any moment: a run that is killed while it writes leaves the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, path)


def seconds(value: float) -> str:
    """A time with a unit that a reader takes in at once."""
    if value >= 1:
        return f"{value:.2f} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} us"


def _memory(timing: Timing) -> str:
    return f"{timing.memory / 1e6:.1f} MB" if timing.memory else ""


def _others(result: Result) -> str:
    """The other contestants, with their memory where it is known."""
    cells = []
    for name, ratio in result.speedups.items():
        timing = result.timings[name]
        facts = ", ".join(fact for fact in (f"{ratio:.1f}x", _memory(timing)) if fact)
        cells.append(f"{name} {seconds(timing.median)} ({facts})")
    return ", ".join(cells)


def row(result: Result, copy_rate: float) -> list[str]:
    """One line: case, how (threads, or how a card was timed), ours, bandwidth reached, the others' ratios."""
    ours = result.timings["ours"]
    reached = result.min_bytes / ours.median if result.min_bytes else 0.0
    share = f"{100 * reached / copy_rate:.0f}%" if reached else ""
    spread = f"{seconds(ours.p20)}..{seconds(ours.p80)}" + (" busy" if result.contended else "")
    how = [str(result.threads)]
    if result.device != "cpu":
        how = [ours.how, _memory(ours)]
    return [result.name, *how, seconds(ours.median), spread, share, _others(result)]


HEADERS = {
    "cpu": ["case", "threads", "ours (median)", "p20..p80", "of a copy", "others (times ours)"],
    "cuda": ["case", "how", "memory", "ours (median)", "p20..p80", "of a copy", "others (times ours)"],
}


def table(results: Sequence[Result], copy_rate: float) -> str:
    """The named cases of one family; the swept ones stand in scaling.tables."""
    named = [result for result in results if not result.sweep]
    if not named:
        return ""
    header = HEADERS["cpu" if named[0].device == "cpu" else "cuda"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    lines += ["| " + " | ".join(row(result, copy_rate)) + " |" for result in named]
    return "\n".join(lines) + "\n"


def markdown(results: Sequence[Result], copy_rate: float) -> str:
    """A table per family."""
    parts = []
    for family in dict.fromkeys(result.family for result in results):
        text = table([result for result in results if result.family == family], copy_rate)
        parts.append(f"### {family}\n\n{text}" if text else "")
    return "\n".join(part for part in parts if part)


def busy(record: dict[str, Any]) -> str:
    """How many of the measurements others disturbed, where these are more than a few; else nothing."""
    rows = record.get("results", [])
    disturbed = sum(row.get("others", 0.0) > BUSY for row in rows)
    if disturbed <= 0.02 * len(rows):
        return ""
    return f"other processes took over {BUSY:.0%} of the cores in {disturbed} of {len(rows)} measurements"


def conditions(record: dict[str, Any]) -> str:
    """One paragraph that says where and how the figures came about."""
    environment = record["environment"]
    build = environment["build"]
    machine = f"{environment['cpu']}, {environment['cores']} cores"
    if record["device"] == "cuda":
        card = environment.get("gpu") or {}
        machine = card if isinstance(card, str) else ", ".join(f"{k} {v}" for k, v in card.items())
    stub = "STUB, a rehearsal on the CPU and no result: " if record.get("stub") else ""
    neighbours = busy(record)
    archs = ", ".join(build["cuda_archs"]) or "no card"
    return (
        f"{stub}{environment['date']}, {machine}, Python {environment['python']}, torch "
        f"{environment['torch']}, commit {environment['commit']}, compiler {build['compiler']}, SIMD "
        f"{build['simd']}, CUDA {build['cuda'] or 'none'} for {archs}; load "
        f"{environment['load']} at the start; a copy moves {record['copy_rate'] / 1e9:.1f} GB/s (read + "
        "written). Medians; contestants take turns in one run."
        + (f" **Not a quiet machine: {neighbours}.**" if neighbours else "")
    )


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


CORE = ", core"  # the end of the name of the case beside its step
ALSO_OURS = (EAGER, WARM)


def core_share(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Images per second of a step, and the part of it that is the core, before and after: from the pairs of
    a step and its core in one run. Before is the baseline of the step; a step may have no core beside it."""
    whole = {result.name: result for result in results if result.family == "end_to_end"}
    rows = []
    for name, step in whole.items():
        if name.endswith(CORE):
            continue
        core = whole.get(name + CORE)
        row: dict[str, Any] = {"step": name, "device": step.device, "B": step.params["B"]}
        for label, timing in step.timings.items():
            if label in ALSO_OURS:
                continue
            row[label] = {"images_per_second": step.params["B"] / timing.median}
            if core is not None and label in core.timings:
                part = core.timings[label].median
                row[label] |= {"core_seconds": part, "core_share": part / timing.median}
        rows.append(row)
    return rows


def share_of(row: dict[str, Any]) -> tuple[dict[str, float] | None, dict[str, float]]:
    """(before, after) of one row of ``core_share``."""
    before = [value for key, value in row.items() if isinstance(value, dict) and key != "ours"]
    return (before[0] if before else None), row["ours"]


def percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"


def shares(rows: Sequence[dict[str, Any]]) -> str:
    """The table of ``core_share``; on a card also as multiples of the seed's figure for SSD300."""
    card = any(row.get("device") == "cuda" for row in rows)
    header = ["step", "images/s before", "after", "its core before", "share", "after", "share"]
    header += [f"after, times {SEED_FPS}"] * card
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        before, after = share_of(row)
        parts = [before or {}, after]
        cells = [f"{part['images_per_second']:.3g}" if part else "" for part in parts]
        for part in parts:
            known = "core_share" in part
            cells += [seconds(part["core_seconds"]), percent(part["core_share"])] if known else ["", ""]
        if card:
            same = "ssd300" in row["step"]
            cells.append(f"{after['images_per_second'] / SEED_FPS:.3g}" if same else "")
        lines.append("| " + " | ".join([row["step"], *cells]) + " |")
    return "\n".join(lines) + "\n"
