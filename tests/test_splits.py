"""Which images are trained on and which are tested on: never the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from layouts import write_checkpoint, write_coco, write_voc

from ssd_cuda import cli
from ssd_cuda.data import DataError, data_splits, open_dataset
from ssd_cuda.data.coco import in_order_of
from ssd_cuda.data.loading import data_split
from ssd_cuda.engine import demo

LINE = ["--size", "64", "128", "--device", "cpu", "--workers", "0", "--batch-size", "2"]
LINE += ["--warmup-steps", "0"]


def train(capsys, root, out, *arguments):
    line = ["train", "--data", root, "--out", out, "--epochs", 1, *LINE, *arguments]
    return cli.main([str(word) for word in line]), capsys.readouterr().err


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path)


def split_file(root, name, images):
    (root / f"ImageSets/Main/{name}.txt").write_text("".join(f"{image}\n" for image in images))


@pytest.mark.parametrize(
    ("arguments", "trained", "tested"),
    [
        (["--split", "val"], "val", "val"),
        (["--test-split", "train"], "train", "train"),
        (["--test-split", "again"], "train", "again"),
        (["--test-split", "train", "--no-eval", "--eval-every", "1"], "train", "train"),
        (["--data", "shapes", "--split", "test"], "test", "test"),
    ],
)
def test_the_images_that_are_trained_on_test_nothing(capsys, voc, tmp_path, arguments, trained, tested):
    split_file(voc, "again", "ba")
    status, err = train(capsys, voc, tmp_path / "run", *arguments)
    assert status == 1 and err.count("\n") == 1, err
    names = f"the test split must have other images than {trained!r}, which is trained on, got {tested!r}"
    assert f"{names}: give another --test-split, or --no-eval" in err
    assert not list((tmp_path / "run").iterdir())


def test_a_split_may_be_trained_on_alone(capsys, voc, tmp_path):
    assert train(capsys, voc, tmp_path / "run", "--split", "val", "--no-eval") == (0, "")


def test_images_of_both_splits_are_counted(capsys, voc, tmp_path):
    split_file(voc, "val", "cb")
    status, err = train(capsys, voc, tmp_path / "run")
    assert status == 0 and err == (
        "ssd-cuda: warning: 1 of the 2 test images of 'val' are trained on too, in 'train': "
        "scores of these are too good\n"
    )
    with pytest.warns(UserWarning, match="1 of the 2 test images of 'val' are trained on too"):
        demo.run_demo(voc, tmp_path / "demo", epochs=1)


def test_files_of_one_name_in_two_folders_are_two_images(capsys, tmp_path):
    assert train(capsys, write_coco(tmp_path), tmp_path / "run") == (0, "")


def test_one_folder_of_images_for_both_splits_is_told(capsys, tmp_path):
    root = write_coco(tmp_path)
    for path in (root / "val2017").iterdir():
        path.unlink()
    (root / "val2017").rmdir()
    (root / "val2017").symlink_to(root / "train2017")
    status, err = train(capsys, root, tmp_path / "run")
    assert status == 1 and "other images than 'train2017', which is trained on, got 'val2017'" in err


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_one_photograph_under_two_names_is_one_image(capsys, tmp_path, link):
    root = write_coco(tmp_path)
    trained, tested = (sorted((root / split).iterdir()) for split in ("train2017", "val2017"))
    tested[0].unlink()
    link(tested[0], trained[0])
    status, err = train(capsys, root, tmp_path / "run")
    assert status == 0 and "1 of the 2 test images of 'val2017' are trained on too, in 'train2017'" in err
    tested[1].unlink()
    link(tested[1], trained[1])
    status, err = train(capsys, root, tmp_path / "again")
    assert status == 1 and "other images than 'train2017', which is trained on, got 'val2017'" in err


# Which splits a folder must have


def only(root, *names):
    for path in (root / "ImageSets/Main").iterdir():
        path.unlink()
    for name in names:
        split_file(root, name, "ab")


def test_without_a_test_one_split_is_enough(capsys, voc, tmp_path):
    only(voc, "train")
    assert train(capsys, voc, tmp_path / "run", "--no-eval") == (0, "")
    for number, arguments in enumerate([[], ["--no-eval", "--eval-every", 1]]):
        status, err = train(capsys, voc, tmp_path / f"run {number}", *arguments)
        assert status == 1 and err == (
            f"ssd-cuda: error: {voc} must hold a split to test on (test or val), got train: "
            "give another --test-split, or --no-eval and no --eval-every\n"
        )
    only(voc, "all")
    status, err = train(capsys, voc, tmp_path / "all", "--no-eval")
    assert status == 1 and "a split to train on (trainval or train), got all: --split names one" in err
    assert train(capsys, voc, tmp_path / "all", "--no-eval", "--split", "all") == (0, "")


def test_data_and_eval_need_the_split_they_read_alone(capsys, voc, tmp_path):
    only(voc, "trainval")
    report = ["data", str(voc), "--size", "64", "64", "-o", str(tmp_path / "x.png")]
    assert cli.main(report) == 0 and "'trainval' of " in capsys.readouterr().out
    line = ["eval", str(write_checkpoint(tmp_path / "x.pt", ("cat", "dog", "emu"))), "--data", str(voc)]
    line += ["--device", "cpu", "--workers", "0"]
    assert cli.main(line) == 1
    assert "a split to test on (test or val), got trainval: --split names one\n" in capsys.readouterr().err
    only(voc, "val")
    assert cli.main(line) == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "trainval", "val", "test"), ("trainval", "test")),
        (("train", "trainval", "val"), ("train", "val")),  # whether it is tested or not
        (("train",), ("train", None)),
        (("trainval", "val"), ("trainval", None)),  # a part of it is no test of it
        (("val",), (None, "val")),
        (("other",), (None, None)),
    ],
)
def test_the_usual_splits(voc, names, expected):
    only(voc, *names)
    for role, split in zip(("train", "test"), expected, strict=True):
        if split is None:
            with pytest.raises(DataError, match=f"must hold a split to {role} on .*, got "):
                data_split(voc, role)
        else:
            assert data_split(voc, role) == split
    if None in expected:
        with pytest.raises(DataError, match="must hold a split to train on and one to test on"):
            data_splits(voc)
    else:
        assert data_splits(voc) == expected


def test_a_coco_folder_may_have_one_file(tmp_path):
    root = write_coco(tmp_path)
    (root / "annotations/instances_val2017.json").unlink()
    assert data_split(root, "train") == "train2017"
    with pytest.raises(DataError, match=r"must hold a split to test on .*, got train2017"):
        data_split(root, "test")


# Which classes they have


def test_a_category_may_have_another_id_in_each_file(capsys, tmp_path, monkeypatch):
    """Labels follow the names, so that an object is of the class that was trained under its name."""
    root = write_coco(tmp_path)
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 5, "name": "brush"}, {"id": 70, "name": "bicycle"}]
    for entry, category in zip(content["annotations"], (5, 70), strict=True):
        entry["category_id"] = category
    path.write_text(json.dumps(content))
    trained, tested = (open_dataset(root, split) for split in ("train2017", "val2017"))
    assert trained.classes == ("bicycle", "brush") and tested.classes == ("brush", "bicycle")
    assert in_order_of(tested, trained.classes) is tested and tested.classes == trained.classes
    assert tested.category_ids == (70, 5)
    for index in 0, 1:
        assert tested.target(index)["labels"].tolist() == trained.target(index)["labels"].tolist()
    assert in_order_of(tested, ("bicycle", "zebra")).classes == trained.classes
    assert train(capsys, root, tmp_path / "run") == (0, "")
    line = ["eval", str(tmp_path / "run/checkpoint.pt"), "--data", str(root), "--device", "cpu"]
    assert cli.main([*line, "--workers", "0"]) == 0
    rows = [row.split()[:2] for row in capsys.readouterr().out.splitlines()]
    assert ["bicycle", "0"] in rows and ["brush", "1"] in rows
    monkeypatch.setattr(demo, "_train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # the demo comes as far as its training
        demo.run_demo(root, tmp_path / "demo")


def test_three_categories_are_turned_as_their_names_are(tmp_path):
    root = write_coco(tmp_path)
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate("abc")]
    objects = [{"id": n, "image_id": 7, "category_id": n, "bbox": [n, n, 9, 9]} for n in range(3)]
    path.write_text(json.dumps({**content, "annotations": objects}))
    dataset = in_order_of(open_dataset(root, "val2017"), "cab")
    assert dataset.category_ids == (2, 0, 1)
    target = dataset.target(0)
    found = {
        dataset.classes[n - 1]: box[0]
        for n, box in zip(target["labels"], target["boxes"].tolist(), strict=True)
    }
    assert found == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_one_name_in_two_cases_is_told(tmp_path, layout):
    if layout == "voc":
        root, split = write_voc(tmp_path), "train"
        path = root / "Annotations/c.xml"
        path.write_text(path.read_text().replace("emu", "Dog"))
    else:
        root, split = write_coco(tmp_path), "val2017"
        path = root / "annotations/instances_val2017.json"
        path.write_text(path.read_text().replace("bicycle", "Brush"))
    with pytest.warns(
        UserWarning, match="^'(Dog' and 'dog|Brush' and 'brush)' are taken for classes of their own$"
    ):
        open_dataset(root, split)


def test_no_epochs_are_not_as_many_as_usual(tmp_path):
    with pytest.raises(ValueError, match=r"epochs must lie in \[1, \d+\], got 0"):
        demo.run_demo("shapes", tmp_path / "demo", epochs=0)
