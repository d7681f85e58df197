"""sgrvinod's tutorial: its drop-in and its priors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from compat_scene import B, C, P, assert_same, scene

from ssd_cuda import MultiBoxConfig, PriorSpec, ops
from ssd_cuda.compat import sgrvinod
from ssd_cuda.reference.dialects import sgrvinod as sgrvinod_rule


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_sgrvinod_multibox_loss(alpha):
    loc, conf, priors, boxes, labels = scene()
    criterion = sgrvinod.MultiBoxLoss(priors_cxcy=priors, alpha=alpha).to("cpu")
    ours = criterion(loc, conf, boxes, labels)
    loc_loss, conf_loss = sgrvinod_rule.loss(loc, conf, boxes, labels, priors)
    assert_same((ours,), (conf_loss + alpha * loc_loss,), (loc, conf))


def test_constructor_numbers_take_effect_and_priors_are_no_state():
    loc, conf, priors, boxes, labels = scene()
    usual = sgrvinod.MultiBoxLoss(priors)
    assert usual.state_dict() == {} and usual.priors_cxcy is not None
    fewer_negatives = sgrvinod.MultiBoxLoss(priors, neg_pos_ratio=1)
    assert fewer_negatives(loc, conf, boxes, labels) < usual(loc, conf, boxes, labels)
    strict = sgrvinod.MultiBoxLoss(priors, threshold=0.95)  # leaves each box the one prior that it forces
    config = MultiBoxConfig.preset("sgrvinod")
    config = replace(config, match=replace(config.match, iou_threshold=0.95))
    want = ops.multibox_loss(loc, conf, ops.GroundTruth.from_list(boxes, labels), priors, config)
    assert want.num_positives == 14
    assert strict(loc, conf, boxes, labels) == want.classification + want.localization


def test_a_box_without_width_shows_in_the_loss_as_it_does_there():
    """Its log is -inf, in that code and here: no error, and no finite number that hides it."""
    loc, conf, priors, boxes, labels = scene()
    boxes[1][0, 2] = boxes[1][0, 0]
    loc_loss, conf_loss = sgrvinod_rule.loss(loc, conf, boxes, labels, priors)
    assert loc_loss.isinf() and conf_loss.isfinite()
    assert sgrvinod.MultiBoxLoss(priors)(loc, conf, boxes, labels) == loc_loss


def test_images_without_objects():
    priors = scene()[2]
    empty = [torch.zeros(0, 4)] * B, [torch.zeros(0, dtype=torch.int64)] * B
    assert sgrvinod.MultiBoxLoss(priors)(torch.zeros(B, P, 4), torch.zeros(B, P, C), *empty).isnan()


def test_priors_row_by_row(device):
    """Loops over the cells; a cell's second square uses the next map's size, the last map's has side 1."""
    sizes, maps = [0.1, 0.2, 0.375, 0.55, 0.725, 0.9], [38, 19, 10, 5, 3, 1]
    few, many = (1.0, 2.0, 0.5), (1.0, 2.0, 3.0, 0.5, 0.333)
    rows = []
    for k, (size, side, ratios) in enumerate(
        zip(sizes, maps, (few, many, many, many, few, few), strict=True)
    ):
        for i in range(side):
            for j in range(side):
                center = [(j + 0.5) / side, (i + 0.5) / side]
                for ratio in ratios:
                    rows.append([*center, size * math.sqrt(ratio), size / math.sqrt(ratio)])
                    if ratio == 1:
                        rows.append([*center, *[math.sqrt(size * sizes[k + 1]) if k < 5 else 1.0] * 2])
    result = ops.generate_priors(PriorSpec.preset("sgrvinod"), device).cpu()
    assert torch.equal(result, torch.tensor(rows).clamp(0, 1))
    assert result[8729].tolist() == [0.5, 0.5, 1.0, 1.0]
