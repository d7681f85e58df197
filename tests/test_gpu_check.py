"""make gpu-check: its stages share a clock, and none takes what another found with it."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu_check


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


def test_the_stages_of_a_card_share_ten_minutes():
    names = list(gpu_check.STAGES)
    assert sum(gpu_check.LIMITS[name] for name in names) <= gpu_check.BUDGET <= 600
    left = gpu_check.BUDGET
    for name in names:  # every stage takes all it may, and the clock holds
        left -= gpu_check.limits(names, name, left)
    assert left >= 0
    assert gpu_check.limits(names, "bench", 500) == 500 - 20 - 100  # what build and tests left over


def test_a_stage_that_is_cut_off_tells_what_it_printed(capsys):
    code = "import time; print('as far as here', flush=True); time.sleep(60)"
    stage = gpu_check._stage("toy", ["-c", code], 2.0)
    assert not stage.passed and stage.seconds < 30 and stage.detail == "ran past 2 s"
    assert "as far as here" in capsys.readouterr().out


def test_the_clock_holds_for_any_budget():
    names = list(gpu_check.STAGES)
    for budget in (60.0, 200.0, 1500.0):
        left = budget
        for name in names:
            left -= gpu_check.limits(names, name, left, budget)
        assert left >= 0
    assert gpu_check.limits(["tests"], "tests", 500.0) == 500.0  # alone, it has all


def test_when_the_time_is_up_the_rest_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    assert gpu_check.main(["--stub-gpu", "--stage", "bench", "--budget", "1"]) == 1
    record = json.loads((tmp_path / "benchmarks/results/gpu_check_stub.json").read_text())
    assert record["stages"][0]["detail"] == "left out, the time was up"


def test_a_module_without_its_extra_is_told_and_a_failure_stays_one(tmp_path):
    (tmp_path / "test_good.py").write_text("def test_good(): pass\n")
    lost = tmp_path / "test_lost.py"
    command = [
        "-m",
        "pytest",
        "-q",
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
    ]

    def stage() -> gpu_check.Stage:
        return gpu_check._stage("tests", command, 60.0, "passed|failed", gpu_check._without_extras)

    lost.write_text("raise ModuleNotFoundError(\"No module named 'pycocotools'\")\n")
    found = stage()
    assert found.passed and found.detail.endswith("1 modules left out without pycocotools")
    lost.write_text("import no_such_module_of_ours\n")
    assert not stage().passed
    lost.write_text("raise ModuleNotFoundError(\"No module named 'pycocotools'\")\n")
    (tmp_path / "test_good.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    assert not stage().passed


def test_a_missing_program_is_a_failed_stage(monkeypatch):
    monkeypatch.setattr(gpu_check, "_sanitizer", lambda: "no-such-sanitizer")
    stages = gpu_check.sanitizer(False, 40.0)
    assert len(stages) == 4 and not any(stage.passed for stage in stages)
    assert stages[0].detail == "no-such-sanitizer is not installed"


def test_what_is_missing_and_cannot_be_installed_is_named(monkeypatch):
    monkeypatch.setattr(gpu_check, "NEEDS", {"json": "json", "no_such_module": "no-such-package-at-all"})
    monkeypatch.setattr(gpu_check, "_run", lambda command, limit: (1, "offline"))
    (stage,) = gpu_check.needs(False, 5.0)
    assert stage.passed and stage.detail == "without no_such_module"
    monkeypatch.setattr(gpu_check, "NEEDED", ("no_such_module",))
    assert not gpu_check.needs(False, 5.0)[0].passed


def test_results_are_handed_over_stage_by_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / "benchmarks/results/stub.json").write_text("{}")
    assert gpu_check.main(["--stub-gpu", "--stage", "sanitizer", "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"stub.json", "gpu_check_stub.json"}
