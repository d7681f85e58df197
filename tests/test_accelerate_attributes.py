"""accelerate and the numbers that a torchvision SSD keeps as attributes, which people change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ssd_cuda

pytest.importorskip("torchvision")
from test_accelerate import assert_same_detections, assert_same_training, batch, pair, tiny_ssd

IMAGES, TARGETS = batch(num_classes=5)


def spread_ssd():
    """Logits with a spread, as after training: scores that do not tie."""
    model = tiny_ssd(5)
    for head in model.head.classification_head.module_list:
        torch.manual_seed(1)
        nn.init.normal_(head.weight, std=0.6)
    return model


@pytest.mark.parametrize(
    "attributes",
    [
        {"topk_candidates": 0},
        {"detections_per_img": 0},
        {"detections_per_img": 0, "topk_candidates": 0},
        {"detections_per_img": None},
        {"detections_per_img": None, "topk_candidates": 3},
        {"detections_per_img": 2**40},
        {"detections_per_img": 2**40, "topk_candidates": 2**40},
        {"detections_per_img": 2**40, "topk_candidates": 3},
        {"nms_thresh": 1.5},
        {"nms_thresh": float("inf")},
        {"nms_thresh": torch.tensor(0.25)},
        {"score_thresh": 1.0},
        {"score_thresh": -1.0},
    ],
    ids=str,
)
def test_detections_are_torchvisions(attributes):
    plain, fused = pair(spread_ssd())
    for model in (plain, fused):
        vars(model).update(attributes)
    assert_same_detections(plain, fused, IMAGES)
    assert_same_detections(plain, ssd_cuda.accelerate(ssd_cuda.restore(fused)), IMAGES)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.2), (0.2, 0.5), (0.0, 0.0), (1.0, 1.0)])
def test_an_iou_has_to_reach_both_thresholds_of_the_matcher(low, high):
    """Only the upper one was looked at: lowered alone, it gave other matches than torchvision's."""
    plain, fused = pair(tiny_ssd(5))
    for model in (plain, fused):
        model.proposal_matcher.low_threshold, model.proposal_matcher.high_threshold = low, high
    assert_same_training(plain, fused, IMAGES, TARGETS)


@pytest.mark.parametrize(
    ("path", "value", "error", "sentence"),
    [
        ("topk_candidates", -1, ValueError, "must be at least 0, got -1"),
        ("topk_candidates", None, TypeError, "must be an integer, got None"),
        ("topk_candidates", 10.5, TypeError, "must be an integer, got 10.5"),
        ("detections_per_img", -1, ValueError, "must be at least 0, got -1"),
        ("nms_thresh", -0.1, ValueError, r"must lie in \[0.0, inf\], got -0.1"),
        ("nms_thresh", float("nan"), ValueError, r"must lie in \[0.0, inf\], got nan"),
        ("nms_thresh", None, TypeError, "must be a number, got NoneType"),
        ("score_thresh", float("nan"), ValueError, r"must lie in \[-inf, inf\], got nan"),
        ("score_thresh", "0.5", TypeError, "must be a number, got str"),
        ("neg_to_pos_ratio", -1, ValueError, r"must lie in \[0.0, inf\], got -1"),
        ("neg_to_pos_ratio", float("inf"), ValueError, "must be finite, got inf"),
        ("proposal_matcher.high_threshold", 1.5, ValueError, r"must lie in \[0.0, 1.0\], got 1.5"),
        ("proposal_matcher.low_threshold", -0.5, ValueError, r"must lie in \[0.0, 1.0\], got -0.5"),
        ("box_coder.bbox_xform_clip", -1.0, ValueError, r"must lie in \[0.0, inf\], got -1.0"),
        (
            "box_coder.weights",
            (0.0, 10.0, 5.0, 5.0),
            ValueError,
            r"must be four positive numbers, got \(0.0, ",
        ),
        ("box_coder.weights", (10.0, 5.0), ValueError, r"must be four positive numbers, got \(10.0, 5.0\)"),
    ],
)
def test_what_means_nothing_is_refused_at_once(path, value, error, sentence):
    """It was told of in the first evaluation or loss, by the name of an option of ours, if at all."""
    model = tiny_ssd(5)
    *parts, name = path.split(".")
    setattr(getattr(model, parts[0]) if parts else model, name, value)
    with pytest.raises(error, match=f"^model.{path} {sentence}"):
        ssd_cuda.accelerate(model)
    assert type(model).__name__ == "SSD"
