"""The folder of a run: no run is written over another in silence."""

from __future__ import annotations

import os
import sys

import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from children import child
from layouts import write_voc

from ssd_cuda import cli
from ssd_cuda.engine import run_folder
from ssd_cuda.engine.checkpoint import load_checkpoint
from ssd_cuda.engine.outputs import OutputError

LINE = ["--size", "64", "64", "--device", "cpu", "--workers", "0", "--batch-size", "2", "--warmup-steps", "0"]


@pytest.fixture
def train(capsys, tmp_path):
    """``train(out, ...)``: the status and what stderr says."""
    root = write_voc(tmp_path)

    def run(out, *arguments):
        line = ["train", "--data", root, "--out", out, "--epochs", 1, *LINE, *arguments]
        return cli.main([str(word) for word in line]), capsys.readouterr().err

    return run


def stand_in(folder):
    """What a run leaves, and a file that is none of its."""
    (folder / "tensorboard").mkdir(parents=True)
    names = ("checkpoint.pt", "best.pt", "metrics.csv", "loss.png", "tensorboard/events.out.tfevents.1.x")
    for name in (*names, "notes.txt"):
        (folder / name).write_text("old")
    return {folder / name for name in names}


@pytest.mark.parametrize("name", ["checkpoint.pt", "best.pt"])
def test_a_folder_that_holds_a_run_is_refused(train, tmp_path, name):
    out = tmp_path / "run"
    out.mkdir()
    (out / name).write_text("old")
    status, err = train(out, "--no-eval")
    assert status == 1 and err == (
        f"ssd-cuda: error: --out must be a folder without a run, got {out}, which holds {name}: "
        f"--resume {out / name} goes on with it, another --out begins anew, --overwrite replaces it\n"
    )
    assert (out / name).read_text() == "old"


def test_overwrite_takes_away_all_that_the_old_run_wrote(train, tmp_path):
    out = tmp_path / "run"
    written = stand_in(out)
    assert set(run_folder.files_of_a_run(out)) == written
    status, err = train(out, "--no-eval", "--overwrite")
    assert status == 0, err
    left = sorted(path.name for path in out.iterdir())
    assert left == ["checkpoint.pt", "loss.png", "metrics.csv", "notes.txt", "tensorboard"]
    assert not list((out / "tensorboard").iterdir()) and (out / "notes.txt").read_text() == "old"
    assert load_checkpoint(out / "checkpoint.pt")[1]["step"] == 1


def test_files_of_a_run_are_what_a_run_writes(train, tmp_path):
    out = tmp_path / "run"
    assert train(out, "--eval-every", 1)[0] == 0
    assert set(run_folder.files_of_a_run(out)) == set(out.iterdir())


def test_what_is_refused_takes_nothing_away(train, tmp_path):
    out = tmp_path / "run"
    written = stand_in(out)
    (tmp_path / "voc/JPEGImages/b.png").write_text("no image")
    status, err = train(out, "--no-eval", "--overwrite")
    assert status == 1 and "b.png cannot be read" in err
    assert all(path.read_text() == "old" for path in written)


def test_a_run_goes_on_in_its_own_folder_alone(train, tmp_path):
    out, other = tmp_path / "run", tmp_path / "other"
    assert train(out, "--no-eval")[0] == 0
    stand_in(other)
    longer = ["--no-eval", "--extend", "--epochs", 2, "--resume", out / "checkpoint.pt"]
    status, err = train(other, *longer)
    assert status == 1 and "--out must be a folder without a run" in err
    assert (other / "checkpoint.pt").read_text() == "old"
    (tmp_path / "link").symlink_to(out)
    assert train(tmp_path / "link", *longer)[0] == 0
    assert load_checkpoint(out / "checkpoint.pt")[1]["step"] == 2
    assert train(other, *longer, "--overwrite")[0] == 0
    assert not (other / "best.pt").exists() and torch.load(other / "checkpoint.pt")["step"] == 2


@pytest.mark.parametrize("option", ["--resume", "--weights"])
def test_overwrite_keeps_what_the_run_begins_from(train, tmp_path, option):
    out = tmp_path / "run"
    assert train(out, "--no-eval")[0] == 0
    status, err = train(out, "--no-eval", "--overwrite", option, out / "checkpoint.pt")
    assert status == 1 and "--overwrite must leave its inputs as they are, got " in err
    assert (out / "checkpoint.pt").exists()


def test_two_runs_do_not_write_in_one_folder(train, tmp_path):
    """Also while the first has written nothing yet, and with what else allows to write there."""
    out = tmp_path / "run"
    out.mkdir()
    sentence = f"--out must be a folder that no run writes in, got {out}, where one is training now"
    with run_folder.held_folder(out):
        for more in ([], ["--overwrite"]):
            assert train(out, "--no-eval", *more) == (1, f"ssd-cuda: error: {sentence}\n")
    assert not list(out.iterdir()) and train(out, "--no-eval")[0] == 0
    with run_folder.held_folder(out):
        resumed = train(out, "--no-eval", "--resume", out / "checkpoint.pt")
        assert resumed == (1, f"ssd-cuda: error: {sentence}\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_run_that_was_killed_holds_no_folder(tmp_path):
    """Though a process that it started, as one that loads, is still there."""
    code = f"""
import os, time
from pathlib import Path
from ssd_cuda.engine.run_folder import held_folder
with held_folder(Path({str(tmp_path)!r})):
    if os.fork():
        time.sleep(600)
    print("begun", flush=True)
    time.sleep(600)
"""
    with child([sys.executable, "-c", code]) as process:
        assert process.stdout.readline() == b"begun\n"
        with pytest.raises(ValueError, match="one is training now"), run_folder.held_folder(tmp_path):
            pass
        process.kill()
        process.wait()
        with run_folder.held_folder(tmp_path):
            pass


def test_a_file_that_cannot_be_removed_is_one_sentence(tmp_path):
    (tmp_path / "best.pt").mkdir()
    with pytest.raises(OutputError, match=r"best\.pt cannot be removed: " + os.strerror(21)):
        run_folder.remove_files([tmp_path / "best.pt"])
