"""The examples run on the layout of data that docs/train.md describes."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

from layouts import write_voc

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_an_example_takes_a_folder_with_trainval(capsys, tmp_path, monkeypatch):
    splits = write_voc(tmp_path) / "ImageSets/Main"
    (splits / "train.txt").rename(splits / "trainval.txt")
    (splits / "val.txt").rename(splits / "test.txt")
    line = ["train_small.py", tmp_path / "voc", "--steps", 1, "--batch", 2, "--out", tmp_path / "x.png"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in line])
    monkeypatch.syspath_prepend(str(EXAMPLES))  # where it finds what it shares with the others
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "train_small.py"), run_name="__main__")
    assert not ended.value.code and "largest relative difference" in capsys.readouterr().out
