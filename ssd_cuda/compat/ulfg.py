"""Drop-ins for Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB.

.. code-block:: python

    # from vision.nn.multibox_loss import MultiboxLoss
    from ssd_cuda.compat.ulfg import MultiboxLoss
    criterion = MultiboxLoss(config.priors, neg_pos_ratio=3,
                             center_variance=0.1, size_variance=0.2, device=DEVICE)
    regression_loss, classification_loss = criterion(confidence, locations, labels, boxes)

    # from vision.ssd.ssd import MatchPrior
    from ssd_cuda.compat.ulfg import MatchPrior
    target_transform = MatchPrior(config.priors, config.center_variance, config.size_variance, 0.35)

    # vision/utils/box_utils.py calls its own hard_nms, so that name is what to set, once, before predicting:
    from vision.utils import box_utils
    from ssd_cuda.compat.ulfg import hard_nms
    box_utils.hard_nms = hard_nms
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .lufficc import MultiBoxLoss as _EncodedTargetsLoss
from .qfgaohao import MatchPrior, hard_nms

__all__ = ["MatchPrior", "MultiboxLoss", "hard_nms"]


class MultiboxLoss(_EncodedTargetsLoss):
    """(localisation, classification) on encoded targets: qfgaohao's loss with this codebase's constructor.

    ``priors`` and the variances are its matcher's business; accepted, not used, as there.

    Example:
        >>> criterion = MultiboxLoss(None, neg_pos_ratio=3)
        >>> labels = torch.tensor([[1, 0, 0, 0]])
        >>> regression_loss, classification_loss = criterion(
        ...     torch.zeros(1, 4, 2), torch.zeros(1, 4, 4), labels, torch.ones(1, 4, 4))
        >>> regression_loss
        tensor(2.)
    """

    def __init__(
        self,
        priors: Tensor | None = None,
        neg_pos_ratio: float = 3,
        center_variance: float = 0.1,
        size_variance: float = 0.2,
        device: Any = None,
    ) -> None:
        super().__init__(neg_pos_ratio)
