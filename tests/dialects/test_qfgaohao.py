"""qfgaohao/pytorch-ssd: its drop-ins, and what its training script says."""

from __future__ import annotations

import pytest
import torch
from compat_scene import assert_same, encoded_targets, scene
from conftest import random_boxes

from ssd_cuda import MultiBoxConfig, ops
from ssd_cuda.compat import qfgaohao
from ssd_cuda.reference.dialects import qfgaohao as qfgaohao_rule


def test_qfgaohao_multibox_loss():
    loc, conf, priors, boxes, labels = scene()
    classes, codes = encoded_targets(boxes, labels, priors, iou_eps=1e-5)
    criterion = qfgaohao.MultiboxLoss(
        priors, iou_threshold=0.5, neg_pos_ratio=3, center_variance=0.1, size_variance=0.2, device="cpu"
    )
    ours = criterion(conf, loc, classes, codes)
    assert_same(ours, qfgaohao_rule.loss(loc, conf, boxes, labels, priors), (loc, conf))


@pytest.mark.parametrize("top_k", [-1, 0, 5, 5.0, 750.0])
def test_qfgaohao_hard_nms(top_k):
    rows = torch.cat([random_boxes(400), torch.rand(400, 1)], 1)
    ours = qfgaohao.hard_nms(rows, 0.45, top_k=top_k, candidate_size=200)
    expected = qfgaohao_rule.hard_nms(rows, 0.45, candidate_size=200)
    assert torch.equal(ours, expected[: int(top_k)] if top_k > 0 else expected)


def test_a_top_k_that_no_count_equals_is_no_limit():
    rows = torch.cat([random_boxes(50), torch.rand(50, 1)], 1)
    everything = qfgaohao.hard_nms(rows, 0.45)
    assert torch.equal(qfgaohao.hard_nms(rows, 0.45, top_k=2.5), everything)
    assert torch.equal(qfgaohao.hard_nms(rows, 0.45, top_k=float("inf")), everything)


def test_by_hand_a_prior_matches_at_one_half():
    """IoU 1 and .16 / .2944 - .043 = .476: the training script's threshold is .5, the configuration's .45."""
    priors = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.64, 0.5, 0.4, 0.4]])
    gt = ops.GroundTruth.from_list([torch.tensor([[0.3, 0.3, 0.7, 0.7]])], [torch.tensor([1])])
    config = MultiBoxConfig.preset("qfgaohao").match
    assert ops.match(gt, priors, config=config).tolist() == [[0, -1]]
    assert ops.match(gt, priors, config=config, iou_threshold=0.45).tolist() == [[0, 0]]


def test_a_gradient_in_half_is_rounded_once():
    """Logits 0 and 11: p - 1 = -1.67e-5. That code in half rounds log p, -1.67e-5, and exp of it: p is 1 and
    its gradient 0, so it shows a zero more or less than ours; ours is the float64 gradient, rounded."""
    conf = torch.tensor([[[0.0, 11.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    labels, loc = torch.tensor([[1, 0, 0, 0]]), torch.zeros(1, 4, 4)
    gradients = []
    for dtype in (torch.float16, torch.float64):
        logits = conf.to(dtype).requires_grad_()
        losses = qfgaohao.MultiboxLoss(None)(logits, loc.to(dtype), labels, loc.to(dtype))
        gradients.append(torch.autograd.grad(losses[1], logits)[0])
    half, double = gradients
    assert (half != 0).all() and torch.equal(half, double.half())
