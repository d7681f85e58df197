"""What every benchmark shares: cases, timing on CPU and CUDA, the environment header.

A case is checked before it is timed. On the CPU the contestants take turns, so that a neighbour's load hits
all of them alike, and the ratio of medians in one run is what counts; p20 and p80 stand beside it. On a card
each contestant that can be captured is replayed as a CUDA graph over inputs that rotate through more than the
L2 cache; one that cannot (it reads a value on the host) is timed by events around eager calls, and says so.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import ssd_cuda

Run = Callable[[], Any]
L2_BYTES = 64 << 20  # more than the L2 of any card we know: H100 50 MB, H200 60 MB


@dataclass
class Contest:
    """Contestants on the same inputs.

    Attributes:
        ours: the fused op.
        baselines: name -> the same result by other means.
        check: raises unless ours and the baselines agree; runs before the clock does.
        min_bytes: bytes that must be moved: each input read once, each output written once. 0: not said.
    """

    ours: Run
    baselines: dict[str, Run] = field(default_factory=dict)
    check: Run | None = None
    min_bytes: int = 0


@dataclass(frozen=True)
class Case:
    """One line of a table.

    Attributes:
        family: the op family.
        name: what is measured, for people.
        params: the sizes, for plots and fits (B, P, C, G, N).
        make: device -> Contest; a fresh call gives fresh inputs of the same kind.
        sweep: the parameter that a scaling plot puts on its axis, or "".
    """

    family: str
    name: str
    params: dict[str, int]
    make: Callable[[torch.device], Contest]
    sweep: str = ""


@dataclass
class Timing:
    """Seconds of one call."""

    median: float
    p20: float
    p80: float
    calls: int
    how: str = "wall clock"

    @staticmethod
    def of(samples: list[float], calls: int, how: str = "wall clock") -> Timing:
        if len(samples) == 1:
            return Timing(samples[0], samples[0], samples[0], calls, how)
        cuts = statistics.quantiles(samples, n=5, method="inclusive")
        return Timing(statistics.median(samples), cuts[0], cuts[3], calls, how)


def _calls_for(run: Run, target: float) -> int:
    """How many calls take about ``target`` seconds, so that the clock's grain does not matter."""
    start = time.perf_counter()
    run()
    once = time.perf_counter() - start
    return max(1, min(10_000, int(target / max(once, 1e-7))))


def time_cpu(runs: dict[str, Run], *, rounds: int = 15, seconds: float = 4.0) -> dict[str, Timing]:
    """Median, p20 and p80 of each contestant; they take turns, and slow ones get fewer rounds."""
    calls = {}
    for name, run in runs.items():
        run()
        calls[name] = _calls_for(run, 2e-3)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    for turn in range(rounds):
        for name, run in runs.items():
            if turn >= 3 and spent[name] > seconds / len(runs):
                continue
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            took = time.perf_counter() - start
            spent[name] += took
            samples[name].append(took / calls[name])
    return {name: Timing.of(samples[name], calls[name]) for name in runs}


def _capture(runs: list[Run]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for run in runs:
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    return graph


def time_cuda(runs: list[Run], *, rounds: int = 30, warm: bool = False) -> Timing:
    """One contestant over rotating inputs (``runs`` do the same work on different buffers)."""
    runs = runs[:1] if warm else runs
    how = "graph replay, " + ("warm L2" if warm else f"{len(runs)} rotating inputs")
    try:
        graph = _capture(runs)
        replay = graph.replay
    except Exception:  # it waits for the card, or allocates in a way that a graph cannot hold
        torch.cuda.synchronize()
        how = how.replace("graph replay", "eager calls")

        def replay() -> None:
            for run in runs:
                run()

    for _ in range(3):
        replay()
    samples = []
    for _ in range(rounds):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop) * 1e-3 / len(runs))
    return Timing.of(samples, len(runs), how)


def copy_bandwidth(device: torch.device, size: int = 256 << 20) -> float:
    """Bytes per second (read + written) of a plain copy on this device, in this run."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    if device.type == "cuda":
        timing = time_cuda([lambda: target.copy_(source)])
    else:
        timing = time_cpu({"copy": lambda: target.copy_(source)}, seconds=1.0)["copy"]
    return 2 * size / timing.median


@dataclass
class Result:
    """A case, measured: one timing per contestant."""

    family: str
    name: str
    params: dict[str, int]
    sweep: str
    device: str
    threads: int
    timings: dict[str, Timing]
    min_bytes: int

    @property
    def speedups(self) -> dict[str, float]:
        ours = self.timings["ours"].median
        return {name: t.median / ours for name, t in self.timings.items() if name != "ours"}

    @property
    def contended(self) -> bool:
        """Whether the spread of ours says that something else wanted the cores."""
        ours = self.timings["ours"]
        return ours.p80 > 1.5 * ours.p20

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "speedups": self.speedups, "contended": self.contended}


def measure(
    case: Case,
    device: torch.device,
    *,
    threads: int = 1,
    against: Iterable[str] | None = None,
    seconds: float = 4.0,
) -> Result:
    """Check the case, then time it."""
    contest = case.make(device)
    if contest.check:
        contest.check()
    wanted = [name for name in contest.baselines if against is None or name in against]
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if device.type == "cuda":
            copies = min(16, 1 + L2_BYTES // max(contest.min_bytes, 1 << 20))
            contests = [contest, *(case.make(device) for _ in range(copies - 1))]
            timings = {"ours": time_cuda([c.ours for c in contests])}
            for name in wanted:
                timings[name] = time_cuda([c.baselines[name] for c in contests], rounds=10)
        else:
            runs = {"ours": contest.ours, **{name: contest.baselines[name] for name in wanted}}
            timings = time_cpu(runs, seconds=seconds)
    finally:
        torch.set_num_threads(previous)
    params = dict(case.params)
    return Result(
        case.family, case.name, params, case.sweep, device.type, threads, timings, contest.min_bytes
    )


def _shell(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """The conditions of a run: machine, card, versions, commit, build, and how busy the machine was."""
    build = ssd_cuda.build_info()
    header = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _shell("git", "rev-parse", "--short", "HEAD"),
        "build": {key: build[key] for key in ("torch_built_with", "cuda", "cuda_archs", "simd", "compiler")},
    }
    if torch.cuda.is_available():
        query = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm"
        header["gpu"] = _shell("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    return header
