"""RESULTS.md, the README and the rehearsal of a card's page are what the measured files say."""

from __future__ import annotations

import json

import pytest
from test_benchmarks import result

from benchmarks import __main__ as face
from benchmarks import baselines, publish, report


@pytest.fixture
def rehearsed(tmp_path):
    """The goals' mining cases as a card would run them, on the CPU."""
    pytest.importorskip("torchvision")
    target = tmp_path / "stub.json"
    assert face.main(["mining", "--stub-gpu", "--filter", "P=8732, trained", "--json", str(target)]) == 0
    return target


def test_a_rehearsal_takes_one_image_and_says_stub(rehearsed, capsys):
    record = json.loads(rehearsed.read_text())
    assert record["stub"] and record["device"] == "cuda" and len(record["results"]) == 4
    assert all("STUB" in row["timings"]["ours"]["how"] for row in record["results"])
    assert publish.main(["--rehearse", str(rehearsed)]) == 0
    page = capsys.readouterr().out
    assert "## CUDA" in page and "STUB, a rehearsal on the CPU and no result" in page
    assert "| mining: B=32 P=8732, trained keys | 6 us |" in page and "Not measured yet: no card" not in page


def test_a_rehearsal_is_never_published(rehearsed, monkeypatch):
    monkeypatch.setattr(publish, "FOLDER", rehearsed.parent)
    rehearsed.rename(rehearsed.with_name("cuda.json"))
    with pytest.raises(ValueError, match=r"cuda.json must hold results, and it is a rehearsal"):
        publish.results_page()


def test_a_measured_card_reaches_the_readme(rehearsed, monkeypatch):
    record = json.loads(rehearsed.read_text())
    del record["stub"]
    cpu = (publish.FOLDER / "cpu.json").read_text()
    monkeypatch.setattr(publish, "FOLDER", rehearsed.parent)
    (rehearsed.parent / "cuda.json").write_text(json.dumps(record))
    (rehearsed.parent / "cpu.json").write_text(cpu)
    assert "| mining: B=32 P=8732, trained keys | 6 us |" in publish.fill("docs/numbers.md")
    assert "### Goals" in publish.results_page()


def test_sweeps_and_shares_of_a_fresh_file_are_published(tmp_path, monkeypatch):
    record = publish.load(publish.FOLDER / "cpu.json")[0]
    facts = dict(family="end_to_end", sweep="", params={"B": 2})
    rows = [result(1, 2.0, 2.5, name="step", **facts), result(1, 0.1, 1.0, name="step, core", **facts)]
    for n in (1, 30, 1000):
        more = dict(family="multibox", name=f"P=1000, B={n}", params={"B": n}, sweep="B")
        rows.append(result(n, 1e-6 * n, 1e-9 * n**2, **more))
    lines = {(family, name) for _, family, name, _ in publish.README_LINES}
    named = [row for row in record["results"] if (row["family"], row["name"]) in lines]
    rows_of_file = [*named, *(row.to_json() for row in rows)]
    record |= {"results": rows_of_file, "core_share": report.core_share(rows)}
    (tmp_path / "cpu.json").write_text(json.dumps(record))
    monkeypatch.setattr(publish, "FOLDER", tmp_path)
    page, numbers = publish.results_page(), publish.fill("docs/numbers.md")
    assert "![multibox on log axes, with the time that its bytes take](results/multibox_cpu.png)" in page
    assert "B = 1 .. 1000 (x 1000); P=1000, 1 thread" in page and "### The core's share of a step" in page
    assert "| matching + loss, forward + backward | B^1.00 |" in numbers and "B 1 to 1,000" in numbers
    assert "| step | 0.8 | 1 | 40% | 5% |" in numbers


def test_the_published_file_has_the_cases_of_today():
    """A case that was renamed, added or dropped since asks for `make measure`."""
    pytest.importorskip("torchvision")
    record, results = publish.load(publish.FOLDER / "cpu.json")
    lost = {*record.get("failed", {}), *record.get("left_out", [])}
    wanted = {f"{case.family}: {case.name}" for case in face.cases(device="cpu")}
    assert {f"{row.family}: {row.name}" for row in results} | lost == wanted
    assert {name for row in results for name in row.timings} <= {"ours", *baselines.NAMES}


def test_a_case_that_the_readme_names_must_be_there(tmp_path, monkeypatch):
    record = json.loads((publish.FOLDER / "cpu.json").read_text())
    record["results"] = [row for row in record["results"] if row["name"] != "loss B=32 C=91"]
    (tmp_path / "cpu.json").write_text(json.dumps(record))
    monkeypatch.setattr(publish, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"cpu.json must hold multibox 'loss B=32 C=91' against torchvision"):
        publish.fill("README.md")


def test_readme_and_results_agree():
    """README, docs/numbers.md and RESULTS.md are what `make results` writes from the measured files."""
    assert publish.main(["--check"]) == 0


@pytest.mark.parametrize("name, was, stale", [("README.md", "times as fast", "times as slow"),
                                              ("docs/numbers.md", "| nms |", "| NMS |"),
                                              ("docs/deploy.md", "| torch, model", "| model")])  # fmt: skip
def test_a_stale_page_is_noticed(name, was, stale):
    text = (publish.ROOT / name).read_text()
    assert was in text and publish.fill(name, text.replace(was, stale)) == text
