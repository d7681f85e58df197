"""What the commands write, and what they leave alone: inputs, files in the way, half of a run."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from children import child
from layouts import photo, write_checkpoint, write_coco, write_voc, xml
from PIL import Image

from ssd_cuda import cli, data
from ssd_cuda.engine import demo, outputs
from ssd_cuda.engine.files import image_files, picture_paths, refuse_inputs
from ssd_cuda.engine.outputs import OutputError, write_file, write_text

RUN = ["--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint.pt")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.png", "c.Jpg"):
        photo(folder / name)
    return folder


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def detect(capsys, checkpoint, *arguments):
    return run(capsys, "detect", *arguments, "-c", checkpoint, *RUN)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# detect and its inputs


@pytest.mark.parametrize("out", ["{photos}", "{photos}/", "{photos}/../photos", "{link}", "{photos}/b.png"])
def test_detect_never_writes_over_its_input(capsys, checkpoint, photos, out):
    (photos.parent / "link").symlink_to(photos)
    out = out.format(photos=photos, link=photos.parent / "link")
    images = [photos / "b.png"] if out.endswith("b.png") else [photos]
    before = contents(photos)
    status, _, err = detect(capsys, checkpoint, *images, "-o", out)
    assert status == 1 and "--out must leave its inputs as they are, got" in err and err.count("\n") == 1
    assert contents(photos) == before


def test_a_picture_that_links_to_an_input_is_refused(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").hardlink_to(photos / "a.jpg")
    with pytest.raises(ValueError, match=r"must leave its inputs as they are, got .*out/a\.png"):
        picture_paths([photos / "a.jpg"], tmp_path / "out")
    refuse_inputs("--json", [tmp_path / "new.json"], [photos / "a.jpg"])


def test_json_is_none_of_the_inputs(capsys, checkpoint, photos, tmp_path):
    for path in (photos / "a.jpg", checkpoint):
        before = path.read_bytes()
        status, _, err = detect(capsys, checkpoint, photos, "-o", tmp_path / "out", "--json", path)
        assert status == 1 and "--json must leave its inputs as they are" in err
        assert path.read_bytes() == before
    status, _, err = run(capsys, "eval", checkpoint, "--json", checkpoint, *RUN)
    assert status == 1 and "--json must leave its inputs as they are" in err


def test_one_unreadable_picture_is_told_and_left_out(capsys, checkpoint, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"no image")
    (photos / "._a.jpg").write_bytes(b"\x00\x05\x16\x07")
    os.mkfifo(photos / "pipe.jpg")
    out = tmp_path / "out"
    status, said, err = detect(
        capsys, checkpoint, photos, "-o", out, "--batch-size", 2, "--json", tmp_path / "x.json"
    )
    assert status == 1 and "wrote 3 pictures" in said
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "c.png"]
    lines = err.splitlines()
    assert len(lines) == 2 and all(line.endswith("; it is left out") for line in lines)
    assert "bad.jpg cannot be read" in lines[0] and "pipe.jpg must be a file, got a pipe" in lines[1]
    assert len(json.loads((tmp_path / "x.json").read_text())) == 3


def test_hidden_files_of_a_folder_are_not_images(photos):
    (photos / "._a.jpg").write_bytes(b"")
    (photos / "d.TIFF").write_bytes(b"")
    assert [path.name for path in image_files([str(photos)])] == ["a.jpg", "b.png", "c.Jpg", "d.TIFF"]


def test_detections_of_an_interrupted_run_are_kept(capsys, checkpoint, photos, tmp_path, monkeypatch):
    real, calls = data.read_image, []

    def interrupt(path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(data, "read_image", interrupt)
    status, _, err = detect(
        capsys, checkpoint, photos, "-o", tmp_path / "out", "--batch-size", 1, "--json", tmp_path / "x.json"
    )
    assert status == 130 and "interrupted" in err
    assert [Path(row["image"]).name for row in json.loads((tmp_path / "x.json").read_text())] == ["a.jpg"]


# Files in the way


def test_an_output_that_cannot_be_is_one_sentence(capsys, checkpoint, photos, tmp_path):
    file, folder = tmp_path / "file", tmp_path / "x.png"
    file.write_text("mine")
    folder.mkdir()
    image = photos / "a.jpg"
    for arguments, sentence in [
        (["detect", image, "-o", file, "-c", checkpoint], f"got the file {file}"),
        (["detect", image, "-o", file / "deep", "-c", checkpoint], "where a file is in the way"),
        (["detect", image, "-o", file / "x.png", "-c", checkpoint], "where a file is in the way"),
        (
            ["detect", image, "-o", tmp_path / "o", "-c", checkpoint, "--json", folder],
            "--json must be a file",
        ),
        (["eval", checkpoint, "--json", file / "x.json"], "the folder of --json must be a folder, got"),
        (["train", "--out", file], f"--out must be a folder, got {file}, where a file is in the way"),
        (["train", "--out", "/proc/none"], "--out must be a folder to write in, got /proc/none"),
    ]:
        status, said, err = run(capsys, *arguments, *RUN)
        assert status == 1 and sentence in err and err.count("\n") == 1, err
        assert "epoch" not in said
    assert file.read_text() == "mine"


def test_a_folder_that_is_called_like_a_picture_is_a_folder(capsys, checkpoint, photos, tmp_path):
    (tmp_path / "x.png").mkdir()
    assert detect(capsys, checkpoint, photos / "a.jpg", "-o", tmp_path / "x.png")[0] == 0
    assert (tmp_path / "x.png/a.png").is_file()


def test_a_pipe_is_written_and_a_link_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit((tmp_path / "pipe").read_text)
        write_text(tmp_path / "pipe", "content")
        assert reader.result() == "content"
    (tmp_path / "far").mkdir()
    (tmp_path / "far/x.json").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "far/x.json")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far/x.json").read_text() == "new"
    assert os.listdir(tmp_path / "far") == ["x.json"]


def test_a_file_that_is_called_like_a_partial_one_stays(capsys, checkpoint, tmp_path):
    """A download that was not whole is called so, and was gone once it was imported."""
    source, out = tmp_path / "x.pt.partial", tmp_path / "x.pt"
    source.write_bytes(checkpoint.read_bytes())
    status, _, err = run(capsys, "import", source, "-o", out)
    assert status == 0, err
    assert source.read_bytes() == checkpoint.read_bytes() and sorted(tmp_path.iterdir()) == [out, source]
    with pytest.raises(OutputError):  # of a failure nothing is left, and no other file is gone
        write_file(out, lambda file: os.stat("/none"))
    assert source.read_bytes() == checkpoint.read_bytes() and sorted(tmp_path.iterdir()) == [out, source]


def test_no_name_of_a_device_is_replaced(monkeypatch, tmp_path):
    """/dev/stdout leads to a file where the output is redirected, and must not become that file."""
    monkeypatch.setattr(outputs, "_is_special", lambda path: path.parent == tmp_path)
    (tmp_path / "file").write_text("old")
    (tmp_path / "stdout").symlink_to(tmp_path / "file")
    monkeypatch.setattr(os, "replace", None)
    write_text(tmp_path / "stdout", "new")
    assert (tmp_path / "file").read_text() == "new" and (tmp_path / "stdout").is_symlink()
    monkeypatch.undo()
    assert outputs._is_special(Path("/dev/stdout")) and not outputs._is_special(Path("dev/stdout"))


# Names


def test_names_reach_the_terminal_without_control_characters(capsys, tmp_path):
    root = write_voc(tmp_path)
    evil = "cell\x9b31m\u202e"
    for name in "abc":
        (root / f"Annotations/{name}.xml").write_text(xml((evil, (1, 2, 31, 22), False)), encoding="utf-8")
    arguments = ["--data", root, "--out", tmp_path / "run\x1b[2J", "--epochs", 1, "--size", 64, 64]
    status, out, err = run(capsys, "train", *arguments, "--batch-size", 2, *RUN)
    assert status == 0, err
    assert "cell\\x9b31m\\u202e" in out and "run\\x1b[2J" in out
    assert not {"\x1b", "\x9b", "\u202e"} & set(out + err)
    photo(tmp_path / "p\x07.jpg")
    path = tmp_path / "run\x1b[2J/checkpoint.pt"
    status, out, err = detect(capsys, path, tmp_path / "p\x07.jpg", "-o", tmp_path / "o", "--threshold", 0)
    assert status == 0 and "p\\x07.jpg" in out and not {"\x1b", "\x07"} & set(out + err)
    status, out, err = run(capsys, "eval", path, "--data", "\x1b[31m", *RUN)
    assert status == 1 and "\x1b" not in err


# Options of the data


def test_one_based_and_voc07_reach_the_data_and_the_metric(capsys, tmp_path, monkeypatch):
    from ssd_cuda.engine import evaluate

    root = write_voc(tmp_path)
    checkpoint = write_checkpoint(tmp_path / "x.pt", ("cat", "dog", "emu"))
    seen = {}
    real = evaluate.voc_ap

    def spy(predictions, targets, classes, *, rule):
        seen.update(rule=rule, box=targets[0]["boxes"].tolist()[0])
        return real(predictions, targets, classes, rule=rule)

    monkeypatch.setattr(evaluate, "voc_ap", spy)
    for options, rule, corner in ([], "area", 5.0), (["--one-based", "--voc07"], "11point", 4.0):
        assert run(capsys, "eval", checkpoint, "--data", root, "--split", "val", *options, *RUN)[0] == 0
        assert seen["rule"] == rule and seen["box"][0] == corner


def test_allow_outside_is_an_option(capsys, tmp_path):
    root = write_voc(tmp_path)
    checkpoint = write_checkpoint(tmp_path / "x.pt", ("cat", "dog", "emu"))
    (root / "JPEGImages/c.jpg").rename(tmp_path / "c.jpg")
    (root / "Annotations/c.xml").rename(tmp_path / "c.xml")
    (root / "ImageSets/Main/val.txt").write_text("../../c\n")
    arguments = ["eval", checkpoint, "--data", root, "--split", "val", *RUN]
    status, _, err = run(capsys, *arguments)
    assert status == 1 and "--allow-outside" in err
    assert run(capsys, *arguments, "--allow-outside")[0] == 0


def test_coco_classes_in_another_order_are_not_taken_for_the_models(capsys, tmp_path):
    """The second split has as many classes, under other names: the numbers would be of wrong labels."""
    root = write_coco(tmp_path)
    path = root / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace("bicycle", "zebra"))
    checkpoint = write_checkpoint(tmp_path / "x.pt", ("bicycle", "brush"))
    status, _, err = run(capsys, "eval", checkpoint, "--data", root, *RUN)
    assert (
        status == 1
        and "classes of the checkpoint, bicycle, brush, got zebra, brush in the split 'val2017'" in err
    )
    status, _, err = run(capsys, "train", "--data", root, "--out", tmp_path / "run", *RUN)
    told = "classes of the split 'train2017', which is trained on, bicycle, brush, got zebra, brush in"
    assert status == 1 and told in err
    with pytest.raises(ValueError, match="got bicycle, brush in 'train2017' and zebra, brush in"):
        demo.run_demo(root, tmp_path / "demo")


def test_a_split_without_objects_is_told_before_training(capsys, tmp_path):
    root = write_voc(tmp_path)
    (root / "ImageSets/Main/train.txt").write_text("b\nb\n")
    arguments = ["--data", root, "--out", tmp_path / "o", "--epochs", 1, "--size", 64, 64, "--no-eval"]
    status, _, err = run(capsys, "train", *arguments, *RUN)
    assert status == 0 and f"warning: the split 'train' of {root} has no objects" in err


# Ctrl-C


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupt_saves_what_there_is_and_leaves_no_traceback(tmp_path, number, status, word):
    """As a terminal and a batch system do it: the signal goes to the training process and to its workers."""
    command = [sys.executable, "-m", "ssd_cuda", "train", "--data", write_voc(tmp_path)]
    command += ["--out", tmp_path / "run", "--epochs", 100_000, "--batch-size", 2]
    command += ["--size", 64, 64, "--device", "cpu", "--workers", 2, "--no-eval"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with child(command, env=environment) as process:
        assert b"training" in process.stdout.readline()
        assert b"epoch 1/100000" in process.stdout.readline()
        time.sleep(0.5)
        os.killpg(process.pid, number)
        err = process.communicate(timeout=300)[1]
    assert process.returncode == status, err
    lines = err.decode().split("\n")
    assert "Traceback" not in err.decode() and lines[-2].startswith(f"ssd-cuda: {word}; wrote ")
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert state["step"] >= 1 and len(state["history"]) == state["step"]
    assert Image.open(tmp_path / "run/loss.png").size[0] > 100
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint.pt", "loss.png", "metrics.csv"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="a terminal")
def test_a_terminal_that_goes_leaves_what_there_is(tmp_path):
    """A connection that is lost: nothing that is still said to it is an error that ends the run first."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may run the tests\n"
    code += "from ssd_cuda.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "train", "--data", write_voc(tmp_path)]
    command += ["--out", tmp_path / "run", "--epochs", 100_000, "--batch-size", 2]
    command += ["--size", 64, 64, "--device", "cpu", "--workers", 2, "--no-eval"]
    terminal, theirs = os.openpty()
    with child(command, **dict.fromkeys(("stdin", "stdout", "stderr"), theirs)) as process:
        os.close(theirs)
        said = b""
        while b"epoch 3/" not in said:
            said += os.read(terminal, 1 << 16)
        os.close(terminal)
        os.killpg(process.pid, signal.SIGHUP)
        assert process.wait(300) == 129
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert state["step"] >= 3 and len(state["history"]) == state["step"]
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint.pt", "loss.png", "metrics.csv"]
