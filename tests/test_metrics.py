"""Average precision: worked by hand, and against pycocotools where the rules coincide."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("pycocotools")

from ssd_cuda.engine import metrics
from ssd_cuda.engine.metrics import coco_map, voc_ap

UNIT = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 60.0, 60.0]


def image(boxes, scores=None, labels=None, **extra):
    """A prediction (with scores) or a target (without) of one image."""
    result = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels or [1] * len(boxes))}
    if scores is not None:
        result["scores"] = torch.tensor(scores)
    return result | {key: torch.tensor(value) for key, value in extra.items()}


def at(x, y=0.0, side=10.0):
    return [x, y, x + side, y + side]


def worked_example():
    """Four objects in a row; by score: true, false, true, true (of four): recall 1/4, 1/4, 2/4, 3/4."""
    target = image([at(0.0), at(20.0), at(40.0), at(60.0)])
    prediction = image([at(20.0), at(0.0), at(90.0), at(40.0)], [0.7, 0.9, 0.8, 0.6])
    return [prediction], [target]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Precision 1, 1/2, 2/3, 3/4; highest from there on 1, 3/4, 3/4, 3/4.
        ("area", 0.25 * 1 + 0.25 * 0.75 + 0.25 * 0.75),
        ("11point", (3 * 1 + 5 * 0.75) / 11),  # recalls 0, .1, .2 | .3 .4 .5 .6 .7 | .8 .9 1
        ("101point", (26 * 1 + 50 * 0.75) / 101),
    ],
)
def test_worked_example_by_every_rule(rule, expected):
    result = voc_ap(*worked_example(), ["cell"], rule=rule)
    assert result["ap"]["cell"] == pytest.approx(expected, abs=1e-12)
    assert result["map"] == result["ap"]["cell"]
    assert result["objects"] == {"cell": 4} and result["detections"] == {"cell": 4}


def test_eleven_points_are_compared_exactly():
    """Three of ten found: recall 3/10 reaches the point .3, though 3 * 0.1 > 3 / 10 in floating point."""
    target = image([at(20.0 * i) for i in range(10)])
    prediction = image([at(20.0 * i) for i in range(3)], [0.9, 0.8, 0.7])
    assert voc_ap([prediction], [target], ["cell"], rule="11point")["map"] == pytest.approx(4 / 11)


def test_a_second_detection_of_an_object_is_false():
    target = image([UNIT, FAR])
    prediction = image([UNIT, UNIT, FAR], [0.9, 0.8, 0.7])
    # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    assert voc_ap([prediction], [target], ["cell"])["map"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_detection_does_not_fall_back_on_its_second_best_object():
    """Two objects overlap; both detections fit the first best. The devkit calls the later one false."""
    target = image([at(0.0), at(3.0)])
    prediction = image([at(0.0), at(1.0)], [0.9, 0.8])  # IoU of the second: 9/11 and 8/12
    assert voc_ap([prediction], [target], ["cell"])["map"] == pytest.approx(0.5)
    assert coco_map([prediction], [target], ["cell"])["map50"] == pytest.approx(1.0)  # COCO lets it


def test_difficult_objects_are_neither_missed_nor_found():
    target = image([UNIT, FAR], difficult=[False, True])
    finds_both = image([FAR, FAR, UNIT], [0.9, 0.8, 0.7])
    misses_it = image([UNIT], [0.7])
    for prediction in (finds_both, misses_it):
        result = voc_ap([prediction], [target], ["cell"])
        assert result["map"] == 1.0 and result["objects"] == {"cell": 1}


def test_iou_equal_to_the_threshold_is_found():
    target = image([UNIT])
    prediction = image([[0.0, 0.0, 10.0, 5.0]], [0.9])  # IoU 1/2
    assert voc_ap([prediction], [target], ["cell"])["map"] == 1.0
    assert voc_ap([prediction], [target], ["cell"], iou_threshold=0.51)["map"] == 0.0


def test_classes_without_objects_are_nan_and_left_out_of_the_mean():
    target = image([UNIT, FAR], labels=[1, 3])
    prediction = image([UNIT, UNIT], [0.9, 0.8], labels=[1, 2])
    for result, mean in (
        (voc_ap([prediction], [target], ["a", "b", "c"]), 0.5),
        (coco_map([prediction], [target], ["a", "b", "c"]), 0.5),
    ):
        assert result["ap"]["a"] == pytest.approx(1.0)
        assert math.isnan(result["ap"]["b"]) and result["ap"]["c"] == 0.0
        assert result["map"] == pytest.approx(mean)


def test_nothing_to_find_is_nan_and_nothing_found_is_zero():
    empty = image([])
    nothing = image([], [])
    assert math.isnan(voc_ap([nothing], [empty], ["cell"])["map"])
    assert math.isnan(coco_map([nothing], [empty], ["cell"])["map"])
    assert voc_ap([nothing], [image([UNIT])], ["cell"])["map"] == 0.0
    assert coco_map([nothing], [image([UNIT])], ["cell"])["map"] == 0.0
    assert math.isnan(voc_ap([], [], ["cell"])["map"])
    assert math.isnan(coco_map([], [], ["cell"])["map"])


def scene(seed, images=30, classes=3, apart=True):
    """Random objects, and detections of most of them, shifted, with false ones in between.

    ``apart``: one object of a class at most per cell of a grid, so that no detection has a second best.
    """
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for _ in range(images):
        truth, found = [], []
        for cell in rng.permutation(16)[: rng.integers(0, 12)]:
            side = rng.uniform(10, 60)
            corner = np.array([cell % 4, cell // 4]) * (100.0 if apart else 25.0)
            label = int(rng.integers(1, classes + 1))
            box = np.array([*corner, *(corner + side)])
            if rng.random() < 0.8:
                truth.append((box, label))
            if rng.random() < 0.8:
                shift = rng.normal(0, 0.12 * side, 4)
                found.append((box + shift, label, round(rng.random(), 2)))  # rounded: scores tie
        predictions.append(
            {
                "boxes": torch.tensor(np.array([f[0] for f in found]).reshape(-1, 4)),
                "labels": torch.tensor([f[1] for f in found], dtype=torch.int64),
                "scores": torch.tensor([f[2] for f in found]),
            }
        )
        targets.append(
            {
                "boxes": torch.tensor(np.array([t[0] for t in truth]).reshape(-1, 4)),
                "labels": torch.tensor([t[1] for t in truth], dtype=torch.int64),
            }
        )
    return predictions, targets


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pycocotools_where_the_rules_coincide(seed):
    """Objects apart and 101 recall points: the VOC rule is then COCO's, at every IoU threshold."""
    predictions, targets = scene(seed)
    names = ["a", "b", "c"]
    coco = coco_map(predictions, targets, names)
    thresholds = np.linspace(0.5, 0.95, 10)
    ours = [voc_ap(predictions, targets, names, iou_threshold=t, rule="101point") for t in thresholds]
    assert 0.1 < coco["map"] < coco["map50"] < 0.99
    assert ours[0]["map"] == pytest.approx(coco["map50"], abs=1e-9)
    assert ours[5]["map"] == pytest.approx(coco["map75"], abs=1e-9)
    for name in names:
        assert np.mean([result["ap"][name] for result in ours]) == pytest.approx(coco["ap"][name], abs=1e-9)


def transcribed_devkit(predictions, targets, label, threshold=0.5):
    """The devkit's loop, one detection at a time, area rule."""
    entries = [
        (float(s), i, b.numpy())
        for i, p in enumerate(predictions)
        for b, s, c in zip(p["boxes"], p["scores"], p["labels"], strict=True)
        if c == label
    ]
    entries.sort(key=lambda entry: -entry[0])
    taken, true, curve = set(), 0, []
    mine = [[(j, t["boxes"][j].numpy()) for j in range(len(t["labels"])) if t["labels"][j] == label]
            for t in targets]  # fmt: skip
    count = sum(not targets[i]["difficult"][j] for i, rows in enumerate(mine) for j, _ in rows)
    seen = 0
    for _, i, box in entries:
        best, best_j = 0.0, None
        for j, other in mine[i]:
            w = min(box[2], other[2]) - max(box[0], other[0])
            h = min(box[3], other[3]) - max(box[1], other[1])
            if w > 0 and h > 0:
                area = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1])
                iou = w * h / (area - w * h)
                if iou > best:
                    best, best_j = iou, j
        if best >= threshold and targets[i]["difficult"][best_j]:
            continue
        seen += 1
        if best >= threshold and (i, best_j) not in taken:
            taken.add((i, best_j))
            true += 1
        curve.append((true / count, true / seen))
    area, last = 0.0, 0.0
    for k, (recall, _) in enumerate(curve):
        area += (recall - last) * max(p for _, p in curve[k:])
        last = recall
    return area


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_devkit_loop_on_crowded_images(seed):
    predictions, targets = scene(10 + seed, apart=False)
    rng = np.random.default_rng(seed)
    for target in targets:
        target["difficult"] = torch.tensor(rng.random(len(target["labels"])) < 0.25, dtype=torch.bool)
    result = voc_ap(predictions, targets, ["a", "b", "c"])
    for label, name in enumerate(result["ap"], 1):
        expected = transcribed_devkit(predictions, targets, label)
        assert 0.05 < expected < 0.95
        assert result["ap"][name] == pytest.approx(expected, abs=1e-12)


def test_order_of_images_and_rows_does_not_matter():
    predictions, targets = scene(5)
    for p in predictions:
        p["scores"] = torch.rand(len(p["scores"]))  # no ties
    before = voc_ap(predictions, targets, ["a", "b", "c"])
    flipped = [{key: value.flip(0) for key, value in p.items()} for p in reversed(predictions)]
    assert voc_ap(flipped, targets[::-1], ["a", "b", "c"])["ap"] == pytest.approx(before["ap"])


def test_coco_sizes_crowds_and_silence(capsys):
    small, large = at(0.0, side=20.0), at(100.0, side=100.0)
    target = image([small, large, at(300.0, side=50.0)], crowd=[False, False, True])
    # Two detections inside the crowd region are ignored, not false.
    prediction = image([at(301.0), at(320.0), large], [0.9, 0.8, 0.7])
    result = coco_map([prediction], [target], ["cell"])
    assert capsys.readouterr().out == ""
    assert result["map_small"] == 0.0 and result["map_large"] == pytest.approx(1.0)
    assert math.isnan(result["map_medium"])
    assert result["map"] == pytest.approx(51 / 101)  # one of two found, first in line
    assert result["mar1"] == 0.0 and result["mar100"] == 0.5
    # The area of the target decides, not its box.
    target["area"] = torch.tensor([20.0 * 20, 50.0 * 50, 50.0 * 50])
    assert coco_map([prediction], [target], ["cell"])["map_medium"] == pytest.approx(1.0)


def test_takes_arrays_lists_and_half_precision():
    predictions, targets = worked_example()
    expected = voc_ap(predictions, targets, ["cell"])
    lists = [{key: value.tolist() for key, value in predictions[0].items()}]
    halves = [{k: v.bfloat16() if v.is_floating_point() else v for k, v in predictions[0].items()}]
    arrays = [{key: value.numpy() for key, value in targets[0].items()}]
    assert voc_ap(lists, arrays, ["cell"])["ap"] == expected["ap"]
    assert voc_ap(halves, arrays, ["cell"])["ap"] == expected["ap"]


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (
            image([UNIT], [0.5], [2]),
            image([UNIT]),
            r"predictions\[0\]\['labels'\] must lie in \[1, 1\], got 2",
        ),
        (image([UNIT], [0.5]), image([UNIT], labels=[0]), r"targets\[0\]\['labels'\] must lie in .*got 0"),
        (image([UNIT], [0.5, 0.6]), image([UNIT]), r"\['scores'\] must have 1 rows like boxes, got \[2\]"),
        (image([UNIT]), image([UNIT]), r"predictions\[0\] must have the key 'scores'"),
        (
            {**image([UNIT], [0.5]), "boxes": [[1, 2, 3]]},
            image([UNIT]),
            r"must have shape \[n, 4\], got \[1, 3\]",
        ),
        (image([UNIT], [math.nan]), image([UNIT]), r"predictions\[0\]\['scores'\] must be finite, got nan"),
        (image([[0, 0, math.inf, 1]], [0.5]), image([UNIT]), r"\['boxes'\] must be finite, got inf"),
        (
            image([UNIT], [0.5]),
            image([[0, math.nan, 1, 1]]),
            r"targets\[0\]\['boxes'\] must be finite, got nan",
        ),
        ({**image([UNIT], [0.5]), "scores": [[0.5]]}, image([UNIT]), r"have shape \[n\], got \[1, 1\]"),
        ({**image([UNIT], [0.5]), "labels": [1.7]}, image([UNIT]), r"must be whole numbers, got 1.7"),
        ({**image([UNIT], [0.5]), "labels": [math.nan]}, image([UNIT]), r"must be whole numbers, got nan"),
    ],
)
@pytest.mark.parametrize("metric", [voc_ap, coco_map])
def test_errors_name_the_argument(metric, prediction, target, message):
    with pytest.raises(ValueError, match=message):
        metric([prediction], [target], ["cell"])


def test_a_missing_pycocotools_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match=r"COCO mAP needs pycocotools .*type `pip install pycocotools`"):
        coco_map([], [], ["cell"])


def test_lengths_and_options_are_checked():
    with pytest.raises(ValueError, match=r"like targets \(1\), got 0"):
        voc_ap([], [image([UNIT])], ["cell"])
    with pytest.raises(ValueError, match="rule must be one of 'area', '11point', '101point', got '12'"):
        voc_ap([], [], ["cell"], rule="12")
    with pytest.raises(ValueError, match="iou_threshold must lie in"):
        voc_ap([], [], ["cell"], iou_threshold=50)


@pytest.mark.parametrize("metric", [voc_ap, coco_map])
def test_classes_of_one_name_are_not_merged(metric):
    prediction, target = worked_example()
    with pytest.raises(ValueError, match="classes must name each class once, got 'cell' for labels 1 and 3"):
        metric(prediction, target, ["cell", "dog", "cell"])


def test_classes_in_parts_give_the_numbers_of_all_at_once(monkeypatch):
    predictions, targets = scene(3, images=20, classes=7)
    names = [f"class {i}" for i in range(9)]  # the last two without objects
    whole = coco_map(predictions, targets, names)
    monkeypatch.setattr(metrics, "_CLASSES_AT_ONCE", 3)
    parts = coco_map(predictions, targets, names)
    np.testing.assert_allclose(list(parts["ap"].values()), list(whole["ap"].values()), rtol=0)
    assert [math.isnan(value) for value in whole["ap"].values()] == [False] * 7 + [True] * 2
    for key in whole.keys() - {"ap"}:
        np.testing.assert_allclose(parts[key], whole[key], rtol=1e-12)


def test_a_class_costs_no_pass_over_all_images():
    """By the images that are looked at: with 300 classes in 300 images of 2 each, not 300 times 300."""
    labels = [np.array([1 + i, 1 + (i + 1) % 300]) for i in range(300)]
    targets = [{"boxes": np.array([UNIT, FAR]), "labels": pair} for pair in labels]
    predictions = [{**target, "scores": np.ones(2)} for target in targets]
    looked = []
    hits = metrics._voc_hits

    def count(found, truth, label, threshold):
        looked.append(len(found))
        return hits(found, truth, label, threshold)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_voc_hits", count)
        result = voc_ap(predictions, targets, [f"class {i}" for i in range(300)])
    assert result["map"] == 1 and sum(looked) == 600
