"""Ultra-Light-Fast-Generic-Face-Detector: its drop-ins and its numbers."""

from __future__ import annotations

import torch
from compat_scene import assert_same, encoded_targets, scene

from ssd_cuda import DetectConfig, ops
from ssd_cuda.compat import ulfg
from ssd_cuda.reference.dialects import ulfg as ulfg_rule


def test_ulfg_multibox_loss():
    loc, conf, priors, boxes, labels = scene()
    classes, codes = encoded_targets(boxes, labels, priors, iou_eps=1e-5, iou_threshold=0.35)
    criterion = ulfg.MultiboxLoss(
        priors, neg_pos_ratio=3, center_variance=0.1, size_variance=0.2, device="cpu"
    )
    ours = criterion(conf, loc, classes, codes)
    assert_same(ours, ulfg_rule.loss(loc, conf, boxes, labels, priors), (loc, conf))


def test_the_threshold_is_rounded_as_that_codebase_rounds_it():
    """IoU = float32(3/10), a little above 0.3; 1e-5 is nothing beside this union. Torch keeps the box."""
    priors = torch.tensor([[500.0, 50, 1000, 100], [850.0, 50, 300, 100]])
    conf = torch.tensor([[[0.0, 3.0], [0.0, 2.0]]])
    config = DetectConfig.preset("ulfg")
    assert ops.detect(torch.zeros(1, 2, 4), conf, priors, config).counts.tolist() == [2]
    box, *_ = ulfg_rule.detect(torch.zeros(2, 4), conf[0], priors)
    assert len(box) == 2
