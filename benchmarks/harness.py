"""What every benchmark shares: cases, timing on CPU and CUDA.

A case is checked before it is timed. On the CPU the contestants take turns, so that a neighbour's load hits
all of them alike, and the ratio of medians in one run is what counts; p20 and p80 stand beside it. On a card
each contestant that never waits for it is replayed as a CUDA graph over inputs that rotate through more than
the L2 cache; the others are timed by events around eager calls, and every timing says which. Ours is timed
there once more in eager mode and once more with a warm L2.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from .machine import BUSY, Neighbours

Run = Callable[[], Any]
L2_BYTES = 64 << 20  # where a card does not say: more than the L2 of an H100 (50 MB) or an H200 (60 MB)
MOST_COPIES = 64  # of the inputs, on a card
BASELINE_COPIES = 4  # a baseline moves more; and its calls may be slow
EAGER, WARM = "eager", "warm L2"  # ours once more, on a card only


@dataclass
class Contest:
    """Contestants on the same inputs.

    Attributes:
        ours: the fused op.
        baselines: name -> the same result by other means.
        check: raises unless ours and the baselines agree; runs before the clock does.
        min_bytes: bytes that must be moved: each input read once, each output written once. 0: not said.
        graphs: the contestants that never wait for a card, so that a CUDA graph can hold them.
        rotate: on a card, over as many inputs as fill the L2; False where one call sweeps it anyway.
    """

    ours: Run
    baselines: dict[str, Run] = field(default_factory=dict)
    check: Run | None = None
    min_bytes: int = 0
    graphs: Collection[str] = ("ours",)
    rotate: bool = True


@dataclass(frozen=True)
class Case:
    """One line of a table.

    Attributes:
        family: the op family.
        name: what is measured, for people.
        params: the sizes, for plots and fits (B, P, C, G, N).
        make: device -> Contest; a fresh call gives fresh inputs of the same kind.
        sweep: the parameter that a scaling plot puts on its axis, or "".
        against: the baselines that the contest may have; names of ``baselines.NAMES``.
        devices: where it is measured.
        threads: on a CPU, at which of the asked thread counts: "each", "first" or "last".
    """

    family: str
    name: str
    params: dict[str, int]
    make: Callable[[torch.device], Contest]
    sweep: str = ""
    against: Collection[str] = ()
    devices: Collection[str] = ("cpu", "cuda")
    threads: str = "each"

    def counts(self, threads: Sequence[int]) -> Sequence[int]:
        """The thread counts of this case; a sweep is about its slope, so the first is enough."""
        if self.sweep or self.threads == "first":
            return threads[:1]
        return threads[-1:] if self.threads == "last" else threads

    @property
    def late(self) -> int:
        """Cases run in this order: named sizes, scaling, what takes a minute to compile."""
        return 2 if any("compile" in name for name in self.against) else 1 if self.sweep else 0

    def rehearsal(self) -> Case:
        """The same with one image, for a machine without the card that it is meant for."""
        if not isinstance(self.make, functools.partial) or "b" not in self.make.keywords:
            return self
        return replace(self, make=functools.partial(self.make.func, **{**self.make.keywords, "b": 1}))


@dataclass
class Timing:
    """Seconds of one call."""

    median: float
    p20: float
    p80: float
    calls: int
    how: str = "wall clock"
    memory: int = 0  # bytes that one call allocates at its peak; 0: not known (CPU)

    @staticmethod
    def of(samples: list[float], calls: int, how: str = "wall clock") -> Timing:
        if len(samples) == 1:
            return Timing(samples[0], samples[0], samples[0], calls, how)
        cuts = statistics.quantiles(samples, n=5, method="inclusive")
        return Timing(statistics.median(samples), cuts[0], cuts[3], calls, how)


def time_cpu(runs: dict[str, Run], *, rounds: int = 15, seconds: float = 4.0) -> dict[str, Timing]:
    """Median, p20 and p80 of each contestant; they take turns, and slow ones get fewer rounds.

    A turn makes as many calls as take 2 ms, so that the clock's grain does not matter.
    """
    calls: dict[str, int] = {}
    samples: dict[str, list[float]] = {}
    for name, run in runs.items():
        run()
        start = time.perf_counter()
        run()
        once = time.perf_counter() - start
        calls[name] = max(1, min(10_000, int(2e-3 / max(once, 1e-7))))
        samples[name] = [once] if once > 0.1 else []  # of a slow contestant every call counts
    spent = {name: sum(taken) for name, taken in samples.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            if len(samples[name]) >= 3 and spent[name] > seconds / len(runs):
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


def watched_call(run: Run) -> tuple[float, int]:
    """Seconds of one call, and the bytes that it allocates at its peak, beyond its inputs."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() - before


def _l2_bytes() -> int:
    return getattr(torch.cuda.get_device_properties("cuda"), "L2_cache_size", 0) or L2_BYTES


def time_cuda(
    runs: list[Run], *, graph: bool, size: int = 0, rounds: int = 30, seconds: float = 2.0
) -> Timing:
    """One contestant over rotating inputs (``runs`` do the same work on different buffers).

    One of whose calls takes longer than ``seconds`` is timed by the next call, and that is all. ``size`` is
    what a call moves, in bytes: where all the inputs fit the L2, the timing says so; 0: nothing is known.
    """
    watched_call(runs[0])  # loads the kernels
    once, memory = watched_call(runs[0])
    if once > seconds:
        return replace(Timing.of([once], 1, "eager, one call"), memory=memory)
    runs = runs[: max(1, int(seconds / (4 * once)))]  # a slow one takes about three times ``seconds``
    how = "one input" if len(runs) == 1 else f"{len(runs)} inputs"
    if 0 < len(runs) * size < _l2_bytes() and len(runs) > 1:
        how += " that fit the L2"

    def replay() -> None:
        for run in runs:
            run()

    if graph:
        try:
            replay, how = _capture(runs).replay, "graph, " + how
        except Exception as error:  # a broken promise: said in the table, and measured all the same
            torch.cuda.synchronize()
            how = f"eager since {type(error).__name__} in the capture, " + how
    else:
        how = "eager, " + how
    for _ in range(3):
        replay()
    torch.cuda.synchronize()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 3 or (len(samples) < rounds and time.perf_counter() < end):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop) * 1e-3 / len(runs))
    return replace(Timing.of(samples, len(runs), how), memory=memory)


def time_stub(runs: dict[str, Run]) -> dict[str, Timing]:
    """One call on the CPU in place of a card's timing; it names itself.

    Left out: torchvision's half precision, which its CPU code lacks, and compilers, which take minutes.
    """
    timings = {}
    for name, run in runs.items():
        if "compile" in name:
            continue
        start = time.perf_counter()
        try:
            run()
        except RuntimeError as error:
            if name == "ours" or "not implemented for 'Half'" not in str(error):
                raise
            continue
        timings[name] = Timing.of([time.perf_counter() - start], 1, "STUB: one call on the CPU")
    return timings


def copy_bandwidth(device: torch.device, size: int = 256 << 20) -> float:
    """Bytes per second (read + written) of a plain copy on this device, in this run."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    if device.type == "cuda":
        timing = time_cuda([lambda: target.copy_(source)], graph=True)
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
    others: float = 0.0  # share of the cores that other processes took meanwhile

    @property
    def speedups(self) -> dict[str, float]:
        ours = self.timings["ours"].median
        return {name: t.median / ours for name, t in self.timings.items() if name != "ours"}

    @property
    def contended(self) -> bool:
        """Whether something else wanted the cores: it was seen there, or the spread of ours says so.

        Two threads beside a busy neighbour are slow in every round alike, so the spread is not enough.
        """
        ours = self.timings["ours"]
        return self.others > BUSY or ours.p80 > 1.5 * ours.p20

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "speedups": self.speedups, "contended": self.contended}


def copies_of(contest: Contest, l2_bytes: int) -> int:
    """How many inputs push each other out of the L2, as far as that many are sensible."""
    if not contest.rotate:
        return 1
    if not contest.min_bytes:  # nobody said, so nobody may say that they are cold
        return BASELINE_COPIES
    return min(MOST_COPIES, 1 + l2_bytes // contest.min_bytes)


def _on_card(case: Case, contest: Contest, names: Sequence[str], seconds: float) -> dict[str, Timing]:
    device = torch.device("cuda")
    copies, size = copies_of(contest, _l2_bytes()), contest.min_bytes
    contests = [contest, *(case.make(device) for _ in range(copies - 1))]
    ours = [c.ours for c in contests]
    captured = "ours" in contest.graphs
    timings = {"ours": time_cuda(ours, graph=captured, size=size, seconds=seconds / 2)}
    if captured:
        timings[EAGER] = time_cuda(ours, graph=False, size=size, seconds=seconds / 4)
    if copies > 1:
        timings[WARM] = time_cuda(ours[:1], graph=captured, seconds=seconds / 4)
    for name in names:
        runs = [c.baselines[name] for c in contests[:BASELINE_COPIES]]
        graph = name in contest.graphs
        try:
            timings[name] = time_cuda(runs, graph=graph, size=size, rounds=10, seconds=seconds / 4)
        except torch.OutOfMemoryError:
            timings["ours"].how += f"; {name} runs out of memory"
    return timings


def measure(
    case: Case,
    device: torch.device,
    *,
    threads: Sequence[int] = (1,),
    against: Collection[str] | None = None,
    seconds: float = 4.0,
    stub: bool = False,
) -> list[Result]:
    """Check the case, then time it: one result a thread count of the CPU, one on a card.

    ``stub`` takes a CPU for the card: one image, one call, timings that say so.
    """
    contest = case.rehearsal().make(torch.device("cpu")) if stub else case.make(device)
    unknown = set(contest.baselines) - set(case.against)
    if unknown:
        raise ValueError(f"against of {case.family} {case.name!r} must name {sorted(unknown)}")
    if contest.check:
        contest.check()
    names = [name for name in contest.baselines if against is None or name in against]
    runs = {"ours": contest.ours, **{name: contest.baselines[name] for name in names}}
    timed: dict[int, dict[str, Timing]] = {}
    others: dict[int, float] = {}
    if stub:
        timed[1] = time_stub(runs)
    elif device.type == "cuda":
        timed[1] = _on_card(case, contest, names, seconds)
    else:
        previous = torch.get_num_threads()
        try:
            for count in case.counts(threads):
                torch.set_num_threads(count)
                neighbours = Neighbours()
                timed[count] = time_cpu(runs, seconds=seconds)
                others[count] = round(neighbours.share(), 3)
        finally:
            torch.set_num_threads(previous)
    facts = (case.family, case.name, dict(case.params), case.sweep, device.type)
    return [
        Result(*facts, count, timings, contest.min_bytes, others.get(count, 0.0))
        for count, timings in timed.items()
    ]
