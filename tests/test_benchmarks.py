"""The benchmarks own rules: no wrong contestant reaches the clock, fits and tables say what was measured."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from children import child

from benchmarks import __main__ as face
from benchmarks import baselines, gpu_check, harness, machine, publish, report, scaling
from benchmarks.harness import Case, Contest, Result, Timing

CPU = torch.device("cpu")


def result(size: int, ours: float, other: float, **changes) -> Result:
    fields = dict(
        family="toy", name=f"N={size}", params={"N": size}, sweep="N", device="cpu", threads=1, min_bytes=size
    )
    timings = {"ours": Timing(ours, ours, ours, 1), "other": Timing(other, other, other, 1)}
    return Result(**{**fields, "timings": timings, **changes})


def test_a_case_is_checked_before_it_is_timed():
    calls = []

    def fail():
        raise AssertionError("they disagree")

    case = Case("toy", "wrong", {}, lambda device: Contest(lambda: calls.append(1), check=fail))
    with pytest.raises(AssertionError, match="they disagree"):
        harness.measure(case, CPU)
    assert calls == []


def test_contestants_are_timed_and_threads_restored():
    before = torch.get_num_threads()
    x = torch.rand(1000)
    contest = Contest(lambda: x.sum(), {"sort": lambda: x.sort(), "seed": lambda: 1 / 0}, min_bytes=4000)
    case = Case("toy", "sum", {"N": 1000}, lambda device: contest, against=("sort", "seed"))
    for measured, threads in zip(
        harness.measure(case, CPU, threads=[1, 2], against=["sort"]), (1, 2), strict=True
    ):
        assert measured.threads == threads and set(measured.timings) == {"ours", "sort"}
        for timing in measured.timings.values():
            assert 0 < timing.p20 <= timing.median <= timing.p80
        assert json.loads(json.dumps(measured.to_json()))["speedups"].keys() == {"sort"}
    assert torch.get_num_threads() == before


def test_a_baseline_that_the_case_does_not_name_is_refused():
    case = Case("toy", "sum", {}, lambda device: Contest(lambda: 1, {"seed": lambda: 1}), against=("sort",))
    with pytest.raises(ValueError, match=r"against of toy 'sum' must name \['seed'\]"):
        harness.measure(case, CPU)


def test_sweeps_and_whole_steps_take_one_thread_count():
    def counts(**options) -> list[int]:
        return list(Case("toy", "x", {}, lambda device: None, **options).counts([1, 2, 4]))

    assert counts() == [1, 2, 4] and counts(sweep="N") == [1]
    assert counts(threads="first") == [1] and counts(threads="last") == [4]


def test_contention_is_noticed():
    calm = result(1, 1.0, 2.0)
    assert not calm.contended
    calm.timings["ours"] = Timing(1.0, 0.9, 1.6, 1)
    assert calm.contended
    assert result(1, 1.0, 2.0, others=0.3).contended


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")
def test_a_neighbour_is_seen():
    code = "import time; end = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    with child([sys.executable, "-c", code]):
        watch = machine.Neighbours()
        time.sleep(1.5)
        assert watch.share() > 0.3 / os.cpu_count()


def test_own_work_is_no_neighbour(monkeypatch):
    moments = iter([(0.0, 100.0, 5.0), (10.0, 112.0, 14.0)])
    monkeypatch.setattr(machine.Neighbours, "_now", lambda self: next(moments))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert machine.Neighbours().share() == pytest.approx((12 - 9) / 20)


def test_a_busy_machine_is_named_in_the_conditions():
    record = publish.load(publish.FOLDER / "cpu.json")[0]
    record["results"] = [{"others": 0.5}] * 3 + [{"others": 0.0}] * 7
    assert "Not a quiet machine: other processes took over 10% of the cores in 3 of 10" in report.conditions(
        record
    )
    record["results"] = [{"others": 0.5}] + [{"others": 0.0}] * 99
    assert "Not a quiet" not in report.conditions(record)


def test_the_fit_finds_the_exponent():
    rows = [result(n, 1e-6 * n, 1e-9 * n**2) for n in (10, 100, 1000)]
    assert scaling.slope(rows) == pytest.approx(1.0)
    assert scaling.slope(rows, "other") == pytest.approx(2.0)
    with pytest.raises(ValueError, match="a fit needs two sizes, got 1"):
        scaling.slope(rows[:1])


def test_the_tail_of_a_fit_leaves_fixed_costs_behind():
    rows = [result(n, 1e-3 + 1e-6 * n, 1.0) for n in (1, 10, 100, 10**4, 10**5, 10**6)]
    assert scaling.slope(rows) < 0.6
    assert scaling.slope(rows, tail=True) == pytest.approx(1.0, abs=0.03)


def test_a_sweep_is_one_table_with_range_exponents_and_speed_of_light():
    rows = [result(n, 1e-6 * n, 1e-9 * n**2, name=f"dense, N={n}") for n in (10, 100, 1000, 10_000)]
    del rows[-1].timings["other"]  # it left the sweep: a call would have taken too long
    text = scaling.tables(rows, copy_rate=1e6)
    assert "N = 10 .. 10000 (x 1000); dense, 1 thread" in text
    assert "| ours | 10 us | 100 us | 1 ms | 10 ms | 1.00 | 1.00 |" in text
    assert "| other | 0.1 us | 10 us | 1 ms |  | 2.00 | 2.00 |" in text
    assert f"| {scaling.LIGHT} | 10 us | 100 us | 1 ms | 10 ms |" in text


def test_the_table_names_ratio_spread_and_share():
    text = report.markdown([result(1000, 1e-6, 5e-6, sweep="")], copy_rate=2e9)
    assert "### toy" in text and "N=1000" in text
    assert "1 us" in text and "5.0x" in text and "50%" in text


def test_the_table_of_a_card_says_how_and_how_much_memory():
    row = result(1000, 1e-6, 5e-6, sweep="", device="cuda")
    row.timings["ours"] = Timing(1e-6, 1e-6, 1e-6, 4, "graph, 4 inputs", memory=2_500_000)
    text = report.markdown([row], copy_rate=2e9)
    assert "graph, 4 inputs" in text and "2.5 MB" in text


@pytest.mark.parametrize("value, text", [(2.0, "2.00 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 us")])
def test_seconds(value, text):
    assert report.seconds(value) == text


def test_the_share_of_the_core_comes_from_a_step_and_its_core():
    facts = dict(family="end_to_end", sweep="", params={"B": 4})
    step, core = result(1, 2.0, 2.5, name="step", **facts), result(1, 0.1, 1.0, name="step, core", **facts)
    row, alone = report.core_share([step, core, result(1, 1.0, 2.0, name="alone", **facts)])
    assert row["ours"] == {"images_per_second": 2.0, "core_seconds": 0.1, "core_share": 0.05}
    assert row["other"]["core_share"] == 0.4
    assert "| step | 1.6 | 2 | 1.00 s | 40% | 100 ms | 5% |" in report.shares([row, alone])
    assert "| alone | 2 | 4 |  |  |  |  |" in report.shares([row, alone])


def test_a_card_is_measured_against_the_seeds_frames_per_second():
    facts = dict(family="end_to_end", sweep="", params={"B": 23}, device="cuda")
    step = result(1, 0.25, 0.5, name="ssd300_vgg16 B=23 detection, AMP", **facts)
    step.timings[harness.EAGER] = step.timings["ours"]
    table = report.shares(report.core_share([step, result(1, 0.5, 1.0, name="ssd_small B=23", **facts)]))
    assert "after, times 46 |" in table
    assert "| ssd300_vgg16 B=23 detection, AMP | 46 | 92 |  |  |  |  | 2 |" in table
    assert "| ssd_small B=23 | 23 | 46 |  |  |  |  |  |" in table


def test_charts_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [result(n, 1e-6 * n, 1e-9 * n**2) for n in (10, 100, 1000)]
    (path,) = scaling.plot(rows, 1e9, tmp_path)
    assert path.name == "toy_cpu.png" and path.stat().st_size > 5000


def test_the_face_writes_conditions_and_results(tmp_path, capsys):
    pytest.importorskip("torchvision")
    target = tmp_path / "out.json"
    arguments = ["boxes", "--filter", "iou 7", "--device", "cpu", "--threads", "1", "--json", str(target)]
    assert face.main([*arguments, "--plot"]) == 0
    record = json.loads(target.read_text())
    assert {"cpu", "torch", "commit", "build", "load"} <= set(record["environment"])
    assert record["results"][0]["timings"]["ours"]["median"] > 0
    out = capsys.readouterr().out
    assert "torchvision" in out and f"wrote {target}" in out and "nothing to draw" in out


def test_the_clock_ends_a_run_and_the_rest_is_named(tmp_path, capsys):
    pytest.importorskip("torchvision")
    target = tmp_path / "out.json"
    arguments = ["priors", "--quick", "--device", "cpu", "--threads", "1", "--json", str(target)]
    face.main([*arguments, "--limit", "1e-9"])
    record = json.loads(target.read_text())
    assert record["results"] == [] and "priors: seed" in record["left_out"]
    assert "left out, the time was up: 4 cases" in capsys.readouterr().out


def test_a_run_that_is_killed_leaves_what_it_has(tmp_path, monkeypatch):
    def killed():
        raise KeyboardInterrupt

    right = Case("toy", "right", {}, lambda device: Contest(lambda: 1))
    late = Case("toy", "late", {}, lambda device: Contest(killed))
    monkeypatch.setattr(face, "cases", lambda *_, **__: [right, late])
    target = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        face.main(["--device", "cpu", "--threads", "1", "--json", str(target)])
    record = json.loads(target.read_text())
    assert [row["name"] for row in record["results"]] == ["right"] and record["left_out"] == ["toy: late"]


def test_a_compiler_is_not_started_when_the_time_is_nearly_up(tmp_path, monkeypatch):
    slow = Case("toy", "slow", {}, lambda device: Contest(lambda: 1), against=("compile",))
    monkeypatch.setattr(face, "cases", lambda *_, **__: [slow])
    target = tmp_path / "out.json"
    arguments = ["--device", "cpu", "--threads", "1", "--json", str(target), "--limit"]
    assert face.main([*arguments, "60"]) == 0
    assert json.loads(target.read_text())["left_out"] == ["toy: slow"]
    face.main([*arguments, "6000"])
    assert len(json.loads(target.read_text())["results"]) == 1


def test_a_case_that_fails_is_told_and_ends_in_1(monkeypatch, capsys, tmp_path):
    wrong = Case("toy", "wrong", {}, lambda device: Contest(lambda: 1, check=lambda: 1 / 0))
    right = Case("toy", "right", {}, lambda device: Contest(lambda: 1))
    monkeypatch.setattr(face, "cases", lambda *_, **__: [wrong, right])
    target = tmp_path / "out.json"
    assert face.main(["--device", "cpu", "--threads", "1", "--json", str(target)]) == 1
    assert "FAILED toy: wrong: ZeroDivisionError: division by zero" in capsys.readouterr().out
    assert [row["name"] for row in json.loads(target.read_text())["results"]] == ["right"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["bananas"], r"family must be one of boxes, .*, got 'bananas'"),
        (["mining", "--against", "bananas"], r"--against must name .* \(sort, topk\), got 'bananas'"),
        (["mining", "--against", "seed"], r"--against must name .* \(sort, topk\), got 'seed'"),
        (["mining", "--against", "topk,bananas"], r"--against must name .* \(sort, topk\), got 'bananas'"),
        (["mining", "--against", ","], r"--against must name .* \(sort, topk\), got ','"),
        (["nms", "--filter", "bananas"], r"--filter must be part of a case's name .*, got 'bananas'"),
    ],
)
def test_a_wrong_word_is_one_sentence(arguments, message):
    pytest.importorskip("torchvision")
    with pytest.raises(SystemExit, match=message) as caught:
        face.main([*arguments, "--device", "cpu"])
    assert "\n" not in str(caught.value)


def test_wrong_threads_are_one_sentence(capsys):
    with pytest.raises(SystemExit):
        face.main(["mining", "--threads", "0"])
    assert "argument --threads: invalid list of thread counts value: '0'" in capsys.readouterr().err


def test_against_leaves_the_cases_that_have_the_name(capsys):
    pytest.importorskip("torchvision")
    assert face.main(["multibox", "--against", "seed,compile", "--device", "cpu", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("seed" in line or "compile" in line for line in lines)


@pytest.mark.parametrize("family", sorted({"multibox", "boxes", "detect", "nms", "matching"}))
def test_the_baselines_that_people_know_may_be_named_for_any_family(family, capsys):
    """A family without one of them is measured against the others."""
    pytest.importorskip("torchvision")
    wanted = "torchvision,compile,reference,seed"
    assert face.main([family, "--against", wanted, "--device", "cpu", "--list"]) == 0
    assert family in capsys.readouterr().out


@pytest.mark.parametrize("family", face.FAMILIES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_family_has_cases(family, device):
    pytest.importorskip("torchvision")
    found = face.cases([family], device=device)
    assert found and all(case.family == family for case in found)
    assert len({case.name for case in found}) == len(found)
    assert {name for case in found for name in case.against} <= set(baselines.NAMES)


SWEPT = {
    "multibox": {"B", "P", "C", "G"},
    "matching": {"B", "P", "G"},
    "mining": {"B", "P", "k"},
    "detect": {"B", "P", "C", "candidates"},
    "nms": {"N"},
    "boxes": {"P"},
    "priors": {"P"},
}


@pytest.mark.parametrize("family", SWEPT)
def test_every_size_that_matters_is_swept_over_three_decades(family):
    pytest.importorskip("torchvision")
    rows = [
        result(1, 1.0, 1.0, family=family, name=case.name, params=case.params, sweep=case.sweep)
        for case in face.cases([family])
    ]
    series = scaling.sweeps(rows)
    assert {key[2] for key in series} == SWEPT[family]
    for (_, _, size, _), points in series.items():
        sizes = [point.params[size] for point in points]
        assert len(sizes) >= 5 and sizes[-1] >= 1000 * sizes[0]


def test_the_cases_of_a_card():
    pytest.importorskip("torchvision")
    found = {case.name: case for case in face.cases(device="cuda")}
    for b in (1, 8, 32, 128):
        for step in ("training step", "training step, core", "detection", "detection, core"):
            assert f"ssd300_vgg16 B={b} {step}" in found
        for dtype in ("", ", fp16"):
            assert f"loss B={b} C=81{dtype}" in found
            assert f"trained B={b} C=81{dtype}" in found and f"fresh B={b} C=81{dtype}" in found
    for words in ("training step, AMP", "detection, AMP channels_last"):
        assert f"ssd300_vgg16 B=32 {words}" in found
    assert "our ssd300_vgg16 B=32 training step, CUDA graph" in found
    for g in (0, 50, 100):
        assert f"loss B=32 C=81, {g} GT an image" in found and f"B=32, {g} GT an image" in found
    assert all(name in found for _, name, *_ in publish.GOALS)
    ordered = face.cases(gpu_check.FAMILIES, device="cuda")
    late = [case.late for case in ordered]
    assert late == sorted(late) and set(gpu_check.FAMILIES) == set(face.FAMILIES)
    goals = {(family, name) for family, name, *_ in publish.GOALS}
    assert {(case.family, case.name) for case in ordered[: len(goals)]} == goals
    assert ordered[len(goals)].family == "end_to_end"
