"""The command line: what each command prints and writes, and one sentence for each mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from children import child
from PIL import Image

import ssd_cuda
from ssd_cuda import cli, data
from ssd_cuda.engine.files import picture_paths

SMALL = ["--size", "64", "96", "--workers", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch):
    real = data.open_dataset
    monkeypatch.setattr(data, "open_dataset", lambda path, split, **o: _few(real, path, split, o))


def _few(real, path, split, options):
    small = {"length": 8, "size": (64, 96)} if str(path) == "shapes" else {}
    return real(path, split, **small, **options)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """A Pascal VOC folder of two images with one object each."""
    root = tmp_path_factory.mktemp("voc")
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "test"):
        (root / f"ImageSets/Main/{split}.txt").write_text("a\nb\n")
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (96, 64), colour).save(root / f"JPEGImages/{name}.jpg")
        (root / f"Annotations/{name}.xml").write_text(
            "<annotation><size><width>96</width><height>64</height><depth>3</depth></size><object>"
            "<name>cell</name><bndbox><xmin>8</xmin><ymin>9</ymin><xmax>50</xmax><ymax>44</ymax></bndbox>"
            "</object></annotation>"
        )
    return root


@pytest.fixture(scope="module")
def checkpoint(voc, tmp_path_factory):
    out = tmp_path_factory.mktemp("train")
    arguments = ["train", "--data", str(voc), "--out", str(out), "--epochs", "2", "--batch-size", "2"]
    assert cli.main([*arguments, "--no-eval", *SMALL]) == 0
    return out / "checkpoint.pt"


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_train_writes_and_evaluates(capsys, tmp_path):
    status, out, err = run(capsys, "train", "--out", tmp_path, "--epochs", 1, "--batch-size", 4, *SMALL)
    assert status == 0, err
    assert "epoch 1/1  loss" in out and "mAP 50-95" in out and "triangle" in out
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "loss.png", "metrics.csv"}


def test_train_resumes_with_the_same_options(capsys, checkpoint, voc, tmp_path):
    same = ["train", "--data", voc, "--out", tmp_path, "--batch-size", 2, "--resume", checkpoint, "--no-eval"]
    assert run(capsys, *same, "--epochs", 2, *SMALL)[0] == 0
    status, _, err = run(capsys, *same, "--epochs", 3, "--overwrite", *SMALL)
    assert status == 1 and "same recipe, got {'epochs': 2}" in err


def test_eval_prints_a_table_and_writes_json(capsys, checkpoint, voc, tmp_path):
    target = tmp_path / "deep" / "scores.json"
    status, out, err = run(
        capsys, "eval", checkpoint, "--data", voc, "--json", target, "--workers", 0, "--device", "cpu"
    )
    assert status == 0, err
    assert out.splitlines()[0].split() == ["class", "objects", "AP50", "mAP", "50-95"]
    assert out.splitlines()[1].split()[:2] == ["cell", "2"]
    assert set(json.loads(target.read_text())) == {"ap50", "map", "voc", "coco"}


def test_detect_writes_pictures_and_json(capsys, checkpoint, voc, tmp_path):
    status, out, err = run(
        capsys, "detect", voc / "JPEGImages", "--checkpoint", checkpoint, "--out", tmp_path / "found",
        "--threshold", 0, "--json", tmp_path / "found.json", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"a.png", "b.png"}
    rows = json.loads((tmp_path / "found.json").read_text())
    assert [Path(row["image"]).name for row in rows] == ["a.jpg", "b.jpg"]
    for detection in rows[0]["detections"]:
        x1, y1, x2, y2 = detection["box"]
        assert 0 <= x1 <= x2 <= 96 and 0 <= y1 <= y2 <= 64
        assert detection["class"] == "cell" and 0 <= detection["score"] <= 1
    assert "wrote 2 pictures" in out


def test_detect_writes_the_one_file_it_is_given(capsys, checkpoint, voc, tmp_path):
    target = tmp_path / "deep" / "out.png"
    status, _, err = run(
        capsys, "detect", voc / "JPEGImages" / "a.jpg", "-c", checkpoint, "-o", target, "--device", "cpu"
    )
    assert status == 0, err
    assert target.stat().st_size > 0 and list(target.parent.iterdir()) == [target]


def test_pictures_of_files_with_one_stem_do_not_overwrite_each_other():
    files = [Path("a/x.jpg"), Path("b/x.jpg"), Path("b/x.png"), Path("b/y.png"), Path("a/x.jpg")]
    paths = picture_paths(files, Path("out"))
    assert [path.name for path in paths.values()] == ["x.png", "x-2.png", "x-3.png", "y.png"]


def test_info_tells_every_fact(capsys):
    status, out, _ = run(capsys, "info")
    facts = ssd_cuda.build_info()
    assert status == 0
    for expected in (ssd_cuda.__version__, torch.__version__, "CUDA of the build", "cards", "architectures"):
        assert expected in out
    assert ("loaded" in out) and (facts["available"] != ("not loaded" in out))


def test_bench_points_to_the_source_tree(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "multibox", "--plot"])
    assert caught.value.code == 2
    assert "bench is part of the source tree: run `make bench`" in capsys.readouterr().err


def broken_voc(tmp_path, voc, name, content):
    root = tmp_path / "broken"
    for path in voc.rglob("*"):
        if path.is_file():
            copy = root / path.relative_to(voc)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("Annotations/b.xml", b"<annotation><object>", "b.xml does not parse"),
        ("JPEGImages/b.jpg", b"no image", "b.jpg cannot be read"),
        ("ImageSets/Main/train.txt", b"a\nmissing\n", "missing.xml does not exist"),
    ],
)
def test_a_broken_data_set_names_the_file(capsys, tmp_path, voc, name, content, finding, workers):
    root = broken_voc(tmp_path, voc, name, content)
    status, _, err = run(
        capsys, "train", "--data", root, "--out", tmp_path / "out", "--size", 64, 96, "--workers", workers,
        "--device", "cpu", "--no-eval",
    )  # fmt: skip
    assert status == 1
    assert err.strip().splitlines()[-1].startswith("ssd-cuda: error:") and finding in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["train", "--data", "/no/such/folder"], "/no/such/folder"),
        (["train", "--model", "yolo"], "--model must be one of ssd_small, ssd300_vgg16, ssd512_vgg16, "),
        (["train", "--model", "ssd300_vgg16", "--size", "64", "96"], "image_size of ssd300_vgg16 must be"),
        (["train", "--size", "0", "96"], "--size must be at least 64 pixels a side, the stride of"),
        (["train", "--size", "1", "1"], "--size must be at least 64 pixels a side, the stride of"),
        (["train", "--size", "100000", "100000"], "--size 100000 100000 with --batch-size 8 needs more than"),
        (
            ["train", "--size", "64", "64", "--batch-size", "1"],
            "--batch-size must be at least 2 where",
        ),
        (["train", "--batch-size", "10000000"], "--batch-size must be at most 1000000, got 10000000"),
        (["train", "--min-negatives", "-1"], "min_negatives must lie in"),
        (["train", "--one-based"], "--one-based is for Pascal VOC folders, got --data shapes"),
        (["train", "--device", "mps"], "--device must be cpu, cuda or cuda:N, got 'mps'"),
        (["train", "--device", "meta"], "--device must be cpu, cuda or cuda:N, got 'meta'"),
        (["train", "--device", "cpu:1"], "--device must be cpu, cuda or cuda:N, got 'cpu:1'"),
        (["train", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["train", "--workers", "-1"], "--workers must be at least 0, got -1"),
        (["train", "--lr", "0"], "lr must lie in"),
        (["train", "--data", ""], "data must not be empty, got ''"),
        (["train", "--resume", ""], "resume must not be empty, got ''"),
        (["train", "--test-split", "foo", "--epochs", "1"], "must be 'train' or 'test', got 'foo'"),
        (["train", "--test-split", ""], "test-split must not be empty, got ''"),
        (["eval", ""], "checkpoint must not be empty, got ''"),
        (["eval", __file__, "--json", ""], "json must not be empty, got ''"),
        (["detect", __file__, ""], "images must not be empty, got ''"),
        (["train", "--device", "tpu9"], "--device must be cpu, cuda or cuda:N, got 'tpu9'"),
        (["train", "--resume", "/no/such.pt"], "checkpoint /no/such.pt does not exist"),
        (["eval", "/no/such.pt"], "checkpoint /no/such.pt does not exist"),
        (["eval", __file__], "must be a checkpoint of ssd_cuda"),
        (["detect", "/no/such.jpg"], "image /no/such.jpg does not exist"),
        (["detect", __file__, "-c", "/no/such.pt"], "checkpoint /no/such.pt does not exist"),
        (["detect", __file__, __file__, "-o", "x.png"], "--out must be a folder for 2 images, got x.png"),
        (["detect", __file__, "--threshold", "2"], "--threshold must lie in [0, 1], got 2.0"),
    ],
)
def test_a_mistake_gets_one_sentence(capsys, tmp_path, arguments, finding):
    where = ["--out", tmp_path] if arguments[0] == "train" else []
    status, out, err = run(capsys, *arguments, *where)
    assert status == 1 and "epoch" not in out
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ssd-cuda: error:") and finding in lines[0]


def test_detect_names_what_it_cannot_use(capsys, checkpoint, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    status, _, err = run(capsys, "detect", bad, "-c", checkpoint, "--out", tmp_path / "o", "--device", "cpu")
    assert status == 1 and "bad.jpg cannot be read" in err
    (tmp_path / "empty").mkdir()
    status, _, err = run(capsys, "detect", tmp_path / "empty", "-c", checkpoint, "--device", "cpu")
    assert status == 1 and "must hold images" in err


@pytest.mark.parametrize("workers", [0, 1])
def test_eval_names_the_image_it_cannot_read(capsys, checkpoint, tmp_path, voc, workers):
    root = broken_voc(tmp_path, voc, "JPEGImages/b.jpg", b"no image")
    status, _, err = run(capsys, "eval", checkpoint, "--data", root, "--workers", workers, "--device", "cpu")
    assert status == 1 and "b.jpg cannot be read" in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_eval_refuses_data_of_other_classes(capsys, checkpoint):
    status, _, err = run(capsys, "eval", checkpoint, "--data", "shapes", "--device", "cpu")
    assert status == 1 and "--data must have the classes of the checkpoint, cell, got circle" in err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--epochs", "many"], ["info", "--loud"]])
def test_a_line_that_does_not_parse_exits_with_two(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2 and "usage: ssd-cuda" in capsys.readouterr().err


def test_the_module_runs():
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "ssd_cuda", "--version"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.strip() == f"ssd_cuda {ssd_cuda.__version__}"


@pytest.mark.parametrize(
    ("cards", "finding"),
    [
        (0, "--device must be cpu: torch finds no card on this machine, got 'cuda:9'"),
        (2, "--device must name a card of this machine, cuda:0, cuda:1, got 'cuda:9'"),
    ],
)
def test_a_card_that_is_not_there(capsys, tmp_path, monkeypatch, cards, finding):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    assert run(capsys, "train", "--device", "cuda:9", "--out", tmp_path)[::2] == (
        1, f"ssd-cuda: error: {finding}\n",
    )  # fmt: skip


@pytest.mark.parametrize("written", [0, 1])
def test_a_reader_that_leaves_first_is_no_error(written):
    """As ``ssd-cuda models | head -1``: before anything is written, or between two lines that are said."""
    code = """
import atexit
import sys
from ssd_cuda.cli import main, models
from ssd_cuda.engine.console import say

def two_lines(_):
    for line in ("one", "two"):
        sys.stdin.readline()
        say(line)

models.run = two_lines
atexit.register(print, "what is said last")
sys.exit(main(["models"]))
"""
    with child([sys.executable, "-c", code]) as process:
        if written:
            process.stdin.write(b"go\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"one\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_a_full_disk_and_another_pipe_are_errors():
    root = Path(__file__).parents[1]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ssd_cuda", "models"], cwd=root, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space left" in done.stderr

    code = "from ssd_cuda.cli import main, models\n"
    code += "def fail(_): raise BrokenPipeError('of a worker')\n"
    code += "models.run = fail\nraise SystemExit(main(['models']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "broken pipe" in done.stderr
