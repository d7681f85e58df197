"""The timing of a card, driven by a stand-in for torch.cuda: what no machine without one would run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import harness, kernel_times, machine, publish
from benchmarks.__main__ import cases
from benchmarks.harness import Case, Contest

CARD = torch.device("cuda")


class Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return (other.at - self.at) * 1e3


class Graph:
    """Replays what ran while it was captured: a stand-in's kernels are plain calls."""

    replayed = 0

    def replay(self) -> None:
        Graph.replayed += 1


@pytest.fixture
def card(monkeypatch):
    """A card of 1 MB of L2 on which a call allocates 3 MB."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = dict(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda s: contextlib.nullcontext(),
        CUDAGraph=Graph,
        graph=lambda g: contextlib.nullcontext(),
        Event=Event,
        synchronize=lambda: None,
        reset_peak_memory_stats=lambda: None,
        memory_allocated=lambda: 1_000_000,
        max_memory_allocated=lambda: 4_000_000,
        get_device_properties=lambda device: SimpleNamespace(L2_cache_size=1 << 20),
    )
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(Graph, "replayed", 0)


def case(contest: dict, **options) -> tuple[Case, list[int]]:
    """A case, and the number of the inputs that every call took."""
    calls: list[int] = []
    made = iter(range(1000))

    def make(device: torch.device) -> Contest:
        number = next(made)
        runs = {name: (lambda run=run: run(number, calls)) for name, run in contest.items()}
        return Contest(runs.pop("ours"), runs, **options)

    return Case("toy", "case", {}, make, against=[name for name in contest if name != "ours"]), calls


def ours(number: int, calls: list[int]) -> None:
    calls.append(number)


def test_a_captured_contestant_is_replayed_eager_and_warm(card):
    toy, calls = case({"ours": ours, "sort": lambda number, calls: None}, min_bytes=1 << 19)
    (found,) = harness.measure(toy, CARD, seconds=0.2)
    assert found.device == "cuda" and list(found.timings) == ["ours", harness.EAGER, harness.WARM, "sort"]
    assert found.timings["ours"].how == "graph, 3 inputs" and Graph.replayed > 6
    assert found.timings[harness.EAGER].how == "eager, 3 inputs"
    assert found.timings[harness.WARM].how == "graph, one input"
    assert found.timings["sort"].how == "eager, 3 inputs"
    assert {0, 1, 2} == set(calls)
    assert all(timing.memory == 3_000_000 and timing.median >= 0 for timing in found.timings.values())


def test_small_inputs_are_many_and_say_so_where_they_still_fit(card):
    toy, calls = case({"ours": ours, "sort": ours}, min_bytes=1 << 10)
    (found,) = harness.measure(toy, CARD, seconds=0.2)
    assert found.timings["ours"].how == f"graph, {harness.MOST_COPIES} inputs that fit the L2"
    assert found.timings["sort"].how == f"eager, {harness.BASELINE_COPIES} inputs that fit the L2"
    assert set(calls) == set(range(harness.MOST_COPIES))


def test_bytes_that_nobody_told_are_neither_cold_nor_warm(card):
    toy, calls = case({"ours": ours}, min_bytes=0)
    (found,) = harness.measure(toy, CARD, seconds=0.2)
    assert found.timings["ours"].how == f"graph, {harness.BASELINE_COPIES} inputs" and len(set(calls)) == 4


def test_of_a_slow_contestant_fewer_inputs_rotate(card):
    toy, calls = case(
        {"ours": lambda number, calls: (calls.append(number), time.sleep(0.02))}, min_bytes=1 << 10
    )
    (found,) = harness.measure(toy, CARD, seconds=0.4)
    assert "graph, 2 inputs" in found.timings["ours"].how and set(calls) <= {0, 1, 2}


def test_a_slow_contestant_is_called_twice(card):
    slow: list[int] = []

    def sleeps(number: int, calls: list[int]) -> None:
        slow.append(number)
        time.sleep(0.1)

    toy, _ = case({"ours": ours, "torchvision": sleeps}, min_bytes=1 << 20)
    (found,) = harness.measure(toy, CARD, seconds=0.2)
    assert found.timings["torchvision"].how == "eager, one call" and len(slow) == 2
    assert found.timings["torchvision"].median >= 0.1


def test_a_capture_that_fails_is_told(card, monkeypatch):
    @contextlib.contextmanager
    def refuses(graph):
        raise RuntimeError("a wait in the capture")
        yield

    monkeypatch.setattr(torch.cuda, "graph", refuses)
    toy, _ = case({"ours": ours}, rotate=False)
    (found,) = harness.measure(toy, CARD, seconds=0.2)
    assert found.timings["ours"].how == "eager since RuntimeError in the capture, one input"


def test_memory_that_runs_out_is_told(card):
    def greedy(number: int, calls: list[int]) -> None:
        raise torch.OutOfMemoryError("no more")

    toy, _ = case({"ours": ours, "torchvision": greedy}, rotate=False)
    (found,) = harness.measure(toy, CARD, seconds=0.2)
    assert list(found.timings) == ["ours", harness.EAGER]
    assert found.timings["ours"].how == "graph, one input; torchvision runs out of memory"


def test_the_conditions_name_card_driver_and_clocks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A Card", raising=False)
    monkeypatch.setattr(machine, "_shell", lambda *command: "570.1, 1755 MHz, 1980 MHz, 2619 MHz")
    record = {"environment": machine.environment(), "device": "cuda", "copy_rate": 3e12}
    text = publish.report.conditions(record)
    assert "card A Card, driver 570.1, SM clock 1755 MHz, of 1980 MHz, memory 2619 MHz" in text
    monkeypatch.setattr(machine, "_shell", lambda *command: "")
    assert machine.environment()["gpu"] == {"card": "A Card"}


def test_sources_name_what_was_measured_where_git_cannot(monkeypatch):
    monkeypatch.setattr(machine, "_shell", lambda *command: "")
    monkeypatch.delenv("SSD_COMMIT", raising=False)
    assert machine._commit().startswith("unknown, sources ") and machine._commit() == machine._commit()
    monkeypatch.setenv("SSD_COMMIT", "abc123")
    assert machine._commit() == "abc123"


def test_pytest_benchmark_drives_the_micro_benchmarks():
    pytest.importorskip("torchvision"), pytest.importorskip("pytest_benchmark")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks",
        "--benchmark-only",
        "-q",
        "-k",
        "priors and paper",
    ]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist"]
    alone = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=publish.ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "test_case[priors: paper, cpu]" in done.stdout, done.stdout + done.stderr


def test_kernels_are_named_shortly():
    long = "void ssd_cuda::(anonymous namespace)::keys_kernel<__half, float>(ssd_cuda::Args<__half, float>)"
    assert kernel_times.short(long) == "keys_kernel<__half,float>"
    assert (
        kernel_times.short("void ssd_cuda::select_kernel<float, (int)9>(ssd_cuda::Args)")
        == "select_kernel<float,9>"
    )
    assert kernel_times.short("Memset (Device)") == "Memset "


def test_the_kernels_of_a_call_by_hand():
    """Two calls: one kernel launched once in each, one twice."""
    trace = [("a", 1.0), ("b", 2.0), ("b", 4.0), ("a", 3.0), ("b", 6.0), ("b", 8.0)]
    assert kernel_times.of_trace(trace, 2) == {"a": (2.0, 1.0), "b": (10.0, 2.0)}
    case = {"family": "nms", "name": "x", "graph": 20e-6, "how": "graph", "min_bytes": 4_000_000}
    kernels = {"a": {"seconds": 2e-6, "launches": 1}, "b": {"seconds": 10e-6, "launches": 2}}
    lines = kernel_times.table({"copy_rate": 4e12, "cases": [{**case, "kernels": kernels}]}).splitlines()
    assert lines[0] == "nms x: 20.0 us (graph); kernels 12.0; bytes 1.0"
    assert lines[1].split() == ["10.00", "us", "b", "x2"] and lines[2].split() == ["2.00", "us", "a"]


def test_the_ops_whose_kernels_are_timed_exist():
    names = {(case.family, case.name) for case in cases(device="cuda")}
    assert set(kernel_times.CHOSEN) <= names


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_the_time_of_kernels_needs_a_card(capsys):
    assert kernel_times.main([]) == 3
    assert "needs a CUDA card" in capsys.readouterr().out
