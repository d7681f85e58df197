"""Pictures: what is drawn where, and that nothing a detector may return stops it."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

from ssd_cuda.engine import fonts
from ssd_cuda.engine.draw import (
    class_colour,
    draw_detections,
    running_mean,
    save_grid,
    save_loss_curve,
    save_picture,
)
from ssd_cuda.engine.outputs import OutputError

GROUND = 90  # the grey of the test images
CLASSES = ["cat", "dog"]


def grey(height=240, width=320):
    return torch.full((3, height, width), GROUND, dtype=torch.uint8)


def found(boxes, scores, labels):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "scores": torch.tensor(scores),
            "labels": torch.tensor(labels, dtype=torch.int64)}  # fmt: skip


NOTHING = found([], [], [])


def count(picture, colour):
    return int((np.asarray(picture) == np.array(colour)).all(-1).sum())


def test_a_box_is_drawn_where_it_is_in_the_colour_of_its_class():
    picture = draw_detections(grey(), found([[100.0, 100, 200, 180]], [0.9], [2]), CLASSES, width=640)
    assert picture.size == (640, 480)
    pixels = np.asarray(picture)
    for x, y in [(200, 300), (400, 300), (300, 360)]:  # left, right, bottom; enlarged twice
        assert tuple(pixels[y, x]) == class_colour(1)
    assert (pixels[220:350, 210:390] == GROUND).all()  # inside
    assert (pixels[370:, :] == GROUND).all() and (pixels[:, 420:] == GROUND).all()  # outside


def test_only_sure_detections_are_drawn():
    detections = found([[10.0, 100, 60, 150], [100.0, 100, 150, 150]], [0.49, 0.5], [1, 2])
    picture = draw_detections(grey(), detections, CLASSES)
    assert count(picture, class_colour(0)) == 0 and count(picture, class_colour(1)) > 100
    assert count(draw_detections(grey(), detections, CLASSES, min_score=0.3), class_colour(0)) > 100


def test_the_ground_truth_is_dashed_in_white():
    target = {"boxes": torch.tensor([[100.0, 100, 200, 180]])}
    picture = draw_detections(grey(), NOTHING, CLASSES, target=target, width=320)
    edge = np.asarray(picture)[100, 100:200].mean(-1)
    assert 0.3 < (edge == 255).mean() < 0.7 and 0.3 < (edge < 50).mean() < 0.7
    assert count(draw_detections(grey(), NOTHING, CLASSES), (255, 255, 255)) == 0


def test_labels_make_room_for_each_other():
    """Two detections of one box: both texts are to be read, so twice the area is covered."""
    box = [100.0, 100, 200, 180]
    one = draw_detections(grey(), found([box], [0.9], [1]), CLASSES)
    two = draw_detections(grey(), found([box, box], [0.9, 0.8], [1, 1]), CLASSES)
    changed = [int((np.asarray(p) != GROUND).any(-1).sum()) for p in (one, two)]
    outline = 2 * (200 + 160) * 4
    assert changed[1] - outline > 1.6 * (changed[0] - outline)


@pytest.mark.parametrize(
    "box",
    [
        [-50.0, -50.0, 20.0, 20.0],
        [300.0, 230.0, 1e9, 1e9],
        [50.0, 50.0, 50.0, 50.0],
        [60.0, 60.0, 50.0, 50.0],
        [math.nan, 0.0, 10.0, 10.0],
        [0.0, 0.0, math.inf, 10.0],
    ],
)
def test_odd_boxes_do_not_stop_the_drawing(box):
    detections = found([box, [100.0, 100, 150, 150]], [0.9, 0.9], [1, 2])
    picture = draw_detections(grey(), detections, CLASSES, target={"boxes": torch.tensor([box])})
    assert count(picture, class_colour(1)) > 100


def test_colours_differ_for_many_classes():
    colours = [class_colour(i) for i in range(90)]
    assert len(set(colours)) == 90 and all(0 <= v <= 255 for colour in colours for v in colour)


def test_a_grid_holds_every_panel_and_a_legend(tmp_path):
    target = {"boxes": torch.tensor([[10.0, 10, 60, 60]])}
    detections = found([[10.0, 100, 60, 150]], [0.9], [1])
    path = tmp_path / "grid.png"
    images = [grey(), grey(160, 320), grey(), grey()]
    save_grid(path, images, [detections] * 4, [target] * 4, CLASSES, columns=2, width=800, caption="AP50 0.9")
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape[1] == 800
    grounds = (picture == GROUND).all(-1)
    assert grounds[:, 100].any() and grounds[:, 700].any()  # both columns
    legend = picture[-33:]
    for colour in (class_colour(0), class_colour(1)):
        assert (legend == np.array(colour)).all(-1).sum() > 50
    with pytest.raises(ValueError, match="one entry per panel, at least one, got 1, 1 and 0"):
        save_grid(path, [grey()], [NOTHING], [], CLASSES)
    with pytest.raises(ValueError, match="got 0, 0 and 0"):
        save_grid(path, [], [], [], CLASSES)


def test_a_legend_of_ninety_classes_stays_inside(tmp_path):
    names = [f"class number {i}" for i in range(90)]
    save_grid(tmp_path / "grid.png", [grey()], [NOTHING], [{"boxes": torch.zeros(0, 4)}], names, width=640)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (picture[:, -4:] == 255).all()


def history(n):
    return [{"step": i + 1, "loss": 5.0 / (i + 1), "localization": 2.0 / (i + 1)} for i in range(n)]


@pytest.mark.parametrize(
    ("rows", "evaluations"),
    [
        (history(200), [(100, 0.5), (200, 0.8)]),
        (history(1), []),
        ([{"step": 1, "loss": 1.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": 0.5}], []),
    ],
)
def test_the_loss_curve_is_written(tmp_path, rows, evaluations):
    pytest.importorskip("matplotlib")
    path = tmp_path / "loss.png"
    save_loss_curve(path, rows, evaluations=evaluations, title="run")
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape[1] > 1000
    green = (picture == np.array([64, 192, 87])).all(-1).sum()  # of the evaluations
    assert (green > 100) == bool(evaluations)


def test_therunning_mean_passes_over_what_is_not_finite():
    values = np.array([1.0, 3.0, math.nan, 5.0, math.inf, math.inf, math.inf])
    expected = [2.0, 2.0, 4.0, 5.0, 5.0, math.nan, math.nan]
    np.testing.assert_allclose(running_mean(values, 1), expected)


def test_an_empty_history_and_a_missing_matplotlib_are_explained(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="history must have at least one step, got none"):
        save_loss_curve(tmp_path / "loss.png", [])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ImportError, match=r"the loss curve needs matplotlib .*: type `pip install matplotlib`"
    ):
        save_loss_curve(tmp_path / "loss.png", history(2))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 1), (7, 2048)),
        ((3000, 1), (1, 3000)),
        ((1, 300), (640, 2)),
        ((1, 3000), (3000, 1)),
        ((240, 320), (640, 480)),
        ((700, 700), (700, 700)),
    ],
)
def test_a_line_of_pixels_does_not_become_a_picture_of_gigabytes(size, expected):
    everything = found([[0.0, 0, size[1], size[0]]], [0.9], [1])
    picture = draw_detections(grey(*size), everything, CLASSES, target={"boxes": everything["boxes"]})
    assert picture.size == expected


def test_panels_stay_small_too(tmp_path):
    path = tmp_path / "grid.png"
    sizes = [(3000, 1), (1, 3000), (240, 320)]
    nothing = {"boxes": torch.zeros(0, 4)}
    save_grid(path, [grey(*size) for size in sizes], [NOTHING] * 3, [nothing] * 3, CLASSES, width=640)
    width, height = Image.open(path).size
    assert width == 640 and height < 1000


@pytest.mark.parametrize("name", ["Käfer", "кошка", "γάτα", "Ελλάδα 9", "قطة"])
def test_names_in_other_scripts_are_drawn_and_differ(name):
    pytest.importorskip("matplotlib")
    box = found([[20.0, 60, 250, 200]], [0.9], [1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter that no font has is told
        drawn = np.asarray(draw_detections(grey(), box, [name]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lost = np.asarray(draw_detections(grey(), box, ["\U000f0000" * len(name)]))
    assert not np.array_equal(drawn, lost)


def test_letters_that_no_font_has_are_told(monkeypatch):
    pytest.importorskip("matplotlib")
    fonts._font_file.cache_clear()
    monkeypatch.setattr(fonts, "_has", lambda file, letters: False)
    with pytest.warns(UserWarning, match="no font of this machine has all letters of '猫'"):
        draw_detections(grey(), found([[20.0, 60, 250, 200]], [0.9], [1]), ["猫"])
    fonts._font_file.cache_clear()


def test_control_characters_are_drawn_as_escapes():
    box = found([[20.0, 60, 250, 200]], [0.9], [1])
    pictures = [draw_detections(grey(), box, [name]) for name in ("two\nlines", "two\\nlines")]
    assert np.array_equal(*map(np.asarray, pictures))


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    class Picture:
        def save(self, file, format):
            file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"x\.png cannot be written: No space left on device"):
        save_picture(path, Picture())
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x.png"]
    with pytest.raises(ValueError, match=r"a picture must end in \.png, \.jpg or the like, got .*x\.doc"):
        save_picture(tmp_path / "x.doc", Picture())
    for suffix in ("jpg", "PNG", "webp", "tif", "gif", "bmp"):
        save_picture(tmp_path / f"y.{suffix}", Image.new("RGB", (8, 8), "red"))
        assert Image.open(tmp_path / f"y.{suffix}").size == (8, 8)
