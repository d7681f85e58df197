"""The benchmarks own rules: no wrong contestant reaches the clock, fits and tables say what was measured."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import __main__ as face
from benchmarks import gpu_check, harness, publish, report
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
    contest = Contest(lambda: x.sum(), {"sort": lambda: x.sort(), "left out": lambda: 1 / 0}, min_bytes=4000)
    measured = harness.measure(Case("toy", "sum", {"N": 1000}, lambda device: contest), CPU, against=["sort"])
    assert set(measured.timings) == {"ours", "sort"}
    assert torch.get_num_threads() == before
    for timing in measured.timings.values():
        assert 0 < timing.p20 <= timing.median <= timing.p80
    assert json.loads(json.dumps(measured.to_json()))["speedups"].keys() == {"sort"}


def test_contention_is_noticed():
    calm = result(1, 1.0, 2.0)
    assert not calm.contended
    calm.timings["ours"] = Timing(1.0, 0.9, 1.6, 1)
    assert calm.contended


def test_the_fit_finds_the_exponent():
    rows = [result(n, 1e-6 * n, 1e-9 * n**2) for n in (10, 100, 1000)]
    assert report.slope(rows) == pytest.approx(1.0)
    assert report.slope(rows, "other") == pytest.approx(2.0)
    assert "ours N^1.00, other N^2.00" in report.fits(rows)
    with pytest.raises(ValueError, match="a fit needs two sizes, got 1"):
        report.slope(rows[:1])


def test_the_table_names_ratio_spread_and_share():
    text = report.markdown([result(1000, 1e-6, 5e-6)], copy_rate=2e9)
    assert "### toy" in text and "N=1000" in text
    assert "1 us" in text and "5.0x" in text and "50%" in text


@pytest.mark.parametrize("value, text", [(2.0, "2.00 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 us")])
def test_seconds(value, text):
    assert report.seconds(value) == text


def test_charts_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [result(n, 1e-6 * n, 1e-9 * n**2) for n in (10, 100, 1000)]
    (path,) = report.plot(rows, 1e9, tmp_path)
    assert path.stat().st_size > 5000


def test_the_face_writes_conditions_and_results(tmp_path, capsys):
    pytest.importorskip("torchvision")
    target = tmp_path / "out.json"
    assert (
        face.main(["boxes", "--filter", "iou 7", "--device", "cpu", "--threads", "1", "--json", str(target)])
        == 0
    )
    record = json.loads(target.read_text())
    assert {"cpu", "torch", "commit", "build", "load"} <= set(record["environment"])
    assert record["results"][0]["timings"]["ours"]["median"] > 0
    assert "torchvision" in capsys.readouterr().out


def test_an_unknown_family_is_one_sentence():
    with pytest.raises(SystemExit, match=r"family must be one of boxes, .*, got 'bananas'"):
        face.main(["bananas"])


@pytest.mark.parametrize("family", face.FAMILIES)
def test_every_family_has_cases(family):
    pytest.importorskip("torchvision")
    found = face.cases([family])
    assert found and all(case.family == family for case in found)
    assert len({case.name for case in found}) == len(found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_gpu_check_without_a_card_says_so(capsys):
    assert gpu_check.main([]) == 3
    assert "needs a CUDA card" in capsys.readouterr().out


def test_the_rehearsal_names_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    assert gpu_check.main(["--stub-gpu", "--stage", "sanitizer"]) == 0
    record = json.loads((tmp_path / "benchmarks/results/gpu_check_stub.json").read_text())
    assert record["stub"] is True
    assert all(line.startswith(("STUB", "wrote", "")) for line in capsys.readouterr().out.splitlines())


def test_readme_and_results_agree():
    """The README and RESULTS.md are what `make results` writes from the measured files."""
    assert publish.main(["--check"]) == 0


def test_a_stale_readme_is_noticed():
    readme = publish.ROOT / "README.md"
    assert publish.readme(readme.read_text().replace("times as fast", "times as slow")) == readme.read_text()
