"""Data folders as people have them: names, suffixes, encodings, layouts; and hostile ones."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import time

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from layouts import photo, xml

from ssd_cuda.data import CocoDataset, DataError, VocDataset, data_splits, loading, open_dataset
from ssd_cuda.data.voc import find_classes, voc_splits

TRAIN = "annotations/instances_train2017.json"
DOG = xml(("dog", (1, 2, 31, 22), False))


def add_voc(root, name, suffix=".jpg", line=None, annotation=DOG):
    """One more image, alone in the split ``one``."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    photo(root / "JPEGImages/x.png")
    (root / "JPEGImages/x.png").rename(root / "JPEGImages" / (name + suffix))
    content = annotation if isinstance(annotation, bytes) else annotation.encode()
    (root / "Annotations" / f"{name}.xml").write_bytes(content)
    (root / "ImageSets/Main/one.txt").write_text(f"{line or name}\n", encoding="utf-8")
    return root


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Pascal VOC


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("my photo 1", "my photo 1"),  # the number is of the name
        ("my photo", "my photo 1"),  # ... or a flag, if there is no such annotation
        ("photo", "photo  -1"),
        ("photo", "photo.JPG"),
        ("photo", "photo 1 0"),
        ("day 2/photo", "day 2/photo"),
        ("späti", "späti"),
    ],
)
def test_voc_names(voc, name, line):
    dataset = VocDataset(add_voc(voc, name, line=line), "one")
    assert dataset.target(0)["image_id"] == name and dataset[0][0].shape == (3, 40, 60)


@pytest.mark.parametrize("suffix", [".Jpg", ".JPEG", ".BMP", ".tif", ".TIFF", ".gif", ".webp", ".PnG"])
def test_voc_suffixes(voc, suffix):
    assert VocDataset(add_voc(voc, "d", suffix), "one")[0][0].shape == (3, 40, 60)


def test_voc_prefers_the_usual_suffix(voc):
    add_voc(voc, "d", ".gif")
    add_voc(voc, "d", ".JPG")
    assert VocDataset(voc, "one").records[0].image.name == "d.JPG"


def test_hidden_files_are_none_of_the_data(voc, coco):
    for name in ("Annotations/._a.xml", "ImageSets/Main/._train.txt", "JPEGImages/._a.jpg"):
        (voc / name).write_bytes(b"\x00\x05\x16\x07")
    (coco / "annotations/._instances_train2017.json").write_bytes(b"\x00\x05\x16\x07")
    assert voc_splits(voc) == ["train", "val"] and find_classes(voc) == ("cat", "dog", "emu")
    assert len(VocDataset(voc, "train")) == 2
    assert data_splits(coco) == ("train2017", "val2017")


def test_a_byte_order_mark_is_no_part_of_a_name(voc, coco):
    (voc / "ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    (voc / "Annotations/a.xml").write_bytes(b"\xef\xbb\xbf" + DOG.encode())
    assert [r.image_id for r in VocDataset(voc, "train").records] == ["a", "b"]
    (coco / TRAIN).write_bytes(b"\xef\xbb\xbf" + (coco / TRAIN).read_bytes())
    assert len(open_dataset(coco, "train2017")) == 2


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "utf-99", "utf-7"])
def test_an_encoding_that_the_parser_lacks_is_named_with_the_remedy(voc, encoding):
    add_voc(voc, "d", annotation=f"<?xml version='1.0' encoding='{encoding}'?>{DOG}")
    with pytest.raises(DataError, match=rf"d\.xml must be in .*, got {encoding}; write it anew as UTF-8"):
        VocDataset(voc, "one", classes=["dog"])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "windows-1252"])
def test_encodings_that_the_parser_has(voc, encoding):
    text = f"<?xml version='1.0' encoding='{encoding}'?>{xml(('mücke', (1, 2, 3, 4), False))}"
    add_voc(voc, "d", annotation=text.encode(encoding))
    assert VocDataset(voc, "one", classes=["mücke"]).target(0)["labels"].tolist() == [1]


@pytest.mark.parametrize("prefix", ["", "v:"])
def test_a_namespace_does_not_hide_the_objects(voc, prefix):
    text = DOG.replace("<", f"<{prefix}").replace(f"<{prefix}/", f"</{prefix}")
    name = f"xmlns{':v' if prefix else ''}"
    text = text.replace("annotation>", f"annotation {name}='http://example.org/voc'>", 1)
    add_voc(voc, "d", annotation=text)
    target = VocDataset(voc, "one").target(0)
    assert target["boxes"].tolist() == [[1, 2, 31, 22]] and target["size"] == (40, 60)


def test_an_image_named_twice_is_told(voc):
    (voc / "ImageSets/Main/train.txt").write_text("a\na\nb\n")
    with pytest.warns(UserWarning, match=r"train\.txt names 1 image more than once"):
        assert len(VocDataset(voc, "train")) == 3


@pytest.mark.parametrize("number", ["1e400", "nan", "-inf", "1" + "0" * 400, "0x10"])
@pytest.mark.parametrize("tag", ["xmin", "ymax", "width"])
def test_voc_numbers_are_numbers(voc, number, tag):
    text = re.sub(f"<{tag}>[^<]*<", f"<{tag}>{number}<", DOG, count=1)
    add_voc(voc, "d", annotation=text)
    with pytest.raises(DataError, match=rf"d\.xml must have a number in <{tag}>, got '") as caught:
        VocDataset(voc, "one")
    assert len(str(caught.value)) < 300


# COCO


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("train2017/x.jpg", "x.jpg"),
        ("train2017/deep/x.jpg", "deep/x.jpg"),
        ("images/train2017/x.jpg", "x.jpg"),
        ("images/deep/x.jpg", "deep/x.jpg"),
        ("pictures/x.jpg", "pictures/x.jpg"),  # from the root
        ("annotations/x.jpg", "x.jpg"),  # beside the json
        ("images/x.jpg", "../images/x.jpg"),  # from the json, and not out of the folder
        ("train2017/deep/x.jpg", "deep\\x.jpg"),
        ("images/train2017/x.jpg", "images\\train2017\\x.jpg"),
        ("train2017/a\\b.jpg", "a\\b.jpg"),  # a backslash may be of the name
    ],
)
def test_coco_file_names(coco, place, name):
    (coco / place).parent.mkdir(parents=True, exist_ok=True)
    (coco / "train2017/x.jpg").rename(coco / place)
    edit(coco / TRAIN, lambda c: c["images"][0].update(file_name=name))
    assert open_dataset(coco, "train2017")[0][0].shape == (3, 40, 60)


def test_coco_images_that_lie_nowhere_are_found_before_training(coco):
    (coco / "train2017/x.jpg").unlink()
    with pytest.raises(DataError, match=r"image x\.jpg of .*\.json must lie in one of .*train2017, "):
        open_dataset(coco, "train2017")


def test_coco_ids_may_be_texts(coco):
    def change(content):
        for row in (*content["images"], *content["categories"]):
            row["id"] = f"id-{row['id']}"
        for row in content["annotations"]:
            row.update(image_id=f"id-{row['image_id']}", category_id=f"id-{row['category_id']}")

    edit(coco / TRAIN, change)
    dataset = open_dataset(coco, "train2017")
    assert dataset.category_ids == ("id-2", "id-90") and dataset.target(0)["labels"].tolist() == [2, 1]
    assert dataset.target(0)["image_id"] == "id-7"


def write_roboflow(coco):
    root = coco.parent / "roboflow"
    for split, source in (("train", "train2017"), ("valid", "val2017")):
        root.mkdir(exist_ok=True)
        (coco / source).rename(root / split)
        content = json.loads((coco / f"annotations/instances_{source}.json").read_text())
        content["categories"] = [
            {"id": 0, "name": "bicycle", "supercategory": "none"},  # the project's name
            {"id": 2, "name": "bicycle", "supercategory": "bicycle"},
            {"id": 90, "name": "brush", "supercategory": "bicycle"},
        ]
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def test_roboflow_folders(coco):
    root = write_roboflow(coco)
    assert data_splits(root) == ("train", "valid")
    dataset = open_dataset(root, "train")
    assert dataset.classes == ("bicycle", "brush") and dataset[0][1]["labels"].tolist() == [2, 1]
    with pytest.raises(DataError, match=r"files there: train/_annotations\.coco\.json, valid"):
        open_dataset(root, "test")


def test_a_group_that_an_object_has_is_a_class(coco):
    root = write_roboflow(coco)
    path = root / "train/_annotations.coco.json"
    edit(path, lambda c: c["categories"][0].update(name="bicycles"))
    edit(path, lambda c: c["categories"][1].update(supercategory="bicycles"))
    assert open_dataset(root, "train").classes == ("bicycle", "brush")
    edit(path, lambda c: c["annotations"][0].update(category_id=0))
    assert open_dataset(root, "train").classes == ("bicycles", "bicycle", "brush")


def image(**values):
    return lambda c: c["images"][0].update(values)


def category(**values):
    return lambda c: c["categories"][1].update(values)


def annotation(**values):
    return lambda c: c["annotations"][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (image(id=3), "must list each image id once, got 3 twice"),
        (category(id=90), "must list each category id once, got 90 twice"),
        (category(name="brush"), "must give each category a name of its own, got 'brush' for the ids 2, 90"),
        (category(name=" "), "must give each category a name, got an empty one"),
        (category(id=True), "an integer or a text 'id' in every entry"),
        (annotation(image_id="7"), "must list every image it annotates, got none with id '7'"),
        (annotation(bbox=[1, 2, 10**400, 4]), "must have four numbers in every 'bbox'"),
        (annotation(bbox=[1, 2, math.nan, 4]), "must have four numbers"),
        (annotation(bbox=[1, 2, math.inf, 4]), "must have four numbers"),
        (annotation(bbox=[True, 2, 3, 4]), "must have four numbers"),
        (annotation(area=10**400), "must have a number of pixels in every 'area'"),
        (annotation(area=math.nan), "must have a number of pixels in every 'area'"),
        (annotation(iscrowd="0"), "must have 0 or 1 in every 'iscrowd', got '0'"),
        (image(file_name="a\0.jpg"), "must name files without NUL"),
    ],
)
def test_coco_values_that_would_be_wrong_in_silence(coco, change, message):
    edit(coco / TRAIN, change)
    with pytest.raises(DataError, match=rf"train2017\.json .*{message}") as caught:
        open_dataset(coco, "train2017")
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_voc_classes_are_distinct(voc):
    with pytest.raises(ValueError, match="classes must name each class once, got 'dog' for labels 1 and 3"):
        VocDataset(voc, "train", classes=["dog", "cat", "dog"])


def test_a_split_without_objects_is_told(voc, coco):
    (voc / "ImageSets/Main/one.txt").write_text("b\n")
    with pytest.warns(UserWarning, match="the split has no objects: the model will learn"):
        loading.warn_if_empty(open_dataset(voc, "one"), "the split")
    edit(coco / TRAIN, lambda c: c.update(annotations=c["annotations"][1:]))  # a crowd alone
    with pytest.warns(UserWarning, match="no objects"):
        loading.warn_if_empty(open_dataset(coco, "train2017"), "the split")


# Hostile


@pytest.mark.parametrize("text", ["[" * 200_000, '{"images":' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_json_bombs(coco, text):
    (coco / TRAIN).write_text(text)
    with pytest.raises(DataError, match=r"train2017\.json does not parse: "):
        open_dataset(coco, "train2017")


def test_a_deep_entry_is_shown_in_short(coco):
    deep = "[" * 300 + "]" * 300
    text = (coco / TRAIN).read_text().replace('"image_id": 7', f'"image_id": {deep}', 1)
    (coco / TRAIN).write_text(text)
    with pytest.raises(DataError, match="'image_id' in every entry, got"):
        open_dataset(coco, "train2017")


def test_xml_bombs(voc):
    add_voc(voc, "d", annotation="<a>" * 100_000)
    with pytest.raises(DataError, match=r"d\.xml does not parse"):
        VocDataset(voc, "one", classes=["dog"])
    add_voc(voc, "d", annotation="<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>")
    assert len(VocDataset(voc, "one", classes=["dog"]).target(0)["labels"]) == 0


@pytest.mark.parametrize("name", ["Annotations/a.xml", "JPEGImages/a.jpg", "ImageSets/Main/train.txt"])
def test_a_pipe_in_a_voc_folder_never_hangs(voc, name):
    (voc / name).unlink()
    os.mkfifo(voc / name)
    with pytest.raises(DataError, match=os.path.basename(name)):
        VocDataset(voc, "train")[0]


def test_a_pipe_in_a_coco_folder_never_hangs(coco):
    for name in ("train2017/x.jpg", TRAIN):
        (coco / name).unlink()
        os.mkfifo(coco / name)
        with pytest.raises(DataError, match="must be a file, got a pipe"):
            open_dataset(coco, "train2017")[0]


@pytest.mark.parametrize(
    "name",
    [
        "../../secret.jpg",
        "{outside}/secret.jpg",
        "..\\..\\secret.jpg",
        "C:\\secret.jpg",
        "a/../../../secret.jpg",
    ],
)
def test_paths_that_leave_the_folder_are_refused(coco, voc, name):
    photo(coco.parent / "secret.jpg")
    name = name.format(outside=coco.parent)
    edit(coco / TRAIN, lambda c: c["images"][0].update(file_name=name))
    with pytest.raises(DataError, match=r"must name files inside .*coco, got .*allow-outside"):
        open_dataset(coco, "train2017")
    (voc / "ImageSets/Main/one.txt").write_text(f"{name.removesuffix('.jpg')}\n")
    with pytest.raises(DataError, match=r"one\.txt must name files inside .*voc, got .*allow-outside"):
        VocDataset(voc, "one")


def test_outside_may_be_allowed(coco, voc):
    photo(coco.parent / "secret.jpg")
    edit(coco / TRAIN, lambda c: c["images"][0].update(file_name="../../secret.jpg"))
    assert open_dataset(coco, "train2017", allow_outside=True)[0][0].shape == (3, 40, 60)
    (voc.parent / "far").mkdir()
    photo(voc.parent / "far/d.jpg")
    (voc / "ImageSets/Main/one.txt").write_text("../../far/d\n")
    (voc.parent / "far/d.xml").write_text(DOG)
    assert len(open_dataset(voc, "one", allow_outside=True)) == 1


def test_an_absolute_name_inside_is_inside(coco):
    edit(coco / TRAIN, lambda c: c["images"][0].update(file_name=str(coco / "train2017/x.jpg")))
    assert open_dataset(coco, "train2017")[0][0].shape == (3, 40, 60)


def test_a_link_may_lead_elsewhere(coco):
    (coco / "train2017").rename(coco.parent / "disk")
    (coco / "train2017").symlink_to(coco.parent / "disk")
    assert open_dataset(coco, "train2017")[0][0].shape == (3, 40, 60)


def test_twenty_thousand_classes_load_in_seconds(coco):
    def change(content):
        content["categories"] = [{"id": i, "name": f"class {i}"} for i in range(20_000)]
        content["images"] = [{"id": i, "file_name": "x.jpg", "height": 40, "width": 60} for i in range(5_000)]
        content["annotations"] = [
            {"id": i, "image_id": i % 5_000, "category_id": i, "bbox": [1, 2, 3, 4]} for i in range(20_000)
        ]

    edit(coco / TRAIN, change)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    dataset = CocoDataset(coco / TRAIN, coco / "train2017")
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB, of the peak
    assert dataset.num_classes == 20_001 and grown < 500_000
    assert seconds < 60  # a square of the classes would take minutes
    with pytest.raises(DataError) as caught:
        edit(coco / TRAIN, lambda c: c["categories"][0].update(name="class 1"))
        CocoDataset(coco / TRAIN, coco / "train2017")
    assert len(str(caught.value)) < 300
