"""Drop-ins for code in the style of qfgaohao/pytorch-ssd, jetson-inference's training among it.

.. code-block:: python

    # from vision.nn.multibox_loss import MultiboxLoss
    from ssd_cuda.compat.qfgaohao import MultiboxLoss
    criterion = MultiboxLoss(config.priors, iou_threshold=0.5, neg_pos_ratio=3,
                             center_variance=0.1, size_variance=0.2, device=DEVICE)
    regression_loss, classification_loss = criterion(confidence, locations, labels, boxes)

    # from vision.ssd.ssd import MatchPrior
    from ssd_cuda.compat.qfgaohao import MatchPrior
    target_transform = MatchPrior(config.priors, config.center_variance, config.size_variance, 0.5)

    # vision/utils/box_utils.py calls its own hard_nms, so that name is what to set, once, before predicting:
    from vision.utils import box_utils
    from ssd_cuda.compat.qfgaohao import hard_nms
    box_utils.hard_nms = hard_nms
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from ._rules import as_compared
from .lufficc import MultiBoxLoss as _EncodedTargetsLoss
from .lufficc import SSDTargetTransform

__all__ = ["MatchPrior", "MultiboxLoss", "hard_nms"]


class MatchPrior(SSDTargetTransform):
    """:class:`ssd_cuda.compat.lufficc.SSDTargetTransform`, which comes from here, under its name here.

    Example:
        >>> priors = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.2, 0.2]])
        >>> target_transform = MatchPrior(priors, 0.1, 0.2, 0.5)
        >>> locations, labels = target_transform(torch.tensor([[0.3, 0.3, 0.7, 0.7]]), torch.tensor([3]))
        >>> labels
        tensor([3, 0])
    """


class MultiboxLoss(_EncodedTargetsLoss):
    """(localisation, classification) on encoded targets: the rule of lufficc, which comes from here.

    ``priors``, ``iou_threshold`` and the variances are its matcher's business; accepted, not used, as there.

    Example:
        >>> labels = torch.tensor([[7, 0, 0, 0, 0, 0]])
        >>> criterion = MultiboxLoss(None, iou_threshold=0.5, neg_pos_ratio=3)
        >>> logits, codes = torch.zeros(1, 6, 21), torch.zeros(1, 6, 4)
        >>> reg_loss, cls_loss = criterion(logits, codes, labels, torch.ones(1, 6, 4))
        >>> reg_loss.item()
        2.0
    """

    def __init__(
        self,
        priors: Tensor | None = None,
        iou_threshold: float = 0.5,
        neg_pos_ratio: float = 3,
        center_variance: float = 0.1,
        size_variance: float = 0.2,
        device: Any = None,
    ) -> None:
        super().__init__(neg_pos_ratio)


def hard_nms(
    box_scores: Tensor, iou_threshold: float, top_k: float = -1, candidate_size: int = 200
) -> Tensor:
    """Kept rows of ``box_scores`` ``[N, 5]`` (box, score), best first; IoU with 1e-5 in the union, as there.

    Args:
        box_scores: ``[N, 5]``.
        iou_threshold: a box above it is dropped.
        top_k: rows returned; not above 0: all. A number that is not whole, which no count equals, is no
            limit, as there; 750.0 is 750.
        candidate_size: best rows that take part.

    Example:
        >>> rows = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.8], [0.1, 0.0, 2.0, 2.0, 0.9]])
        >>> hard_nms(rows, 0.45)
        tensor([[0.1000, 0.0000, 2.0000, 2.0000, 0.9000]])
    """
    order = torch.argsort(box_scores[:, 4], descending=True, stable=True)[:candidate_size]
    rows = box_scores[order]
    threshold = as_compared("iou_threshold", iou_threshold, rows.dtype)
    kept = rows[ops.nms(rows[:, :4], rows[:, 4], threshold, iou_eps=1e-5)]
    return kept[: int(top_k)] if top_k > 0 and float(top_k).is_integer() else kept
