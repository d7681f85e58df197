"""Drop-ins for code in the style of lufficc/SSD, whose data loader hands over encoded targets.

.. code-block:: python

    # from ssd.modeling.multibox_loss import MultiBoxLoss
    from ssd_cuda.compat.lufficc import MultiBoxLoss
    self.loss_evaluator = MultiBoxLoss(neg_pos_ratio=3)
    reg_loss, cls_loss = self.loss_evaluator(cls_logits, bbox_pred, gt_labels, gt_boxes)
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from .. import ops
from ..config import MultiBoxConfig

__all__ = ["MultiBoxLoss"]


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
        preset = MultiBoxConfig.preset("lufficc")
        self.config = replace(preset, mining=replace(preset.mining, ratio=float(neg_pos_ratio)))

    def forward(
        self, confidence: Tensor, predicted_locations: Tensor, labels: Tensor, gt_locations: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``[B, P, C]``, ``[B, P, 4]``, ``[B, P]`` with background 0, ``[B, P, 4]`` box codes."""
        losses = ops.multibox_loss_on_targets(
            predicted_locations, confidence, gt_locations, labels, self.config
        )
        return losses.localization, losses.classification
