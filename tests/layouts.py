"""Small Pascal VOC and COCO folders, written for the tests of the data layer."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from ssd_cuda.engine.checkpoint import ModelSpec, save_checkpoint
from ssd_cuda.engine.train import TrainConfig, Trainer

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"""


def xml(*objects, size=(40, 60)):
    rows = "".join(OBJECT.format(*box, name=name, difficult=int(hard)) for name, box, hard in objects)
    return f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{rows}</annotation>"


def photo(path, size=(40, 60), mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def write_voc(tmp_path):
    """Splits train (a, b) and val (c); classes cat, dog and, in val alone, emu."""
    root = tmp_path / "voc"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("a\nb\n\n")
    (root / "ImageSets/Main/val.txt").write_text("c 1\n")
    (root / "ImageSets/Main/dog_train.txt").write_text("a -1\nb 1\n")
    photo(root / "JPEGImages/a.jpg")
    photo(root / "JPEGImages/b.png")
    photo(root / "JPEGImages/c.jpg")
    (root / "Annotations/a.xml").write_text(
        xml(("dog", (1, 2, 31, 22), False), ("cat", (10.5, 5, 20, 40), True))
    )
    (root / "Annotations/b.xml").write_text(xml())
    (root / "Annotations/c.xml").write_text(xml(("emu", (5, 5, 60, 40), False)))
    return root


def write_coco(tmp_path):
    """Splits train2017 and val2017 of the same two images; one object and one crowd in the first."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        for name in ("x.jpg", "y.jpg"):
            photo(root / split / name)
        content = {
            "images": [
                {"id": 7, "file_name": "x.jpg", "height": 40, "width": 60},
                {"id": 3, "file_name": "y.jpg"},
            ],
            "categories": [{"id": 90, "name": "brush"}, {"id": 2, "name": "bicycle"}],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 7,
                    "category_id": 90,
                    "bbox": [1, 2, 30, 20],
                    "area": 444.5,
                    "iscrowd": 0,
                },
                {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0.5, 0, 10, 10], "iscrowd": 1},
            ],
        }
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def write_checkpoint(path, classes=("cat", "dog"), size=(64, 64)):
    """That of a run that has not begun: the small SSD with new weights."""
    spec = ModelSpec("ssd_small", tuple(classes), size)
    save_checkpoint(path, spec, Trainer(spec.build(), TrainConfig(), 1).state())
    return path
