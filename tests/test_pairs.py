"""Data sets of (image, target) pairs of any kind, and ragged batches, give what the package's own give."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from layouts import photo, write_coco, write_voc, xml
from PIL import Image
from torchvision import datasets, tv_tensors

from ssd_cuda import data
from ssd_cuda.data import DataError, PairsDataset, ground_truth_of
from ssd_cuda.engine.checkpoint import ModelSpec
from ssd_cuda.engine.evaluate import evaluate
from ssd_cuda.engine.train import TrainConfig, Trainer

BOXES = torch.tensor([[1.0, 2.0, 9.0, 8.0], [3.0, 3.0, 20.0, 15.0]])


def pixels():
    return torch.arange(3 * 20 * 30).reshape(3, 20, 30).remainder(251).to(torch.uint8)


def one(image=None, target=None, classes=("cat", "dog"), **options):
    target = {"boxes": BOXES, "labels": torch.tensor([2, 1])} if target is None else target
    return PairsDataset([(pixels() if image is None else image, target)], classes, **options)


@pytest.mark.parametrize(
    "image",
    [
        pixels(),
        pixels().double() / 255,
        tv_tensors.Image(pixels()),
        pixels().permute(1, 2, 0).numpy(),
        Image.fromarray(pixels().permute(1, 2, 0).numpy()),
    ],
    ids=["bytes", "floats", "tv_tensor", "array", "PIL"],
)
def test_an_image_of_any_kind_is_its_bytes(image):
    dataset = one(image)
    found, target = dataset[0]
    assert torch.equal(found.as_subclass(Tensor), pixels()) and torch.equal(dataset.image(0), found)
    assert target["size"] == (20, 30) and target["labels"].tolist() == [2, 1]
    assert torch.equal(target["boxes"].as_subclass(Tensor), BOXES)
    assert target["area"].tolist() == [48, 204] and not target["crowd"].any()


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ({"boxes": BOXES.numpy(), "labels": np.array([1, 0])}, {"label_offset": 1}),
        ({"boxes": BOXES.tolist(), "labels": ["dog", "cat"]}, {}),
        ({"boxes": BOXES, "labels": [17, 18]}, {"classes": {18: "cat", 17: "dog"}}),
        (
            [
                {"bbox": [1, 2, 8, 6], "category_id": 17, "iscrowd": 0},
                {"bbox": [3, 3, 17, 12], "category_id": 18},
            ],
            {"classes": {18: "cat", 17: "dog"}},
        ),
        ((BOXES, [2, 1]), {"convert": lambda pair: dict(zip(("boxes", "labels"), pair, strict=True))}),
        (
            {
                "boxes": tv_tensors.BoundingBoxes(
                    [[5, 5, 8, 6], [11.5, 9, 17, 12]], format="CXCYWH", canvas_size=(20, 30)
                ),
                "labels": [2, 1],
            },
            {},
        ),
    ],
    ids=["from 0", "names", "ids", "coco", "converted", "centres"],
)
def test_a_target_of_any_kind_is_the_same(target, options):
    found = one(target=target, **options).target(0)
    assert torch.equal(found["boxes"].as_subclass(Tensor), BOXES) and found["labels"].tolist() == [2, 1]


def test_torchvisions_voc_is_ours(tmp_path):
    year = tmp_path / "VOCdevkit/VOC2012"
    year.parent.mkdir()
    write_voc(tmp_path).rename(year)
    (year / "ImageSets/Main/train.txt").write_text("a\nb\n")
    photo(year / "JPEGImages/b.jpg")  # torchvision knows .jpg alone, and no file without an object
    (year / "JPEGImages/b.png").unlink()
    (year / "Annotations/b.xml").write_text(xml(("cat", (1, 1, 5, 5), False)))
    theirs = PairsDataset(datasets.VOCDetection(str(tmp_path), "2012", "train"), ["cat", "dog", "emu"])
    ours = data.VocDataset(year, "train")
    assert ours.classes == theirs.classes and len(theirs) == len(ours) == 2
    for index in range(2):
        for key in ("boxes", "labels", "difficult"):
            assert torch.equal(theirs.target(index)[key], ours.target(index)[key]), key
        assert torch.equal(theirs[index][0], ours[index][0])


def test_torchvisions_coco_is_ours(tmp_path):
    pytest.importorskip("pycocotools")
    root = write_coco(tmp_path)
    file = root / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        entry.setdefault("area", 5.0)
    file.write_text(json.dumps(content))
    theirs = PairsDataset(
        datasets.CocoDetection(str(root / "train2017"), str(file)), {2: "bicycle", 90: "brush"}
    )
    ours = data.open_dataset(root, "train2017")
    assert theirs.classes == ours.classes
    for index, other in ((0, 1), (1, 0)):  # torchvision sorts by image id
        for key in ("boxes", "labels", "crowd", "area"):
            assert torch.equal(theirs.target(index)[key], ours.target(other)[key]), key


def test_it_trains_and_is_evaluated_like_any(tmp_path):
    shapes = data.ShapesDataset("train", length=4, size=(64, 64))
    pairs = PairsDataset([shapes[i] for i in range(4)], shapes.classes)
    losses = []
    for dataset in (shapes, pairs):
        torch.manual_seed(0)
        spec = ModelSpec("ssd_small", tuple(dataset.classes), (64, 64))
        trainer = Trainer(spec.build(), TrainConfig(batch_size=2), 2)
        loader = data.BatchLoader(data.prepare(dataset, (64, 64), "flip"), 2, train=True, workers=0)
        losses.append(trainer.run_epoch(loader))
        losses.append(evaluate(trainer.average, dataset, workers=0)["ap50"])
    assert losses[:2] == losses[2:]


class Moved:
    """A data set that augments: every look has the bright column, and its box, at another place."""

    looks = 0

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.looks += 1
        image = torch.zeros(3, 20, 30, dtype=torch.uint8)
        image[:, :, self.looks] = 255
        box = torch.tensor([[self.looks, 0.0, self.looks + 1, 20]])
        return image, {"boxes": box, "labels": torch.tensor([1])}


def test_the_boxes_of_a_data_set_that_augments_belong_to_their_image():
    dataset = data.prepare(PairsDataset(Moved(), ["cat"]), (20, 30), cache=False)
    for _ in range(3):
        image, target = dataset[0]
        column = int(image[0, 0].argmax())
        assert target["boxes"].tolist() == [[column, 0, column + 1, 20]]


def test_targets_are_not_shared():
    dataset = one()
    dataset.target(0)["labels"] = None
    assert dataset.target(0)["labels"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("item", "finding"),
    [
        (3, "item 0 must be a pair of image and target"),
        ((torch.zeros(1, 4, 4), {}), r"image of item 0 must be of three channels, got \[1, 4, 4\]"),
        (("x.jpg", {}), "must be of three channels, got str"),
        ((torch.zeros(3, 4, 4, dtype=torch.int32), {}), "must be of bytes or floats, got torch.int32"),
        (
            (torch.full((3, 4, 4), 255.0), {}),
            r"floats of an image must lie in \[0, 1\], got 255 to 255 in item 0",
        ),
        ((pixels(), {"labels": []}), "target of item 0 must have boxes and labels: no 'boxes'"),
        ((pixels(), "cat"), "must have boxes and labels: got str"),
        ((pixels(), {"boxes": [[1.0, 2.0]], "labels": [1]}), r"boxes must have shape \[n, 4\], got \[1, 2\]"),
        ((pixels(), {"boxes": BOXES, "labels": [1]}), "must have a label for each of 2 boxes, got 1"),
        (
            (pixels(), {"boxes": BOXES, "labels": [0, 1]}),
            r"must lie in \[1, 2\], got \[0, 1\]; label_offset=1 is",
        ),
        (
            (pixels(), {"boxes": BOXES, "labels": ["emu", "cat"]}),
            "classes must name every label, got none for 'emu'",
        ),
    ],
)
def test_an_item_that_is_none_is_named(item, finding):
    with pytest.raises(DataError, match=finding) as caught:
        PairsDataset([item], ["cat", "dog"])[0]
    assert "\n" not in str(caught.value)


def test_boxes_without_area_are_left_out_or_refused():
    target = {"boxes": torch.cat([BOXES, torch.tensor([[5.0, 5.0, 5.0, 9.0]])]), "labels": [2, 1, 1]}
    target["difficult"] = [True, False, False]
    dataset = one(target=target)
    with pytest.warns(UserWarning, match=r"box \[5.0, 5.0, 5.0, 9.0\] of item 0 has no area"):
        found = dataset.target(0)
    assert found["labels"].tolist() == [2, 1] and found["difficult"].tolist() == [True, False]
    with pytest.raises(DataError, match="of item 0 has no area"):
        one(target=target, degenerate="error").target(0)


def test_boxes_outside_of_the_image_are_told_and_kept():
    _, width = one().target(0)["size"]
    beyond = torch.tensor([[width, 1.0, width + 5.0, 9.0], [1.0, -5.0, 8.0, 0.0]])
    dataset = one(target={"boxes": torch.cat([BOXES, beyond]), "labels": [2, 1, 1, 1]})
    told = rf"box \[{width}.0, 1.0, {width + 5}.0, 9.0\] of item 0 lies outside of its image: training leaves"
    with pytest.warns(UserWarning, match=told):
        assert len(dataset.target(0)["boxes"]) == 4


def test_an_image_without_objects_is_one():
    found = one(target={"boxes": [], "labels": []}).target(0)
    assert found["boxes"].shape == (0, 4) and one(target=[]).target(0)["labels"].tolist() == []


@pytest.mark.parametrize(
    ("classes", "finding"), [([], "at least one class"), (["cat", "cat"], "must name each class once")]
)
def test_classes_are_checked(classes, finding):
    with pytest.raises(ValueError, match=finding):
        PairsDataset([], classes)


# Ragged batches


class TensorList:
    """As DALI's: samples of their own shapes by ``at``; it is no sequence and has no ``__iter__``."""

    __iter__ = None

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def at(self, index):
        return self.samples[index]


class Sample:
    """As DALI's samples: no tensor and no array, but one that dlpack reads."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


ROWS = [
    torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0]]),
    torch.zeros(0, 4),
    torch.tensor([[0.3, 0.3, 0.4, 0.4]]),
]
NAMES = [torch.tensor(rows, dtype=torch.int32).reshape(-1, 1) for rows in ([7, 2], [], [1])]


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: rows,
        lambda rows: [row.numpy() for row in rows],
        lambda rows: TensorList([row.numpy() for row in rows]),
        lambda rows: TensorList([Sample(row) for row in rows]),
    ],
    ids=["tensors", "arrays", "list of arrays", "list of dlpack"],
)
def test_ragged_outputs_are_a_ground_truth(make):
    gt = ground_truth_of(make(ROWS), make(NAMES))
    assert torch.equal(gt.boxes, torch.cat(ROWS)) and gt.labels.tolist() == [7, 2, 1]
    assert gt.offsets.tolist() == [0, 2, 2, 3] and gt.labels.dtype == torch.int64


def test_ragged_outputs_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"labels must have one entry per image like boxes \(3\), got 2"):
        ground_truth_of(ROWS, NAMES[:2])
    with pytest.raises(ValueError, match="boxes must be finite with x1 < x2"):
        ground_truth_of([torch.tensor([[0.5, 0.5, 0.1, 0.6]])], [torch.tensor([1])])
