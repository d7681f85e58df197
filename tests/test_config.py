"""Options: presets by name, and one sentence for every option that cannot be."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest

from ssd_cuda import DetectConfig, MatchConfig, MiningConfig, MultiBoxConfig, PriorSpec
from ssd_cuda.presets import MULTIBOX


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


def test_single_options_within_a_preset_are_replaced():
    """The rest of the codebase's rule stays, where a config would bring its own defaults."""
    for name, table in MULTIBOX.items():
        own = MultiBoxConfig.preset(name)
        changed = MultiBoxConfig.preset(name, match=dict(tie="last"), mining=dict(min_negatives=7))
        mining = replace(own.mining, min_negatives=7)
        assert changed == replace(own, match=replace(own.match, tie="last"), mining=mining)
        whole = MultiBoxConfig.preset(name, match=MatchConfig(tie="last"))
        assert whole == replace(own, match=MatchConfig(tie="last"))
        assert "tie" not in table.get("match", {})  # the table is as it was


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
    (MultiBoxConfig, {"variances": 0.1}, TypeError, "variances must be a tuple or a list, got float"),
    (
        MultiBoxConfig,
        {"variances": (0.1, True)},
        ValueError,
        "variances must be 2 or 4 positive numbers, got",
    ),
    (MultiBoxConfig, {"variances": (0.1, math.inf)}, ValueError, "variances must be 2 or 4 positive numbers"),
    (MultiBoxConfig, {"variances": "12"}, TypeError, "variances must be a tuple or a list, got str"),
    (
        MultiBoxConfig,
        {"match": "paper"},
        TypeError,
        "match must be a MatchConfig or a dict of its options, got",
    ),
    (
        MultiBoxConfig,
        {"mining": MatchConfig()},
        TypeError,
        "mining must be a MiningConfig or .* got MatchConfig",
    ),
    (MultiBoxConfig, {"mining": {"ratio": -1}}, ValueError, r"ratio must lie in \[0.0, inf\], got -1"),
    (MultiBoxConfig, {"single_class": 1}, TypeError, "single_class must be True or False, got 1"),
    (
        MultiBoxConfig,
        {"clamp_normalizer": None},
        TypeError,
        "clamp_normalizer must be True or False, got None",
    ),
    (
        MultiBoxConfig,
        {"label_offset": 2**63},
        ValueError,
        "label_offset must fit in 64 bits, got 9223372036854775808",
    ),
    (MatchConfig, {"inclusive": "no"}, TypeError, "inclusive must be True or False, got 'no'"),
    (MatchConfig, {"iou_threshold": True}, TypeError, "iou_threshold must be a number, got bool"),
    (MiningConfig, {"ratio": math.inf}, ValueError, "ratio must be finite, got inf"),
    (MiningConfig, {"ratio": 10**400}, ValueError, "ratio must be finite, got 1000"),
    (MiningConfig, {"ratio": math.nan}, ValueError, r"ratio must lie in \[0.0, inf\], got nan"),
    (MiningConfig, {"rounding": ["floor"]}, ValueError, r"rounding must be one of .* got \['floor'\]"),
    (MultiBoxConfig, {"beta": -1}, ValueError, "beta must lie in"),
    (MultiBoxConfig, {"loc_weight": -1}, ValueError, "loc_weight must lie in"),
    (MultiBoxConfig, {"label_offset": 1.0}, TypeError, "label_offset must be an integer, got 1.0"),
    (MultiBoxConfig, {"ignore_label": "no"}, TypeError, "ignore_label must be an integer, got 'no'"),
    (
        MultiBoxConfig,
        {"loc_loss": "l2"},
        ValueError,
        "loc_loss must be one of 'smooth_l1', 'l1', 'giou', 'diou', 'ciou', got 'l2'",
    ),
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
    (DetectConfig, {"class_agnostic": 0}, TypeError, "class_agnostic must be True or False, got 0"),
    (DetectConfig, {"max_log_scale": math.inf}, ValueError, "max_log_scale must be finite, got inf"),
    (DetectConfig, {"score_threshold": None}, TypeError, "score_threshold must be a number, got NoneType"),
    (DetectConfig, {"clip_size": 300}, TypeError, "clip_size must be a tuple or a list, got int"),
    (DetectConfig, {"clip_size": (math.inf, 1)}, ValueError, "clip_size must be two positive numbers, got"),
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
        {"soft_nms": "hard"},
        ValueError,
        "soft_nms must be one of None, 'gaussian', 'linear', got 'hard'",
    ),
    (
        DetectConfig,
        {"clip_size": (0, 1)},
        ValueError,
        r"clip_size must be two positive numbers, got \(0, 1\)",
    ),
]


BAD += [
    (PriorSpec, {"pixels": 1}, TypeError, "pixels must be True or False, got 1"),
    (PriorSpec, {"sizes": "30"}, TypeError, "sizes must be a tuple or a list, got str"),
    (PriorSpec, {"sizes": (30, "60", 1, 1, 1, 1)}, ValueError, "sizes must hold positive numbers, one or"),
    (PriorSpec, {"sizes": (30, True, 1, 1, 1, 1)}, ValueError, "sizes must hold positive numbers, one or"),
    (PriorSpec, {"image_size": (300, math.inf)}, ValueError, "image_size must hold one positive number or"),
    (PriorSpec, {"image_size": None}, TypeError, "image_size must be a tuple or a list, got NoneType"),
    (PriorSpec, {"offset": math.inf}, ValueError, "offset must be finite, got inf"),
    (
        PriorSpec,
        {"variances": (0.1, 0.2)},
        ValueError,
        r"variances must be 4 positive numbers, got \(0.1, 0.2\)",
    ),
    (
        PriorSpec,
        {"boxes": (1, 2, 3, 4, 5, 6)},
        ValueError,
        r"boxes must hold \(width, height\) pairs per level",
    ),
]


@pytest.mark.parametrize("cls, options, error, message", BAD, ids=lambda value: str(value)[:40])
def test_bad_options_are_one_sentence(cls, options, error, message):
    with pytest.raises(error, match=message):
        cls(**options)
