"""What the commands take from each other where nothing is said, and options that would do nothing."""

from __future__ import annotations

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from layouts import photo, write_checkpoint, write_voc

from ssd_cuda import cli

LINE = ["--size", "64", "64", "--device", "cpu", "--workers", "0", "--batch-size", "2", "--warmup-steps", "0"]


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_detect_looks_where_train_writes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "a.png")
    line = ["detect", "a.png", "--device", "cpu"]
    sentence = "--checkpoint must name what train or import wrote: there is no runs/train/checkpoint.pt"
    assert run(capsys, *line) == (1, "", f"ssd-cuda: error: {sentence}\n")
    write_checkpoint(tmp_path / "runs/demo/checkpoint.pt")
    assert run(capsys, *line)[0] == 1  # which the user has not trained
    train = ["train", "--data", write_voc(tmp_path), "--steps", 1, "--no-eval", *LINE]
    status, _, err = run(capsys, *train)
    assert status == 0, err
    status, said, err = run(capsys, *line, "--threshold", "1", "--limit", 1)
    assert status == 0 and "wrote 1 picture to runs/detect" in said, err


def test_a_run_keeps_its_priors_and_says_so(capsys, tmp_path):
    line = ["train", "--data", write_voc(tmp_path), "--out", tmp_path / "run", "--no-eval", *LINE]
    assert run(capsys, *line, "--epochs", 1)[0] == 0
    goes_on = [*line, "--epochs", 2, "--extend", "--resume", tmp_path / "run/checkpoint.pt"]
    said = f"priors stay those of {tmp_path}/run/checkpoint.pt: a run does not change them"
    assert said in run(capsys, *goes_on, "--priors", "auto")[1]
    assert "priors stay" not in run(capsys, *goes_on)[1]


def test_one_is_not_in_the_plural(capsys, tmp_path):
    root = write_voc(tmp_path)
    (root / "ImageSets/Main/one.txt").write_text("a\n")
    line = ["train", "--data", root, "--split", "train", "--out", tmp_path / "run", "--no-eval", "--steps", 1]
    assert run(capsys, *line, *LINE)[0] == 0
    _, said, err = run(capsys, "curves", tmp_path / "run", "-o", tmp_path / "x.png")
    assert ": 1 step, last loss" in said, err
    _, said, err = run(capsys, "data", root, "--split", "one", "-o", tmp_path / "x.png")
    assert "\n1 image, 0 of them" in said, err


def test_what_a_command_would_not_read_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        run(capsys, "data", tmp_path, "--voc07")
    assert "unrecognized arguments: --voc07" in capsys.readouterr().err
    status, _, err = run(capsys, "data", "one", "--data", "two", "-o", tmp_path / "x.png")
    assert status == 1 and "the folder and --data name the same thing, got one and two" in err
    given = write_checkpoint(tmp_path / "x.pt")
    status, _, err = run(capsys, "export", given, "-o", tmp_path / "x.pt2", "--opset", 18)
    assert status == 1 and "--opset is for ONNX, got 18 for form pt2" in err
