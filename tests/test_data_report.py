"""What a data set is, and priors that are fitted to it: counted and worked by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("matplotlib")

from layouts import write_coco, write_voc, xml
from PIL import Image

from ssd_cuda import cli, data, models
from ssd_cuda.engine.checkpoint import CheckpointError, ModelSpec, load_checkpoint, save_checkpoint
from ssd_cuda.engine.curves import save_curves
from ssd_cuda.engine.data_report import describe, draw_report, report_lines
from ssd_cuda.engine.priors_fit import fit_boxes, objects_of, reach_of, with_fitted_priors
from ssd_cuda.engine.train import TrainConfig, Trainer
from ssd_cuda.models.own_boxes import box_options, with_boxes

SPEC = ModelSpec("ssd_small", ("cat", "dog"), (64, 64))


def small():
    return SPEC.build()


def box_at(cx, cy, w, h):
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


# How the priors meet the objects


def test_the_reach_is_the_best_iou():
    """A prior itself, half of one, and a sliver that no prior has."""
    model = small()
    cx, cy, w, h = model.priors[100].tolist()
    objects = [torch.tensor([box_at(cx, cy, w, h), box_at(cx, cy, w, h / 2)]), torch.zeros(0, 4)]
    objects.append(torch.tensor([[0.0, 0.5, 1.0, 0.5001]]))
    reach = reach_of(model, objects)
    assert reach.best[0] == pytest.approx(1.0, abs=1e-5) and reach.best[1] >= 0.5 and reach.best[2] < 0.01
    assert reach.share() == pytest.approx(2 / 3)
    assert not reach.unmatched.any()


def test_an_object_that_loses_its_only_prior_is_counted():
    """Two equal boxes in one image: of torch's rule the last one takes the prior, and the first has none."""
    model = small()
    box = torch.tensor([[0.301, 0.301, 0.303, 0.303]])
    reach = reach_of(model, [box.repeat(2, 1), box])
    assert reach.unmatched.tolist() == [True, False, False]
    model.loss_config = replace(model.loss_config, match=replace(model.loss_config.match, forced="none"))
    assert reach_of(model, [box.repeat(2, 1), box]).unmatched.all()


def test_the_priors_of_pixels_and_corners_reach_alike():
    model = small()
    objects = [torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.4, 0.4, 0.6, 0.5]])]
    other = small()
    other.spec = other.spec.replace(pixels=True, format="xyxy")
    other._make_constants()
    torch.testing.assert_close(reach_of(other, objects).best, reach_of(model, objects).best)


# Fitted boxes


def test_boxes_are_those_of_the_clusters():
    """Four shapes of one size, many of each: a level of four boxes finds them, whatever the start."""
    model = small()
    shapes = [(0.2, 0.2), (0.3, 0.14), (0.14, 0.3), (0.24, 0.25)]
    objects = [torch.tensor([box_at(0.5, 0.5, w, h) for w, h in shapes for _ in range(10)])]
    own = model.spec.cell_boxes()
    for seed in range(3):
        fitted = fit_boxes(model, objects, seed)
        assert [len(level) for level in fitted] == model.spec.boxes_per_cell()
        levels = [i for i, level in enumerate(fitted) if level != own[i]]
        (level,) = levels
        assert sorted(fitted[level]) == [pytest.approx(shape) for shape in sorted(shapes)]


def test_a_level_with_few_objects_keeps_its_boxes():
    model = small()
    objects = [torch.tensor([box_at(0.5, 0.5, 0.2, 0.2)] * 3)]
    assert fit_boxes(model, objects) == model.spec.cell_boxes()
    assert fit_boxes(model, []) == model.spec.cell_boxes()


class Thin(data.ShapesDataset):
    """Objects three times as high as wide."""

    def target(self, index):
        target = super().target(index)
        boxes = target["boxes"]
        centre = (boxes[:, 0] + boxes[:, 2]) / 2
        width = (boxes[:, 3] - boxes[:, 1]) / 3
        boxes[:, 0], boxes[:, 2] = centre - width / 2, centre + width / 2
        return target


def test_fitted_priors_reach_more_and_are_kept_in_the_checkpoint(tmp_path):
    dataset = Thin("train", length=12, size=(64, 64))
    spec, told = with_fitted_priors(replace(SPEC, classes=tuple(dataset.classes)), dataset)
    before = reach_of(replace(spec, options="").build(), objects_of(dataset))
    after = reach_of(spec.build(), objects_of(dataset))
    assert after.share() > before.share() and after.best.mean() > before.best.mean() + 0.02
    assert f"{before.share():.1%} reach" in told and f"{after.share():.1%} with the fitted" in told
    trainer = Trainer(spec.build(), TrainConfig(), 1)
    save_checkpoint(tmp_path / "x.pt", spec, trainer.state())
    found, _ = load_checkpoint(tmp_path / "x.pt")
    assert found == spec and torch.equal(found.build().priors, trainer.model.priors)
    again, _ = with_fitted_priors(spec, dataset)
    assert len(json.loads(again.options)["boxes"]) == 4


def test_priors_that_are_no_better_stay():
    none = data.ShapesDataset("train", length=0, size=(64, 64))
    spec, told = with_fitted_priors(SPEC, none)
    assert spec == SPEC and told == "priors stay those of the model: of 0 objects there is none"


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ("{", "options must be JSON"),
        ("[]", "options must have boxes alone"),
        ('{"boxes": [[[1, 1]]]}', r"boxes must be \[4, 4, 4, 4\] a cell of each level, got"),
        ('{"boxes": 3}', r"boxes must be \[4, 4, 4, 4\]"),
        (json.dumps({"boxes": [[[0.1, 0.0]] * 4] * 4}), "must have a width and a height above 0"),
        (json.dumps({"boxes": [[[0.1, 1e9]] * 4] * 4}), "must have a width and a height above 0"),
        (json.dumps({"boxes": [[[0.1]] * 4] * 4}), "must have a width and a height above 0"),
        (json.dumps({"boxes": [[["a", "b"]] * 4] * 4}), "must have a width and a height above 0"),
    ],
)
def test_boxes_that_are_none_are_one_sentence(tmp_path, options, finding):
    with pytest.raises(ValueError, match=finding):
        with_boxes(small(), options)
    trainer = Trainer(small(), TrainConfig(), 1)
    save_checkpoint(tmp_path / "x.pt", replace(SPEC, options=options), trainer.state())
    with pytest.raises(CheckpointError, match=r"x\.pt must have a spec of a model that there is"):
        load_checkpoint(tmp_path / "x.pt")


def test_the_boxes_are_those_of_every_cell():
    boxes = [[(0.1, 0.2), (0.2, 0.1), (0.3, 0.3), (0.05, 0.05)]] * 4
    model = with_boxes(small(), box_options(boxes))
    assert model.priors.shape == small().priors.shape
    torch.testing.assert_close(model.priors[:4, 2:], torch.tensor(boxes[0]))
    torch.testing.assert_close(model.priors[:, :2], small().priors[:, :2])


# The report


@pytest.fixture
def odd(tmp_path):
    """A folder of one thing each that is odd."""
    root = write_voc(tmp_path)
    Image.new("RGB", (120, 80)).save(root / "JPEGImages/a.jpg")
    objects = [
        ("dog", (10, 10, 60, 60), False),
        ("dog", (10, 10, 60, 60), False),  # twice
        ("cat", (10, 10, 60, 60), False),  # of another class: not
        ("cat", (70, 10, 73, 12), False),  # small
        ("cat", (5, 70, 100, 75), False),  # thin
        ("dog", (-20, 20, 30, 50), False),  # outside
        ("cat", (0, 0, 120, 80), False),  # all of it
    ]
    (root / "Annotations/a.xml").write_text(xml(*objects, size=(80, 120)))
    return root


def test_the_report_counts_what_is_odd(odd):
    dataset = data.open_dataset(odd, "train")
    report = describe(dataset, models.ssd_small(3, (80, 120)))
    assert (report.images, report.empty, report.classes) == (2, 1, {"cat": 4, "dog": 3, "emu": 0})
    counts = {what: count for what, (count, _) in report.odd.items()}
    assert counts.pop("below 8 pixels in images of 120x80") == 2
    assert counts.pop("5 times as long as wide, or more") == 1
    assert counts.pop("partly outside of the image") == 1
    assert counts.pop("as large as the image") == 1
    assert counts.pop("twice in one image") == 1
    assert set(counts) <= {"below an IoU of 0.5 with every prior", "without a prior of its own"}
    lines = report_lines(report)
    assert lines[0] == "2 images, 1 of them without objects; 7 objects" and lines[1].split() == [
        "cat",
        "4",
        "57.1%",
    ]
    assert "  1 partly outside of the image, the first in a" in lines
    json.dumps(report.as_json())


def test_what_lies_outside_has_a_line_of_its_own(odd):
    objects = [("dog", (10, 10, 60, 60), False), ("cat", (130, 5, 150, 30), False)]
    (odd / "Annotations/a.xml").write_text(xml(*objects, size=(80, 120)))
    with pytest.warns(UserWarning, match="1 box outside of the image"):
        dataset = data.open_dataset(odd, "train")
    report = describe(dataset, models.ssd_small(3, (80, 120)))
    what = "outside of the image: training leaves them out, evaluation counts them"
    assert report.odd == {what: (1, "a")} and report.classes["cat"] == 1
    assert f"  1 {what}, the first in a" in report_lines(report)
    assert [len(boxes) for boxes in objects_of(dataset)] == [1, 0]


def test_crowds_are_no_objects(tmp_path):
    report = describe(data.open_dataset(write_coco(tmp_path), "train2017"), models.ssd_small(3, (64, 64)))
    assert report.classes == {"bicycle": 0, "brush": 1} and report.empty == 1


def test_images_without_a_file_are_counted(tmp_path):
    """Training would end there, in the middle of its first epoch."""
    root = write_coco(tmp_path)
    file = root / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["images"] += [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60} for n in (9, 8)]
    file.write_text(json.dumps(content))
    report = describe(data.open_dataset(root, "train2017"), models.ssd_small(3, (64, 64)))
    what = "of the images without a file: training and evaluation end there"
    assert report.images == 4 and report.odd[what] == (2, "9")
    assert f"  2 {what}, the first in 9" in report_lines(report)


def test_the_command_prints_draws_and_writes(capsys, odd, tmp_path):
    line = ["data", str(odd), "-o", str(tmp_path / "deep/x.png"), "--json", str(tmp_path / "x.json")]
    assert cli.main([*line, "--size", "80", "120", "--priors", "auto"]) == 0
    said = capsys.readouterr().out
    assert "2 images, 1 of them without objects; 7 objects" in said and "priors " in said
    assert Image.open(tmp_path / "deep/x.png").size[0] > 1000
    found = json.loads((tmp_path / "x.json").read_text())
    assert (
        found["objects"] == {"cat": 4, "dog": 3, "emu": 0}
        and found["odd"]["twice in one image"]["first"] == "a"
    )
    assert found["split"] == "train"


def test_names_that_are_formulas_to_matplotlib_are_drawn_as_they_are(tmp_path):
    """An .svg says in a comment what it writes."""
    names = ("_a", "x^2$_{$", "$b$")
    dataset = data.ShapesDataset("train", length=2, size=(64, 64))
    report = replace(describe(dataset, small()), classes=dict.fromkeys(names, 1))
    draw_report(tmp_path / "x.svg", report, small())
    run = {"history": [[1.0, 2.0]], "scores": [dict(step=1, localization=1.0, classification=2.0, ap50=0.5)]}
    save_curves(tmp_path / "y.svg", dict.fromkeys(names, run))
    drawn = [(tmp_path / file).read_text() for file in ("x.svg", "y.svg")]
    for name in names:
        assert f"<!-- {name} -->" in drawn[0]
        assert f"<!-- {name}: 3.000 -->" in drawn[1] and f"<!-- {name}: AP50 0.500 -->" in drawn[1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_objects_is_drawn_too(capsys, tmp_path, monkeypatch, split):
    class None_(data.ShapesDataset):
        def target(self, index):
            target = super().target(index)
            return target | {k: target[k][:0] for k in ("boxes", "labels", "crowd")}

    monkeypatch.setattr(data, "open_dataset", lambda *a, **k: None_(split, length=2, size=(64, 64)))
    assert cli.main(["data", "--size", "64", "64", "--split", split, "-o", str(tmp_path / "x.png")]) == 0
    assert "2 images, 2 of them without objects; 0 objects" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["/no/such/folder"], "/no/such/folder must be the word 'shapes'"),
        (["--model", "yolo"], "--model must be one of ssd_small"),
        (["--picture", "x.exe"], "--picture must end in .png, .pdf or .svg, got x.exe"),
        (["--size", "0", "64"], "image_size must be two sides"),
        (["--split", "dev"], "split of the built-in shapes must be 'train' or 'test', got 'dev'"),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys, tmp_path, monkeypatch, arguments, finding):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *arguments]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("ssd-cuda: error:") and finding in sentence


def test_training_takes_fitted_priors_and_hands_them_on(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "open_dataset", lambda p, split, **o: Thin(split, length=8, size=(64, 64)))
    line = [
        "train",
        "--size",
        "64",
        "64",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--batch-size",
        "4",
        "--no-eval",
    ]
    first, second = tmp_path / "a", tmp_path / "b"
    assert cli.main([*line, "--out", str(first), "--epochs", "1", "--priors", "auto"]) == 0
    assert capsys.readouterr().out.startswith("priors fitted to ")
    spec = load_checkpoint(first / "checkpoint.pt")[0]
    assert spec.options
    more = ["--epochs", "2", "--resume", str(first / "checkpoint.pt"), "--extend"]
    assert cli.main([*line, "--out", str(first), *more]) == 0
    start = ["--epochs", "1", "--weights", str(first / "checkpoint.pt")]
    assert cli.main([*line, "--out", str(second), *start]) == 0
    assert "priors are those of " in capsys.readouterr().out
    assert load_checkpoint(second / "checkpoint.pt")[0] == load_checkpoint(first / "checkpoint.pt")[0] == spec
    assert cli.main([*line, "--out", str(second), *start, "--priors", "model", "--overwrite"]) == 0
    assert not load_checkpoint(second / "checkpoint.pt")[0].options
