"""``make gpu-check``: what only a card can show, in ten minutes, ending in one table and one JSON file.

Stages: build, contract (no sync, graph capture), tests, bench (every case of a card, into results/cuda.json),
results (RESULTS.md and the README take it up), sanitizer (memcheck, racecheck, synccheck, initcheck over a
reduced suite). ``--stage`` runs one alone. The clock is shared: a stage gets what is left of the ten minutes
less what the later ones need, and the benchmarks measure the goals first and stop in time. Without a card it
says so and exits with 3. ``--stub-gpu`` is a rehearsal for a machine without one: the same stages on the CPU,
each of the card's cases once with one image, the sanitizer left out; every line of its output and the JSON
carry the word STUB, so that nobody takes it for a result.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from . import machine

ROOT = Path(__file__).parents[1]
BUDGET = 590.0  # seconds for all stages together
# What is kept for a stage while earlier ones run. The sum is the budget; bench gets whatever is left over.
LIMITS = {"build": 120, "contract": 40, "tests": 130, "bench": 160, "results": 20, "sanitizer": 120}
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
# Small shapes of every family: each sanitizer slows a kernel down ten to a hundred times.
REDUCED = "tests/test_cuda_smoke.py"
# The goals' families first: what the clock cuts off is the end.
FAMILIES = ("multibox", "detect", "mining", "matching", "nms", "end_to_end", "boxes", "priors", "compat")


@dataclass
class Stage:
    """One line of the final table."""

    name: str
    passed: bool
    seconds: float
    detail: str


def _run(command: Sequence[str], limit: float) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return 124, f"ran past {limit:.0f} s"
    return done.returncode, done.stdout + done.stderr


def _last_line(text: str, pattern: str = r"\S") -> str:
    lines = [line.strip() for line in text.splitlines() if re.search(pattern, line)]
    return lines[-1][:160] if lines else ""


def _stage(name: str, command: Sequence[str], limit: float, pattern: str = r"\S") -> Stage:
    start = time.perf_counter()
    code, output = _run([sys.executable, *command] if command[0] != _sanitizer() else command, limit)
    if code:
        print(output[-6000:])
    found = _last_line(output, pattern) or _last_line(output)  # the last word where there is no summary
    return Stage(name, code == 0, round(time.perf_counter() - start, 1), found)


def _sanitizer() -> str:
    return shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"


def build(stub: bool, limit: float) -> list[Stage]:
    """The extension for this card's architecture."""
    if not stub:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "{}.{}".format(*torch.cuda.get_device_capability()))
    return [_stage("build", ["setup.py", "build_ext", "--inplace"], limit, r"ssd_cuda: torch")]


def tests(stub: bool, limit: float) -> list[Stage]:
    """Every test that takes a device, on the card."""
    what = ["tests/test_boxes.py"] if stub else ["tests", "-m", "gpu"]
    return [_stage("tests", ["-m", "pytest", *what], limit, r"passed|failed")]


def contract(stub: bool, limit: float) -> list[Stage]:
    """No sync under set_sync_debug_mode("error"), capture and replay of the loss and of detect, same bits."""
    return [_stage("contract", ["-m", "pytest", "tests/test_contract.py"], limit, r"passed|failed")]


def target(stub: bool) -> Path:
    """Where the benchmarks of a card go; git ignores the rehearsal's."""
    return ROOT / "benchmarks/results" / ("stub.json" if stub else "cuda.json")


def bench(stub: bool, limit: float) -> list[Stage]:
    """Every case of a card with a cold L2; a few seconds of the limit are for the case in flight."""
    command = ["-m", "benchmarks", *FAMILIES, "--json", str(target(stub)), "--limit", str(limit - 25)]
    command += ["--stub-gpu"] if stub else ["--device", "cuda", "--seconds", "1"]
    start = time.time()
    stage = _stage("bench", command, limit)
    if target(stub).exists() and target(stub).stat().st_mtime > start:
        record = json.loads(target(stub).read_text())
        found = f"{len(record['results'])} cases"
        for what in ("failed", "left_out"):
            found += f", {len(record[what])} {what.replace('_', ' ')}" if record.get(what) else ""
        stage.detail = found if stage.passed else f"{found}, then: {stage.detail}"
    return [stage]


def results(stub: bool, limit: float) -> list[Stage]:
    """RESULTS.md, its charts and the README from the new file; a rehearsal only prints the page."""
    command = ["-m", "benchmarks.publish", *(["--rehearse", str(target(stub))] if stub else [])]
    return [_stage("results", command, limit, r"^## CUDA" if stub else r"drew|wrote")]


def sanitizer(stub: bool, limit: float) -> list[Stage]:
    """compute-sanitizer's four tools over small shapes of every family."""
    if stub:
        return [Stage("sanitizer", True, 0.0, "left out: compute-sanitizer needs a card")]
    found = []
    end = time.monotonic() + limit
    for kind in SANITIZERS:
        command = [_sanitizer(), "--tool", kind, "--error-exitcode", "9", "--target-processes", "all"]
        command += [sys.executable, "-m", "pytest", REDUCED, "-x"]
        pattern = r"ERROR SUMMARY|RACECHECK SUMMARY|passed|failed"
        found.append(_stage(f"sanitizer {kind}", command, max(10, end - time.monotonic()), pattern))
    return found


STAGES: dict[str, Callable[[bool, float], list[Stage]]] = {
    "build": build,
    "contract": contract,
    "tests": tests,
    "bench": bench,
    "results": results,
    "sanitizer": sanitizer,
}


def limits(names: Sequence[str], name: str, left: float) -> float:
    """Seconds for a stage: its own, and what earlier ones left over for the two that can use it."""
    later = sum(LIMITS[other] for other in names[list(names).index(name) + 1 :])
    return max(10.0, left - later if name in ("bench", "sanitizer") else LIMITS[name])


def table(stages: Sequence[Stage], stub: bool) -> str:
    """The short table at the end."""
    mark = "STUB " if stub else ""
    rows = [
        f"{mark}{s.name:<22} {'ok' if s.passed else 'FAILED':<7} {s.seconds:>6.1f} s  {s.detail}"
        for s in stages
    ]
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make gpu-check", description=__doc__)
    parser.add_argument("--stage", choices=tuple(STAGES), action="append", help="run this stage only")
    parser.add_argument("--stub-gpu", action="store_true", help="rehearse on the CPU; marks all output STUB")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not options.stub_gpu:
        print(
            "gpu-check: needs a CUDA card, and torch finds none (--stub-gpu rehearses the stages on the CPU)"
        )
        return 3
    names = options.stage or list(STAGES)
    end = time.monotonic() + BUDGET
    stages: list[Stage] = []
    for name in names:
        stages += STAGES[name](options.stub_gpu, limits(names, name, end - time.monotonic()))
        print(table(stages[-1:], options.stub_gpu), flush=True)
    record = {
        "stub": options.stub_gpu,
        "environment": machine.environment(),
        "stages": [asdict(stage) for stage in stages],
    }
    path = ROOT / "benchmarks/results" / ("gpu_check_stub.json" if options.stub_gpu else "gpu_check.json")
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{table(stages, options.stub_gpu)}\nwrote {path.relative_to(ROOT)}")
    return 0 if all(stage.passed for stage in stages) else 1


if __name__ == "__main__":
    sys.exit(main())
