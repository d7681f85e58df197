"""Configs as data: from dicts, JSON, pickles and names, in files and in modules."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch

from ssd_cuda import DetectConfig, MiningConfig, MultiBoxConfig, PriorSpec, nn, ops

EVERY = [cls.preset(name) for cls in (MultiBoxConfig, DetectConfig, PriorSpec) for name in cls.preset_names()]


@pytest.mark.parametrize("config", EVERY, ids=lambda config: type(config).__name__)
def test_a_config_comes_back_from_dicts_json_and_pickles(config):
    cls = type(config)
    for copied in (
        cls(**asdict(config)),
        cls(**json.loads(json.dumps(asdict(config)))),
        cls.of(asdict(config)),
        pickle.loads(pickle.dumps(config)),
        copy.deepcopy(config),
        _saved(config),
    ):
        assert copied == config and hash(copied) == hash(config)


def _saved(value):
    """Through a file that may hold nothing but tensors, plain values and what is declared safe."""
    file = io.BytesIO()
    torch.save({"value": value}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)["value"]


def test_results_and_ground_truth_are_safe_to_load():
    gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.5]])], [torch.tensor([1])])
    priors = torch.tensor([[0.3, 0.3, 0.4, 0.4]])
    loc, conf = torch.zeros(1, 1, 4), torch.zeros(1, 1, 3)
    for result in (ops.detect(loc, conf, priors), ops.multibox_loss(loc, conf, gt, priors)):
        loaded = _saved(result)
        assert type(loaded) is type(result)
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(loaded, result, strict=True))
    loaded = _saved(gt)
    assert torch.equal(loaded.boxes, gt.boxes) and torch.equal(loaded.offsets, gt.offsets)


def test_a_file_cannot_bring_a_config_that_no_constructor_takes():
    config = MiningConfig()
    object.__setattr__(config, "ratio", "much")
    with pytest.raises(Exception, match="ratio must be a number, got str"):
        _saved(config)


def test_numpy_numbers_are_numbers():
    config = DetectConfig(
        score_threshold=np.float32(0.5), top_k=np.int64(7), clip_size=np.float32([2, 1]).tolist()
    )
    assert (config.score_threshold, config.top_k, config.clip_size) == (0.5, 7, (2.0, 1.0))
    assert type(config.top_k) is int and type(config.score_threshold) is float
    assert PriorSpec(feature_maps=[np.int64(n) for n in (38, 19, 10, 5, 3, 1)]) == PriorSpec()
    assert DetectConfig(score_threshold=-math.inf).score_threshold == -math.inf  # everything passes


def test_modules_take_presets_and_dicts_and_look_at_them_at_once():
    assert nn.MultiBoxLoss("nvidia").config == MultiBoxConfig.preset("nvidia")
    assert nn.MultiBoxLoss({"mining": {"ratio": 5}}).config.mining.ratio == 5
    assert nn.PostProcess("qfgaohao").config == DetectConfig.preset("qfgaohao")
    assert nn.MultiBoxLoss().config == MultiBoxConfig() and nn.PostProcess().config == DetectConfig()
    for make, error, message in (
        (
            lambda: nn.MultiBoxLoss(DetectConfig()),
            TypeError,
            "config must be a MultiBoxConfig or the name of a",
        ),
        (
            lambda: nn.PostProcess(0.5),
            TypeError,
            "config must be a DetectConfig or the name of a preset, got float",
        ),
        (lambda: nn.PostProcess("yolo"), ValueError, "preset must be one of .* got 'yolo'"),
        (lambda: nn.PostProcess({"top": 1}), TypeError, "top"),
        (lambda: nn.SSDLoss("21"), TypeError, "num_classes must be an integer, got '21'"),
        (lambda: nn.SSDLoss(21, math.inf), ValueError, "neg_pos_ratio must be finite, got inf"),
        (lambda: nn.DefaultBoxGenerator(0), ValueError, "image_size must hold one positive number"),
    ):
        with pytest.raises(error, match=message):
            make()


@pytest.mark.parametrize("code", [ops.encode, ops.decode])
@pytest.mark.parametrize("variances", [(0.1, math.inf), (True, 0.2), ("0.1", 0.2), (0.1,), 0.1, (0.1, 0.0)])
def test_variances_of_the_box_code_are_positive_finite_numbers(code, variances):
    rows = torch.tensor([[0.2, 0.2, 0.4, 0.4]])
    with pytest.raises(ValueError, match="variances must be 2 or 4 positive numbers, got"):
        code(rows, rows, variances)
