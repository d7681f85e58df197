"""Datasets: what is read, what is refused and in which words."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from layouts import photo, xml

from ssd_cuda.data import CocoDataset, DataError, ShapesDataset, VocDataset, make_transform, read_image
from ssd_cuda.data.loading import warn_if_empty
from ssd_cuda.data.shapes import _paint, _place
from ssd_cuda.engine.metrics import voc_ap


def edit(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


# Pascal VOC


def test_voc_reads_boxes_labels_and_difficult(voc):
    dataset = VocDataset(voc, "train")
    assert dataset.classes == ("cat", "dog", "emu") and dataset.num_classes == 4  # emu: of the other split
    assert len(dataset) == 2 and dataset.dropped == 0
    image, target = dataset[0]
    assert image.shape == (3, 40, 60) and image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[1, 2, 31, 22], [10.5, 5, 20, 40]]
    assert target["boxes"].canvas_size == (40, 60) and target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [2, 1] and target["labels"].dtype == torch.int64
    assert target["difficult"].tolist() == [False, True]
    assert target["crowd"].tolist() == [False, False]
    assert target["area"].tolist() == [600, 332.5]
    assert target["image_id"] == "a" and target["size"] == (40, 60)
    _, empty = dataset[1]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,)


@pytest.mark.parametrize(
    ("text", "difficult"),
    [("1", True), (" 1 ", True), ("True", True), ("0", False), ("false", False), ("Unspecified", False)],
)
def test_voc_difficult_may_be_written_as_python_does(voc, text, difficult):
    file = voc / "Annotations/c.xml"
    file.write_text(xml(("emu", (7, 7, 9, 9), True)).replace("<difficult>1<", f"<difficult>{text}<"))
    assert VocDataset(voc, "val").target(0)["difficult"].tolist() == [difficult]


def test_voc_one_based_boxes_become_outlines(voc):
    target = VocDataset(voc, "train", coordinates="one_based").target(0)
    assert target["boxes"].tolist() == [[0, 1, 31, 22], [9.5, 4, 20, 40]]
    # A one-based box of a single pixel has an area; taken as edges it has none.
    (voc / "Annotations/c.xml").write_text(xml(("emu", (7, 7, 7, 7), False)))
    assert VocDataset(voc, "val", coordinates="one_based").target(0)["boxes"].tolist() == [[6, 6, 7, 7]]


def test_voc_classes_may_be_given_and_then_bind(voc):
    assert VocDataset(voc, "train", classes=["dog", "cat"]).target(0)["labels"].tolist() == [1, 2]
    with pytest.raises(DataError, match=r"a\.xml must use the classes dog, got 'cat'"):
        VocDataset(voc, "train", classes=["dog"])


def test_boxes_without_area_are_dropped_and_counted_or_refused(voc):
    bad = xml(("emu", (5, 5, 5, 9), False), ("emu", (5, 5, 9, 9), True), ("emu", (8, 5, 3, 9), False))
    (voc / "Annotations/c.xml").write_text(bad)
    with pytest.warns(UserWarning, match=r"left out 2 boxes without area, .* in .*c\.xml"):
        dataset = VocDataset(voc, "val")
    target = dataset.target(0)
    assert dataset.dropped == 2
    assert target["boxes"].tolist() == [[5, 5, 9, 9]]
    assert target["difficult"].tolist() == [True] and target["area"].tolist() == [16]
    with pytest.raises(DataError, match=r"c\.xml must hold finite boxes .* got \[5\.0, 5\.0, 5\.0, 9\.0\]"):
        VocDataset(voc, "val", degenerate="error")


# Each beyond one side of an image of 60x40, and four that touch or cross a side.
BEYOND = [(-9, 5, 0, 20), (5, -9, 20, 0), (60, 5, 70, 20), (5, 40, 20, 50)]
WITHIN = [(-9, 5, 0.5, 20), (5, -9, 20, 0.5), (59.5, 5, 70, 20), (5, 39.5, 20, 50), (-5, -5, 70, 50)]


@pytest.mark.parametrize(("size", "count"), [((40, 60), 4), ((0, 0), 2)])
def test_boxes_outside_of_their_image_are_told_and_kept(voc, size, count):
    """Of an image whose size the annotation does not give, what lies left of it and above is known."""
    objects = [("emu", box, False) for box in [*WITHIN, *BEYOND]]
    (voc / "Annotations/c.xml").write_text(xml(*objects, size=size))
    told = rf"{count} boxes outside of the image, the first \[-9.0, 5.0, 0.0, 20.0\] in .*c\.xml: "
    with pytest.warns(UserWarning, match=told + "training leaves them out, evaluation counts them"):
        dataset = VocDataset(voc, "val")
    assert dataset.outside == count and len(dataset.target(0)["boxes"]) == 9
    assert len(make_transform("none", (40, 60))(*dataset[0])[1]["boxes"]) < 9
    found = [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}]
    assert voc_ap(found, [dataset.target(0)], dataset.classes)["objects"]["emu"] == 9
    (voc / "Annotations/c.xml").write_text(xml(*objects[:5], size=size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert VocDataset(voc, "val").outside == 0


def test_a_split_of_boxes_outside_has_no_objects(voc):
    (voc / "Annotations/c.xml").write_text(xml(("emu", BEYOND[2], False)))
    with pytest.warns(UserWarning, match="1 box outside of the image"):
        dataset = VocDataset(voc, "val")
    with pytest.warns(UserWarning, match="the split has no objects"):
        warn_if_empty(dataset, "the split")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("Annotations/a.xml", "<annotation>", r"annotation .*a\.xml does not parse: "),
        ("Annotations/a.xml", b"\xff\xfe\x00nonsense", r"annotation .*a\.xml does not parse: "),
        ("Annotations/a.xml", None, r"annotation .*a\.xml does not exist"),
        (
            "Annotations/a.xml",
            xml(("dog", ("x", 1, 2, 3), 0)),
            r"a\.xml must have a number in <xmin>, got 'x'",
        ),
        ("Annotations/a.xml", xml(("", (0, 1, 2, 3), 0)), r"a\.xml must have a <name> in every <object>"),
        ("Annotations/a.xml", "<a><object><name>dog</name></object></a>", r"a\.xml must have a <bndbox> in"),
        ("JPEGImages/a.jpg", None, r"image .*JPEGImages.a\.jpg does not exist"),
        ("ImageSets/Main/train.txt", None, r"split 'train' needs the file .*train\.txt.*splits here: .*val"),
        ("ImageSets/Main/train.txt", b"\xff\xfe\xfa", r"split file .*train\.txt cannot be read: "),
        ("ImageSets/Main/train.txt", "\n", r"train\.txt must name at least one image, got an empty file"),
    ],
)
def test_voc_errors_name_the_file(voc, file, change, message):
    path = voc / file
    if change is None:
        path.unlink()
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        path.write_text(change)
    with pytest.raises(DataError, match=message) as caught:
        VocDataset(voc, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["ImageSets/Main", "JPEGImages", "Annotations"])
def test_voc_missing_folders_are_named(voc, folder):
    (voc / folder).rename(voc / "elsewhere")
    with pytest.raises(DataError, match=f"must hold {folder}, got .*voc without it"):
        VocDataset(voc, "train")


def test_a_size_that_lies_is_found_when_the_image_is_read(voc):
    (voc / "Annotations/a.xml").write_text(xml(("dog", (1, 2, 3, 4), False), size=(60, 40)))
    dataset = VocDataset(voc, "train")
    with pytest.raises(DataError, match=r"a\.xml must give the size .* got 40x60 while .*a\.jpg is 60x40"):
        dataset[0]
    (voc / "Annotations/a.xml").write_text(xml(("dog", (1, 2, 3, 4), False), size=(0, 0)))
    assert VocDataset(voc, "train").target(0)["size"] == (40, 60)  # unknown: taken from the file


# Images


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    photo(path, mode=mode)
    image = read_image(path)
    assert image.shape == (3, 40, 60) and image.dtype == torch.uint8


def test_unreadable_images_are_named(tmp_path):
    photo(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name, message in [
        ("cut.png", r"image .*cut\.png cannot be read: "),
        ("text.jpg", r"image .*text\.jpg cannot be read: "),
        ("empty.jpg", r"image .*empty\.jpg cannot be read: "),
        ("none.jpg", r"image .*none\.jpg does not exist"),
    ]:
        with pytest.raises(DataError, match=message):
            read_image(tmp_path / name)


# COCO


def test_coco_reads_boxes_crowds_and_contiguous_labels(coco):
    dataset = CocoDataset(coco / "annotations/instances_train2017.json", coco / "train2017")
    assert dataset.classes == ("bicycle", "brush") and dataset.category_ids == (2, 90)
    image, target = dataset[0]
    assert image.shape == (3, 40, 60)
    assert target["boxes"].tolist() == [[1, 2, 31, 22], [0.5, 0, 10.5, 10]]
    assert target["labels"].tolist() == [2, 1]
    assert target["crowd"].tolist() == [False, True] and target["difficult"].tolist() == [False, False]
    assert target["area"].tolist() == [444.5, 100] and target["image_id"] == 7
    assert dataset.target(1)["size"] == (40, 60)  # not in the json: taken from the file
    assert dataset.target(1)["boxes"].shape == (0, 4)


ENTRY = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "must list at least one image, got none"),
        ({"categories": None}, "must be COCO instances with a list 'categories', got none"),
        (
            {"annotations": [{**ENTRY, "image_id": 99}]},
            "must list every image it annotates, got none with id 99",
        ),
        (
            {"annotations": [{**ENTRY, "category_id": 5}]},
            "must define every category it uses, got an annotation of 5",
        ),
        ({"annotations": [{**ENTRY, "bbox": [1, 2, 3]}]}, r"must have four numbers in every 'bbox', got \[1"),
        (
            {"annotations": [{"id": 1}]},
            r"must have an integer or a text 'image_id' in every entry, got \{'id': 1\}",
        ),
        ({"images": [{"id": 7}]}, "must have a text 'file_name' in every entry"),
    ],
)
def test_coco_errors_name_the_file(coco, changes, message):
    path = coco / "annotations/instances_train2017.json"
    edit(path, **changes)
    with pytest.raises(DataError, match=rf"instances_train2017\.json {message}"):
        CocoDataset(path, coco / "train2017")


def test_coco_files_that_do_not_parse_or_exist(coco):
    path = coco / "annotations/instances_train2017.json"
    path.write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances_train2017\.json does not parse: "):
        CocoDataset(path, coco / "train2017")
    with pytest.raises(DataError, match=r"gone\.json does not exist"):
        CocoDataset(coco / "gone.json", coco / "train2017")
    with pytest.raises(DataError, match=r"the image folder .*gone of .* does not exist"):
        CocoDataset(path, coco / "gone")


# Shapes


def test_shapes_repeat_and_do_not_depend_on_the_order():
    one, two = ShapesDataset("train", length=6), ShapesDataset("train", length=4)
    later = [two[i] for i in (3, 1)]
    for (image, target), i in zip(later, (3, 1), strict=True):
        assert torch.equal(image, one[i][0])
        for key in ("boxes", "labels", "difficult"):
            assert torch.equal(target[key], one[i][1][key])
            assert torch.equal(target[key], one.target(i)[key])
    other = [ShapesDataset("test")[1][0], ShapesDataset("train", seed=1)[1][0]]
    assert not any(torch.equal(image, one[1][0]) for image in other)


def test_shapes_are_a_task_worth_learning():
    dataset = ShapesDataset("train", length=150, size=(120, 160))
    targets = [dataset.target(i) for i in range(len(dataset))]
    boxes = torch.cat([t["boxes"].as_subclass(torch.Tensor) for t in targets])
    labels = torch.cat([t["labels"] for t in targets])
    difficult = torch.cat([t["difficult"] for t in targets])
    assert torch.bincount(labels, minlength=6)[1:].min() > 0.12 * len(labels) and labels.min() == 1
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 160).all() and (boxes[:, 3] <= 120).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) > 8).all()
    assert 0.005 < difficult.float().mean() < 0.2
    assert min(len(t["labels"]) for t in targets) >= 1
    with pytest.raises(IndexError, match=r"index must lie in \[0, 150\), got 150"):
        dataset[150]


def test_shapes_have_the_radii_that_are_asked_for():
    """A circle's box is two radii wide; no other shape's is wider. The same seed, other sizes."""
    dataset = ShapesDataset("train", length=40, size=(200, 300), radii=(0.03, 0.05))
    boxes = torch.cat([dataset.target(i)["boxes"].as_subclass(torch.Tensor) for i in range(40)])
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    assert 6 < sides.min() < sides.max() < 2 * 0.05 * 200 * 1.1
    circles = [d for d in (dataset[i][1] for i in range(40)) if (d["labels"] == 1).any()]
    wide = torch.cat([(d["boxes"][:, 2] - d["boxes"][:, 0])[d["labels"] == 1] for d in circles])
    assert wide.min() >= 2 * 0.03 * 200 * 0.79 and wide.max() <= 2 * 0.05 * 200 + 1e-3
    for radii in ((0, 0.1), (0.2, 0.1), (0.1, 0.5), (float("nan"), 0.1)):
        with pytest.raises(DataError, match=r"radii of the built-in shapes must be two ascending numbers"):
            ShapesDataset("train", radii=radii)


class Noiseless(np.random.Generator):
    def standard_normal(self, size, dtype):
        return np.zeros(size, dtype)


@pytest.mark.parametrize("index", range(8))
def test_a_box_is_the_outline_of_its_shape(index):
    """The pixels that change when one shape is painted span its box, to a pixel and half."""
    shape = _place(np.random.default_rng(index), 120, 160)[0]
    scenes = [_paint(Noiseless(np.random.PCG64(9)), scene, 120, 160) for scene in ([shape], [])]
    changed = (scenes[0] != scenes[1]).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    painted = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(np.array(painted) - shape.box).max() < 1.6
