"""Drop-ins for code in the style of lufficc/SSD, whose data loader hands over encoded targets.

.. code-block:: python

    # from .loss import MultiBoxLoss                                 in ssd/modeling/box_head/box_head.py
    from ssd_cuda.compat.lufficc import MultiBoxLoss
    self.loss_evaluator = MultiBoxLoss(neg_pos_ratio=3)
    reg_loss, cls_loss = self.loss_evaluator(cls_logits, bbox_pred, gt_labels, gt_boxes)

    # from .target_transform import SSDTargetTransform               in ssd/data/transforms/__init__.py
    from ssd_cuda.compat.lufficc import SSDTargetTransform
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..config import MultiBoxConfig
from ._rules import loss_config

__all__ = ["MultiBoxLoss", "SSDTargetTransform"]


class MultiBoxLoss(nn.Module):
    """(localisation, classification) on encoded targets; values of the preset ``lufficc``.

    Args:
        neg_pos_ratio: negatives per positive.

    Example:
        >>> labels = torch.tensor([[7, 0, 0, 0, 0, 0]])
        >>> criterion = MultiBoxLoss(neg_pos_ratio=3)
        >>> logits, codes = torch.zeros(1, 6, 21), torch.zeros(1, 6, 4)
        >>> reg_loss, cls_loss = criterion(logits, codes, labels, torch.ones(1, 6, 4))
        >>> reg_loss.item()
        2.0
    """

    def __init__(self, neg_pos_ratio: float = 3) -> None:
        super().__init__()
        self.config = loss_config("lufficc", ratio=neg_pos_ratio)

    def forward(
        self, confidence: Tensor, predicted_locations: Tensor, labels: Tensor, gt_locations: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``[B, P, C]``, ``[B, P, 4]``, ``[B, P]`` with background 0, ``[B, P, 4]`` box codes."""
        losses = ops.multibox_loss_on_targets(
            predicted_locations, confidence, gt_locations, labels, self.config
        )
        return losses.localization, losses.classification


class SSDTargetTransform:
    """The targets of one image, made in the data loader: ``transform(boxes, labels)`` -> (codes, labels).

    It runs on the CPU and holds nothing but numbers and the priors, so it goes to workers, forked or spawned.
    Two things differ from that code: no number is ever nan or infinite, since a box that is not finite or has
    no area (random crops make them) matches nothing, and the codes of background priors, which the loss does
    not read, are 0; and an image without boxes, on which it raises, is all background.

    Args:
        center_form_priors: ``[P, 4]`` cx, cy, w, h in fractions of the image.
        center_variance, size_variance: divisors of the codes, 0.1 and 0.2.
        iou_threshold: IoU from which a prior is positive.

    Example:
        >>> priors = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.2, 0.2]])
        >>> transform = SSDTargetTransform(priors, 0.1, 0.2, 0.5)
        >>> transform(torch.tensor([[0.3, 0.3, 0.7, 0.7]]), torch.tensor([3]))[1]
        tensor([3, 0])
    """

    def __init__(
        self, center_form_priors: Tensor, center_variance: float, size_variance: float, iou_threshold: float
    ) -> None:
        self.center_form_priors = center_form_priors.detach().cpu()
        self.center_variance, self.size_variance = center_variance, size_variance
        self.iou_threshold = iou_threshold
        match = MultiBoxConfig.preset("lufficc").match
        self.config = replace(match, iou_threshold=iou_threshold, degenerate="ignore")

    def __call__(self, gt_boxes: Any, gt_labels: Any) -> tuple[Tensor, Tensor]:
        """Boxes ``[n, 4]`` x1, y1, x2, y2, labels ``[n]``, tensors or numpy -> codes ``[P, 4]`` in the dtype
        of boxes and priors together, labels ``[P]`` int64 with background 0."""
        boxes, labels = (torch.as_tensor(given, device="cpu") for given in (gt_boxes, gt_labels))
        priors = self.center_form_priors
        gt = ops.GroundTruth.from_list([boxes], [labels], degenerate="keep")
        owner = ops.match(gt, priors, config=self.config)[0].long()
        positive = (owner >= 0).nonzero()[:, 0]
        owner = owner[positive]
        codes = priors.new_zeros(len(priors), 4, dtype=torch.promote_types(gt.boxes.dtype, priors.dtype))
        target = priors.new_zeros(len(priors), dtype=torch.int64)
        if len(positive):
            target[positive] = gt.labels[owner]
            variances = (self.center_variance, self.size_variance)
            codes[positive] = ops.encode(gt.boxes[owner].to(codes), priors[positive], variances).to(codes)
        return codes, target
