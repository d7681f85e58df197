"""Drop-in for code in the style of sgrvinod/a-PyTorch-Tutorial-to-Object-Detection.

.. code-block:: python

    # from model import SSD300, MultiBoxLoss
    from model import SSD300
    from ssd_cuda.compat.sgrvinod import MultiBoxLoss
    criterion = MultiBoxLoss(priors_cxcy=model.priors_cxcy).to(device)
    loss = criterion(predicted_locs, predicted_scores, boxes, labels)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .. import ops
from ._rules import loss_config

__all__ = ["MultiBoxLoss"]


class MultiBoxLoss(nn.Module):
    """conf_loss + alpha * loc_loss, one number; values of the preset ``sgrvinod``.

    An image without boxes, on which that code raises, is background here; a batch without any gives nan, as
    its unclamped division does.

    Args:
        priors_cxcy: ``[P, 4]`` cx, cy, w, h in fractions of the image.
        threshold: IoU from which a prior is positive.
        neg_pos_ratio: negatives per positive.
        alpha: factor of the localisation loss.

    Example:
        >>> priors = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.2, 0.2]])
        >>> criterion = MultiBoxLoss(priors_cxcy=priors)
        >>> boxes, labels = [torch.tensor([[0.3, 0.3, 0.7, 0.7]])], [torch.tensor([1])]
        >>> criterion(torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), boxes, labels)  # 2 log 3 over one positive
        tensor(2.1972)
    """

    priors_cxcy: Tensor

    def __init__(
        self, priors_cxcy: Tensor, threshold: float = 0.5, neg_pos_ratio: float = 3, alpha: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("priors_cxcy", priors_cxcy.detach(), persistent=False)
        self.threshold, self.neg_pos_ratio, self.alpha = threshold, neg_pos_ratio, alpha
        self.config = loss_config("sgrvinod", ratio=neg_pos_ratio, iou_threshold=threshold)

    def forward(
        self,
        predicted_locs: Tensor,
        predicted_scores: Tensor,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> Tensor:
        """``[B, P, 4]``, ``[B, P, C]``, per image ``[n, 4]`` x1, y1, x2, y2 and ``[n]`` from 1 -> 0-dim."""
        gt = ops.GroundTruth.from_list(boxes, labels, degenerate="keep", device=predicted_locs.device)
        priors = self.priors_cxcy.to(predicted_locs.device)
        losses = ops.multibox_loss(predicted_locs, predicted_scores, gt, priors, self.config)
        return losses.classification + self.alpha * losses.localization
