"""A package that is not there: said before the work that ends in it, with what to type."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from layouts import write_checkpoint, write_voc

from ssd_cuda import cli
from ssd_cuda._extras import require
from ssd_cuda.engine import demo

LINE = [
    "--size", "64", "128", "--device", "cpu", "--workers", "0", "--batch-size", "2", "--warmup-steps", "0",
]  # fmt: skip
NEEDED = [
    ("matplotlib.figure", "the loss curve", "matplotlib"),
    ("pycocotools.coco", "COCO mAP", "pycocotools"),
]


@pytest.fixture(params=NEEDED, ids=[module for module, *_ in NEEDED])
def missing(request, monkeypatch):
    """The beginning of the sentence; the package is away."""
    module, purpose, package = request.param
    monkeypatch.setitem(sys.modules, module, None)
    return f"{purpose} needs {package} "


def test_what_the_end_of_a_run_needs_is_asked_for_before_it(capsys, tmp_path, missing):
    line = ["train", "--data", str(write_voc(tmp_path)), "--epochs", "1", *LINE]
    assert cli.main([*line, "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(f"ssd-cuda: error: {missing}") and told.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    with pytest.raises(ImportError, match=f"^{missing}"):
        demo.run_demo("shapes", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_a_run_that_tests_nothing_needs_no_pycocotools(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    line = ["train", "--data", str(write_voc(tmp_path)), "--epochs", "1", *LINE, "--no-eval"]
    assert cli.main([*line, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err


def test_pictures_of_data_and_runs_are_asked_for_before_anything_is_read(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for command, purpose in ("data", "the picture of the data"), ("curves", "the curves"):
        line = [command, str(tmp_path / "nothing"), "-o", str(tmp_path / "new" / "x.png")]
        assert cli.main(line) == 1 and not (tmp_path / "new").exists()
        assert capsys.readouterr().err.startswith(f"ssd-cuda: error: {purpose} needs matplotlib ")


def test_an_evaluation_asks_before_it_reads_an_image(capsys, tmp_path, monkeypatch):
    root = write_voc(tmp_path)
    for image in (root / "JPEGImages").iterdir():
        image.write_bytes(b"no image")
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    checkpoint = write_checkpoint(tmp_path / "x.pt", ("cat", "dog", "emu"))
    line = ["eval", str(checkpoint), "--data", str(root), "--device", "cpu", "--workers", "0"]
    assert cli.main(line) == 1 and "error: COCO mAP needs pycocotools " in capsys.readouterr().err


def test_a_package_that_another_one_needs_is_the_one_to_install(tmp_path, monkeypatch):
    (tmp_path / "some_package.py").write_text("import no_such_package.part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ImportError, match=r"drawing needs no_such_package .*: type `pip install no_such_pack"
    ):
        require("some_package", "drawing")
