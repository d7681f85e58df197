"""``make gpu-check``: what only a card can show, in ten minutes, ending in one table and one JSON file.

Stages: build, contract (no sync, graph capture), tests, sanitizer (memcheck, racecheck, synccheck, initcheck
over a reduced suite), bench. ``--stage`` runs one alone. Without a card it says so and exits with 3.
``--stub-gpu`` is a rehearsal for a machine without one: the same stages on the CPU, the sanitizer left out;
every line of its output and the JSON carry the word STUB, so that nobody takes it for a result.
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

from . import harness

ROOT = Path(__file__).parents[1]
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
# Small shapes of every family: each sanitizer slows a kernel down ten to a hundred times.
REDUCED = "tests/test_cuda_smoke.py"


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
    code, output = _run(command, limit)
    if code:
        print(output[-6000:])
    return Stage(name, code == 0, round(time.perf_counter() - start, 1), _last_line(output, pattern))


def build(stub: bool) -> list[Stage]:
    """The extension for this card's architecture."""
    if not stub:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "{}.{}".format(*torch.cuda.get_device_capability()))
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return [_stage("build", command, 180, r"ssd_cuda: torch")]


def tests(stub: bool) -> list[Stage]:
    """Every test that takes a device, on the card."""
    if stub:
        command = [sys.executable, "-m", "pytest", "tests/test_boxes.py"]
    else:
        command = [sys.executable, "-m", "pytest", "tests", "-m", "gpu"]
    return [_stage("tests", command, 240, r"passed|failed")]


def contract(stub: bool) -> list[Stage]:
    """No sync under set_sync_debug_mode("error"), capture and replay of the loss and of detect, same bits."""
    return [
        _stage(
            "contract",
            [sys.executable, "-m", "pytest", "tests/test_contract.py"],
            120,
            r"passed|failed",
        )
    ]


def sanitizer(stub: bool) -> list[Stage]:
    """compute-sanitizer's four tools over small shapes of every family."""
    if stub:
        return [Stage("sanitizer", True, 0.0, "left out: compute-sanitizer needs a card")]
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    found = []
    for kind in SANITIZERS:
        command = [tool, "--tool", kind, "--error-exitcode", "9", "--target-processes", "all"]
        command += [sys.executable, "-m", "pytest", REDUCED, "-x"]
        found.append(
            _stage(f"sanitizer {kind}", command, 120, r"ERROR SUMMARY|RACECHECK SUMMARY|passed|failed")
        )
    return found


def bench(stub: bool) -> list[Stage]:
    """Every family's cases with a cold L2, written beside the table."""
    device = "cpu" if stub else "cuda"
    target = ROOT / "benchmarks/results" / ("stub.json" if stub else "cuda.json")
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--device",
        device,
        "--threads",
        "1",
        "--json",
        str(target),
    ]
    if stub:
        command = [*command, "--quick", "--filter", "iou 7"]
    stage = _stage("bench", command, 240)
    stage.detail = f"wrote {target.relative_to(ROOT)}" if stage.passed else stage.detail
    return [stage]


STAGES: dict[str, Callable[[bool], list[Stage]]] = {
    "build": build,
    "contract": contract,
    "tests": tests,
    "sanitizer": sanitizer,
    "bench": bench,
}


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
    stages: list[Stage] = []
    for name in options.stage or STAGES:
        stages += STAGES[name](options.stub_gpu)
        print(table(stages[-1:], options.stub_gpu), flush=True)
    record = {
        "stub": options.stub_gpu,
        "environment": harness.environment(),
        "stages": [asdict(stage) for stage in stages],
    }
    target = ROOT / "benchmarks/results" / ("gpu_check_stub.json" if options.stub_gpu else "gpu_check.json")
    target.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{table(stages, options.stub_gpu)}\nwrote {target.relative_to(ROOT)}")
    return 0 if all(stage.passed for stage in stages) else 1


if __name__ == "__main__":
    sys.exit(main())
