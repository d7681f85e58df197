"""Targets that cannot be right are refused by name on the CPU, where looking at them costs no wait."""

from __future__ import annotations

import warnings

import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import MatchConfig, MultiBoxConfig, ops
from ssd_cuda.ops import GroundTruth, matching

OFFSETS = [
    ([1, 3, 5], "offsets must start at 0, got 1"),
    ([-1, 3, 5], "offsets must start at 0, got -1"),
    ([0, 4, 3], "offsets must not descend, got 3 after 4 at image 1"),
    ([0, 3, 6], r"offsets must end at the number of boxes or before \(5\), got 6"),
]


def truth():
    return GroundTruth(random_boxes(5), torch.ones(5, dtype=torch.int64), torch.tensor([0, 3, 5]).int())


def predictions(priors=20):
    return torch.randn(2, priors, 4), torch.randn(2, priors, 3)


@pytest.mark.parametrize("offsets, words", OFFSETS)
def test_offsets_when_they_are_given(offsets, words):
    with pytest.raises(ValueError, match=words):
        GroundTruth(random_boxes(5), torch.ones(5, dtype=torch.int64), torch.tensor(offsets).int())


@pytest.mark.parametrize("offsets, words", OFFSETS)
def test_offsets_that_changed_since(offsets, words):
    """A static buffer that is written to between calls."""
    gt, priors = truth(), random_priors(20)
    codes = ops.match(gt, priors)
    gt.offsets.copy_(torch.tensor(offsets))
    with pytest.raises(ValueError, match=words):
        ops.match(gt, priors)
    with pytest.raises(ValueError, match=words):
        ops.multibox_loss(*predictions(), gt, priors, codes=codes)


@pytest.mark.parametrize(
    "code, prior, image, count", [(3, 7, 0, 3), (2, 0, 1, 2), (-3, 19, 1, 2), (2**31 - 1, 5, 0, 3)]
)
def test_codes_that_name_no_ground_truth(code, prior, image, count):
    gt, priors = truth(), random_priors(20)
    codes = ops.match(gt, priors)
    codes[image, prior] = code
    words = rf"codes must lie in \[-2, {count}\) .* got {code} for prior {prior} of image {image}"
    with pytest.raises(ValueError, match=words):
        ops.multibox_loss(*predictions(), gt, priors, codes=codes)


def test_good_codes_and_no_codes_at_all():
    gt, priors = truth(), random_priors(20)
    codes = ops.match(gt, priors)
    codes[codes == -1] = -2  # every code there is
    assert ops.multibox_loss(*predictions(), gt, priors, codes=codes).localization.isfinite()
    none = torch.empty(2, 0, dtype=torch.int32)
    assert ops.multibox_loss(*predictions(0), gt, random_priors(0), codes=none).num_positives == 0


@pytest.fixture
def unwarned(monkeypatch):
    monkeypatch.setattr(matching, "_warned_of_units", False)


@pytest.mark.parametrize("prior_format", ["cxcywh", "xyxy"])
def test_pixels_against_fractions_warn_once(unwarned, prior_format):
    gt = GroundTruth.from_list([torch.tensor([[30.0, 40, 100, 120]])] * 2, [torch.tensor([1])] * 2)
    priors = random_boxes(50) if prior_format == "xyxy" else random_priors(50)
    config = MultiBoxConfig.preset("paper")
    match = MatchConfig(**{**vars(config.match), "prior_format": prior_format})
    config = MultiBoxConfig(**{**vars(config), "match": match})
    with pytest.warns(
        UserWarning, match=r"the boxes, such as \[30.0, 40.0, 100.0, 120.0\], lie outside .* same units"
    ):
        losses = ops.multibox_loss(*predictions(50), gt, priors, config)
    assert losses.num_positives == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.multibox_loss(*predictions(50), gt, priors, config)


def test_one_box_in_sight_or_no_box_at_all_warns_of_nothing(unwarned):
    priors = random_priors(50)
    low, high = torch.tensor([[0.49, 0.49, 0.5, 0.5]]), torch.tensor([[30.0, 40, 100, 120]])
    label = torch.tensor([1])
    strict = MatchConfig(forced="none", iou_threshold=0.9)
    spare = GroundTruth(high, label, torch.tensor([0, 0]).int())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for gt in (
            GroundTruth.from_list([low, high], [label, label]),
            GroundTruth.from_list([high[:0]], [label[:0]]),
            spare,
        ):
            assert (ops.match(gt, priors, config=strict) < 0).all()


def test_a_box_without_area_says_nothing_of_its_units(unwarned):
    """At the edge of what the priors cover, as a box that was cut to its image."""
    line = torch.tensor([[0.0, 0.2, 0.0, 0.6]])
    gt = GroundTruth.from_list([line], [torch.tensor([1])], degenerate="keep")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (ops.match(gt, torch.tensor([[0.5, 0.5, 1.0, 1.0]])) < 0).all()
