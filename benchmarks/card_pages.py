"""What was measured on a card, for README and docs: whole steps; each op with its kernels, first and last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import report

FOLDER = Path(__file__).parent / "results"


def _load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())


def conditions(record: dict[str, Any]) -> str:
    """One sentence: card, driver, software, commit, the rate of a copy."""
    environment = record["environment"]
    card = environment["gpu"]
    note = f" ({record['note']})" if record.get("note") else ""
    return (
        f"{environment['date']}, one {card['card']}, driver {card['driver']}, torch {environment['torch']}, "
        f"commit {environment['commit']}{note}; a copy moves {record['copy_rate'] / 1e12:.2f} TB/s (read + "
        "written)."
    )


def some_steps() -> str:
    """The rows of the README."""
    return steps(("B=8 ", "B=32 "))


def steps(batches: tuple[str, ...] = ("",)) -> str:
    """Images per second of SSD300 with torchvision's own loss and post-process, and accelerated."""
    record = _load("steps_h200.json")
    lines = [
        "| H200, torchvision's ssd300_vgg16, fp32 | images/s before | accelerated | its core took | takes |",
        "|---|---|---|---|---|",
    ]
    for row in record["core_share"]:
        before, after = report.share_of(row)
        if before is None or not row["step"].startswith("ssd300_vgg16"):
            continue
        cells = [row["step"].removeprefix("ssd300_vgg16 ")]
        if not cells[0].startswith(batches):
            continue
        cells += [f"{part['images_per_second']:.0f}" for part in (before, after)]
        cells += [report.seconds(part["core_seconds"]) for part in (before, after)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + conditions(record) + " Eager, medians."


def kernels() -> str:
    """Every op as a CUDA graph with a cold L2, first and last, and its kernels of the last run."""
    first, last = _load("kernels_h200_first.json"), _load("kernels_h200_last.json")
    was = {(case["family"], case["name"]): case for case in first["cases"]}
    lines = [
        "| op | first run | last run | its bytes | kernels of the last run, us |",
        "|---|---|---|---|---|",
    ]
    for case in sorted(last["cases"], key=lambda case: (case["family"], case["name"])):
        parts = sorted(case["kernels"].items(), key=lambda item: -item[1]["seconds"])
        own = [
            f"{name.split('_kernel')[0].removeprefix('nms_')} {kernel['seconds'] * 1e6:.1f}"
            for name, kernel in parts
            if "_kernel" in name and "elementwise" not in name
        ]
        cells = [
            f"{case['family']}: {case['name']}",
            report.seconds(was[case["family"], case["name"]]["graph"]),
            report.seconds(case["graph"]),
            report.seconds(case["min_bytes"] / last["copy_rate"]),
            ", ".join(own),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\nFirst: {conditions(first)} Last: {conditions(last)}"


def _before_and_now(card: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """Every op as a CUDA graph in two runs, where it was in the first.

    No kernels' times: from its launch on a kernel that came early is counted, waiting as well.
    """
    was = {(case["family"], case["name"]): case for case in before["cases"]}
    lines = [f"| op, on an {card} | before | now | its bytes |", "|---|---|---|---|"]
    for case in sorted(now["cases"], key=lambda case: (case["family"], case["name"])):
        key = case["family"], case["name"]
        cells = [
            f"{case['family']}: {case['name']}",
            report.seconds(was[key]["graph"]) if key in was else "",
            report.seconds(case["graph"]),
            report.seconds(case["min_bytes"] / now["copy_rate"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\nBefore: {conditions(before)} Now: {conditions(now)}"


def runs_of_an_h100() -> str:
    """The first of its runs and the last."""
    return _before_and_now("H100", _load("kernels_h100_before.json"), _load("kernels_h100.json"))


def runs_of_an_h200() -> str:
    """Two runs of the fifth day."""
    return _before_and_now("H200", _load("kernels_h200_before.json"), _load("kernels_h200.json"))
