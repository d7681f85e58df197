"""Options: presets by name, and one sentence for every option that cannot be."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest

from ssd_cuda import DetectConfig, MatchConfig, MiningConfig, MultiBoxConfig


@pytest.mark.parametrize("cls", [MultiBoxConfig, DetectConfig])
def test_presets(cls):
    names = cls.preset_names()
    assert {"paper", "torchvision", "amdegroot"} <= set(names) and list(names) == sorted(names)
    for name in names:
        config = cls.preset(name)
        assert hash(config) == hash(cls.preset(name)) and config == cls.preset(name)
        assert cls.preset(name, layout="bcp") == replace(config, layout="bcp")
    with pytest.raises(ValueError, match=r"preset must be one of amdegroot, caffe, .*, got 'yolo'"):
        cls.preset("yolo")
    with pytest.raises(TypeError, match=rf"{cls.__name__} has no option 'iou'; it has background, "):
        cls.preset("paper", iou=0.5)


def test_options_do_not_change():
    with pytest.raises(FrozenInstanceError):
        MatchConfig().tie = "last"  # type: ignore[misc]


BAD = [
    (MatchConfig, {"iou_threshold": 1.5}, ValueError, r"iou_threshold must lie in \[0.0, 1.0\], got 1.5"),
    (MatchConfig, {"iou_threshold": math.nan}, ValueError, r"iou_threshold must lie in .* got nan"),
    (MatchConfig, {"iou_threshold": "0.5"}, TypeError, "iou_threshold must be a number, got str"),
    (MatchConfig, {"iou_eps": -1e-5}, ValueError, r"iou_eps must lie in \[0.0, inf\], got -1e-05"),
    (
        MatchConfig,
        {"forced": None},
        ValueError,
        "forced must be one of 'none', 'argmax', 'bipartite', got None",
    ),
    (MatchConfig, {"tie": "random"}, ValueError, "tie must be one of 'first', 'last', got 'random'"),
    (MatchConfig, {"degenerate": "error"}, ValueError, "degenerate must be one of 'keep', 'ignore', got"),
    (MatchConfig, {"prior_format": "xywh"}, ValueError, "prior_format must be one of 'cxcywh', 'xyxy', got"),
    (MatchConfig, {"candidate_max_iou": 2}, ValueError, r"candidate_max_iou must lie in \[0.0, 1.0\], got 2"),
    (MiningConfig, {"ratio": -1}, ValueError, r"ratio must lie in \[0.0, inf\], got -1"),
    (MiningConfig, {"min_negatives": 0.5}, TypeError, "min_negatives must be an integer, got 0.5"),
    (MiningConfig, {"min_negatives": -1}, ValueError, "min_negatives must be at least 0, got -1"),
    (MiningConfig, {"rounding": "round"}, ValueError, "rounding must be one of 'floor', 'ceil', got"),
    (MiningConfig, {"cap": 1}, ValueError, "cap must be one of 'all', 'all_but_one', 'negatives', got 1"),
    (MiningConfig, {"key": "focal"}, ValueError, "key must be one of 'ce', 'background', got 'focal'"),
    (MiningConfig, {"positive_fill": 0}, ValueError, "positive_fill must be one of 'zero', '-inf', got 0"),
    (
        MultiBoxConfig,
        {"variances": (0.1,)},
        ValueError,
        r"variances must be 2 or 4 positive numbers, got \(0.1,\)",
    ),
    (MultiBoxConfig, {"variances": (0.1, 0.0)}, ValueError, "variances must be 2 or 4 positive numbers, got"),
    (MultiBoxConfig, {"variances": 0.1}, ValueError, "variances must be 2 or 4 positive numbers, got 0.1"),
    (MultiBoxConfig, {"beta": -1}, ValueError, "beta must lie in"),
    (MultiBoxConfig, {"loc_weight": -1}, ValueError, "loc_weight must lie in"),
    (MultiBoxConfig, {"label_offset": 1.0}, TypeError, "label_offset must be an integer, got 1.0"),
    (MultiBoxConfig, {"ignore_label": "no"}, TypeError, "ignore_label must be an integer, got 'no'"),
    (MultiBoxConfig, {"loc_loss": "l2"}, ValueError, "loc_loss must be one of 'smooth_l1', 'l1', got 'l2'"),
    (MultiBoxConfig, {"normalizer": "mean"}, ValueError, "normalizer must be one of 'batch', .*, got 'mean'"),
    (MultiBoxConfig, {"zero_label": 0}, ValueError, "zero_label must be one of"),
    (MultiBoxConfig, {"layout": "nchw"}, ValueError, "layout must be one of 'bpc', 'bcp', got 'nchw'"),
    (
        MultiBoxConfig,
        {"mining": MiningConfig(count_positives_twice=True)},
        ValueError,
        "count_positives_twice needs cap='all' or 'all_but_one', got cap='negatives'",
    ),
    (MultiBoxConfig, {"ignored_key": 0}, ValueError, "ignored_key must be one of 'none', 'zero', got 0"),
    (
        MultiBoxConfig,
        {"ignored_key": "zero", "mining": MiningConfig(positive_fill="zero")},
        ValueError,
        "ignored_key='zero' needs cap='all' or 'all_but_one' and positive_fill='zero', got cap='negatives'",
    ),
    (
        MultiBoxConfig,
        {"ignored_key": "zero", "mining": MiningConfig(cap="all")},
        ValueError,
        "ignored_key='zero' needs cap=.* and positive_fill='zero', got cap='all' and positive_fill='-inf'",
    ),
    (
        MultiBoxConfig,
        {"single_class": True, "background": "last"},
        ValueError,
        "single_class needs background='first', got 'last'",
    ),
    (
        DetectConfig,
        {"scores": "logits"},
        ValueError,
        "scores must be one of 'softmax', 'sigmoid', 'given', got",
    ),
    (DetectConfig, {"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
    (DetectConfig, {"top_k": 2.0}, TypeError, "top_k must be an integer, got 2.0"),
    (
        DetectConfig,
        {"detections_per_image": True},
        TypeError,
        "detections_per_image must be an integer, got True",
    ),
    (
        DetectConfig,
        {"soft_nms": "linear"},
        ValueError,
        "soft_nms must be one of None, 'gaussian', got 'linear'",
    ),
    (
        DetectConfig,
        {"clip_size": (0, 1)},
        ValueError,
        r"clip_size must be two positive numbers, got \(0, 1\)",
    ),
]


@pytest.mark.parametrize("cls, options, error, message", BAD, ids=lambda value: str(value)[:40])
def test_bad_options_are_one_sentence(cls, options, error, message):
    with pytest.raises(error, match=message):
        cls(**options)
