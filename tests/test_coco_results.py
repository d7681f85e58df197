"""``ssd-cuda detect --coco``: results that pycocotools holds against the data they are of."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

import numpy as np
from layouts import photo, write_checkpoint, write_coco
from PIL import Image

from ssd_cuda import cli
from ssd_cuda.engine.checkpoint import CheckpointError, ModelSpec, load_model
from ssd_cuda.engine.selection import ResultIds, Selection, coco_results
from ssd_cuda.models.class_names import default_names

SIZE, RUN = (64, 64), ["--device", "cpu", "--workers", "0"]
# The order of the file is not that of the ids, and no id is a label.
KINDS = {11: ("blue", (20, 30, 230)), 3: ("red", (230, 30, 20)), 7: ("green", (20, 200, 40))}


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def write_squares(root, images=12):
    """A COCO folder with a square of colour in each image, which has its id for a name."""
    numbers = np.random.default_rng(0)
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": kind} for number, (kind, _) in KINDS.items()]
    for folder in ("train", "val", "annotations"):
        (root / folder).mkdir(parents=True)
    for k in range(images):
        category, (_, colour) = list(KINDS.items())[k % 3]
        pixels = numbers.integers(90, 130, (*SIZE, 3), dtype=np.uint8)
        x, y, side = (int(v) for v in (*numbers.integers(0, 30, 2), numbers.integers(24, 34)))
        pixels[y : y + side, x : x + side] = colour
        image, name = 500 + 3 * k, f"{500 + 3 * k:06}.png"
        for split in ("train", "val"):
            Image.fromarray(pixels).save(root / split / name)
        content["images"].append({"id": image, "file_name": name, "height": 64, "width": 64})
        box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
        content["annotations"].append({"id": k + 1, "image_id": image, "category_id": category, **box})
    for split in ("train", "val"):
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def coco_ap(annotations, results):
    """AP as anyone computes it who has the two files alone."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(annotations))
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(str(results)), "bbox")
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    return evaluation.stats[0]


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def trained(squares):
    """A model that has learnt the squares somewhat."""
    line = ["train", "--data", squares, "--out", squares / "run", "--size", *SIZE, "--epochs", 50]
    assert cli.main([*map(str, line), "--no-eval", "--batch-size", "4", "--lr", "0.003", *RUN]) == 0
    return squares / "run/checkpoint.pt"


@pytest.fixture(scope="module")
def ap(squares, trained):
    """What ``ssd-cuda eval`` gives."""
    out = squares / "eval.json"
    assert cli.main(["eval", str(trained), "--data", str(squares), "--json", str(out), *RUN]) == 0
    found = json.loads(out.read_text())["map"]
    assert found > 0.2
    return found


def detect(capsys, checkpoint, *arguments):
    """With the model's own threshold, as eval has it."""
    return run(capsys, "detect", *arguments, "-c", checkpoint, "--threshold", 0.01, *RUN)


def test_the_ids_are_those_of_the_data_that_was_trained_on(capsys, squares, trained, ap, tmp_path):
    """What is written with them has the AP of ``ssd-cuda eval``; with 1, 2 and 3 it would be 0."""
    assert load_model(trained)[1].category_ids == (3, 7, 11)
    results = tmp_path / "results.json"
    status, _, err = detect(capsys, trained, squares / "val", "-o", tmp_path / "out", "--coco", results)
    assert status == 0, err
    truth = squares / "annotations/instances_val.json"
    assert coco_ap(truth, results) == pytest.approx(ap, abs=1e-6)


def test_annotations_give_the_ids_by_name(capsys, squares, trained, ap, tmp_path):
    """Of a file that numbers images and categories otherwise than the one that was trained on."""
    content = json.loads((squares / "annotations/instances_val.json").read_text())
    other = {3: 40, 7: 21, 11: 5}
    for image in content["images"]:
        image.update(id=image["id"] % 7 + 100 * image["id"], file_name=f"val/{image['file_name']}")
    for category in content["categories"]:
        category["id"] = other[category["id"]]
    for entry in content["annotations"]:
        entry["image_id"] = entry["image_id"] % 7 + 100 * entry["image_id"]
        entry["category_id"] = other[entry["category_id"]]
    truth, results = tmp_path / "other.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content))
    line = [squares / "val", "-o", tmp_path / "out", "--coco", results, "--annotations", truth]
    status, _, err = detect(capsys, trained, *line)
    assert status == 0, err
    assert coco_ap(truth, results) == pytest.approx(ap, abs=1e-6)


def test_a_file_without_annotations_gives_ids_too(capsys, tmp_path):
    """As COCO's of its test images, which are there to be detected on; a group is no category."""
    root, checkpoint = write_coco(tmp_path), write_checkpoint(tmp_path / "x.pt", ("bicycle", "brush"))
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    line = [root / "val2017", "-o", tmp_path / "out", "--annotations", path, "--coco", tmp_path / "c.json"]
    status, _, err = detect(capsys, checkpoint, *line)
    assert status == 0, err
    results = json.loads((tmp_path / "c.json").read_text())
    assert {row["image_id"] for row in results} <= {7, 3}
    assert {row["category_id"] for row in results} <= {2, 90}


def ids_of(classes, **given):
    spec = ModelSpec("ssd_small", tuple(classes), SIZE, **given)
    return list(ResultIds(Selection(spec.classes), spec).categories.values())


def test_the_names_of_coco_have_the_ids_of_coco():
    ids = ids_of(default_names(80))
    assert len(ids) == 80 and ids[:12] == [*range(1, 12), 13] and ids[-1] == 90
    assert ids_of(default_names(90)) == list(range(1, 91))
    assert ids_of(reversed(default_names(80))) == list(range(1, 81))  # in another order they are any names
    assert ids_of(("cat", "dog"), category_ids=("c", 9)) == ["c", 9]
    assert ids_of(("cat", "dog")) == [1, 2]


def test_labels_without_a_category_are_not_written(tmp_path):
    """Of networks with a label for each of COCO's ids, ten stand for nothing."""
    from ssd_cuda.data.coco import CocoIds

    classes, path = default_names(90), tmp_path / "coco.json"
    names = [name for name in classes if not name.startswith("unused")]
    categories = [{"id": 100 + k, "name": name} for k, name in enumerate(names)]
    path.write_text(json.dumps({"images": [{"id": 5, "file_name": "a.jpg"}], "categories": categories}))
    spec = ModelSpec("ssd_small", classes, SIZE)
    ids = ResultIds(Selection(classes), spec, ["x/a.jpg"], CocoIds(path))
    found = [{"box": [0, 0, 1, 1], "score": 0.5, "class": name} for name in ("unused 12", "stop sign")]
    (result,) = coco_results([{"image": "x/a.jpg", "detections": found}], ids)
    assert (result["image_id"], result["category_id"]) == (5, 111)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ANNOTATIONS"], "must have a category for each class that is written, got none for 'dog'"),
        (["ANNOTATIONS", "--classes", "brush"], "must list one image called {root}/val2017/z.jpg, got none"),
        (["NAMED TWICE", "--classes", "brush"], "called {root}/val2017/y.jpg, got the ids 3, 4"),
        (["ANNOTATIONS", "--coco", "ANNOTATIONS"], "--coco must leave its inputs as they are"),
        (["ANNOTATIONS", "--coco", None], "--annotations gives the ids that --coco writes, got no --coco"),
        (["{root}/none.json"], "annotation file {root}/none.json does not exist"),
    ],
)
def test_what_annotations_lack_is_one_sentence(capsys, tmp_path, arguments, sentence):
    root, checkpoint = write_coco(tmp_path), write_checkpoint(tmp_path / "x.pt", ("brush", "dog"))
    path, twice = root / "annotations/instances_val2017.json", root / "twice.json"
    content = json.loads(path.read_text())
    content["images"] += [{"id": 4, "file_name": "y.jpg"}, {"id": 5, "file_name": "z.jpg"}]
    twice.write_text(json.dumps(content))
    photo(root / "val2017/z.jpg")
    names = {"ANNOTATIONS": path, "NAMED TWICE": twice, "{root}/none.json": root / "none.json"}
    given = [names.get(argument, argument) for argument in arguments]
    if "--coco" not in given:
        given += ["--coco", tmp_path / "c.json"]
    if given[-1] is None:
        given = given[:-2]
    status, _, err = detect(
        capsys, checkpoint, root / "val2017", "-o", tmp_path / "out", "--annotations", *given
    )
    assert status == 1 and sentence.format(root=root) in err and err.count("\n") == 1, err
    assert not list(tmp_path.glob("out/*"))


def test_two_images_never_have_one_id(capsys, tmp_path):
    """Their boxes would count for either."""
    root, checkpoint = write_coco(tmp_path), write_checkpoint(tmp_path / "x.pt", ("bicycle", "brush"))
    images = [root / "train2017/x.jpg", root / "val2017/x.jpg"]
    line = [*images, "-o", tmp_path / "out", "--coco", tmp_path / "c.json"]
    for given in [], ["--annotations", root / "annotations/instances_val2017.json"]:
        status, _, err = detect(capsys, checkpoint, *line, *given)
        assert status == 1 and f"for {images[0]} and {images[1]}" in err and err.count("\n") == 1
    assert detect(capsys, checkpoint, *images, "-o", tmp_path / "out")[0] == 0


def test_a_run_of_before_there_were_ids_goes_on_and_gets_them(capsys, tmp_path):
    root = write_coco(tmp_path)
    line = ["train", "--data", root, "--size", *SIZE, "--batch-size", 2, "--no-eval", *RUN]
    assert run(capsys, *line, "--out", tmp_path / "a", "--epochs", 1)[0] == 0
    path = tmp_path / "a/checkpoint.pt"
    content = torch.load(path, weights_only=True)
    assert content["spec"].pop("category_ids") == [2, 90]
    torch.save(content, path)
    assert load_model(path)[1].category_ids == ()
    more = ["--out", tmp_path / "b", "--resume", path, "--extend", "--epochs", 2]
    status, _, err = run(capsys, *line, *more)
    assert status == 0, err
    assert load_model(tmp_path / "b/checkpoint.pt")[1].category_ids == (2, 90)


@pytest.mark.parametrize("ids", [[1], [1, 1], [1, True], [1.5, 2], "ab", 3, [[1], 2]])
def test_ids_of_a_damaged_file_are_one_sentence(tmp_path, ids):
    path = write_checkpoint(tmp_path / "x.pt")
    content = torch.load(path, weights_only=True)
    content["spec"]["category_ids"] = ids
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="category_ids must be an integer or a text for each of 2"):
        load_model(path)
