"""The programs that draw the pages' pictures run on any photograph and network; what is kept is small."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssd_cuda import models

pytest.importorskip("matplotlib")
pytest.importorskip("torchvision")
PICTURES = Path(__file__).parents[1] / "docs/pictures"
sys.path.insert(0, str(PICTURES.parent))
import flow  # noqa: E402  # docs/flow.py
import pictures  # noqa: E402  # docs/pictures.py

from ssd_cuda.data import ShapesDataset, collate, prepare  # noqa: E402

SIZE = (64, 96)


@pytest.fixture(scope="module")
def scene():
    """A drawn image as a photograph, the same as a batch of one, and an untrained network."""
    torch.manual_seed(0)
    dataset = ShapesDataset("test", length=1, size=SIZE)
    model = models.ssd_small(num_classes=dataset.num_classes, image_size=SIZE).eval()
    model.detect_config = replace(model.detect_config, score_threshold=0.168)  # few pass; all are near 1/6
    images, gt = collate([prepare(dataset, SIZE)[0]])
    return dataset.image(0).as_subclass(torch.Tensor) / 255, model, images, gt, dataset.classes


def drawn(path: Path) -> tuple[int, int]:
    image = pytest.importorskip("PIL.Image").open(path)
    assert len(image.convert("L").getcolors(256)) > 2, "an empty picture"
    return image.size


def test_pictures_on_a_photograph(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DPI", 40)
    photo, model, images, gt, classes = scene
    pictures.draw_matching(tmp_path / "matching.jpg", photo, model, images, gt)
    pictures.draw_detection(tmp_path / "detection.jpg", photo, model, images, classes)
    pictures.draw_mining(tmp_path / "mining.png", {"one": model, "other": model}, images, gt)
    assert drawn(tmp_path / "matching.jpg")[0] == drawn(tmp_path / "detection.jpg")[0] == 440
    assert drawn(tmp_path / "mining.png")[0] > 300


def test_three_positives_a_mined_negative(scene):
    """What the picture calls mined is what the loss mines."""
    _, model, images, gt, _ = scene
    keys, hard = pictures.mined(model, images, gt)
    positives = pictures.ops.match(gt, model.priors)[0] >= 0
    assert int(hard.sum()) == 3 * int(positives.sum()) and not (hard & positives).any()
    assert keys[hard].min() >= keys[~hard & ~positives].max()


def test_diagrams_name_nodes_that_are_there(tmp_path):
    for nodes, arrows in (
        (flow.LOSS, flow.LOSS_ARROWS),
        (flow.MINING, flow.MINING_ARROWS),
        (flow.DETECT, flow.DETECT_ARROWS),
    ):
        ends = {name for pair in arrows for name in pair.replace("/", " ").split()}
        assert ends == set(nodes)
    flow.draw_all(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in PICTURES.glob("*.svg")}


def test_committed_pictures_are_small_and_used():
    pages = "".join(
        page.read_text() for page in (PICTURES.parents[1] / "README.md", *PICTURES.parent.glob("*.md"))
    )
    for path in (p for p in PICTURES.iterdir() if p.suffix in {".jpg", ".png", ".svg"}):
        assert path.stat().st_size < 300_000 and f"pictures/{path.name}" in pages, path.name
