"""The focal loss as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..config import FocalConfig
from ._scripting import NotScriptable


class FocalLoss(NotScriptable, nn.Module):
    """:func:`ssd_cuda.ops.focal_loss` with its options.

    Args:
        config: every option, or a dict of some; None: the defaults, RetinaNet's form and numbers.
        process_group: of ``normalizer="global"``.

    Example:
        >>> criterion = nn.FocalLoss({"form": "softmax", "alpha": None, "gamma": 0.0})
        >>> priors = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.8, 0.8, 0.2, 0.2]])
        >>> gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.5]])], [torch.tensor([3])])
        >>> losses = criterion(torch.zeros(1, 2, 4), torch.zeros(1, 2, 21), gt, priors)
        >>> losses.num_positives, round(losses.classification.item(), 3)  # two rows, each log(21)
        (tensor(1), 6.089)
    """

    def __init__(
        self,
        config: FocalConfig | dict | None = None,
        *,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.config = FocalConfig.of(config)
        self.process_group = process_group

    def forward(self, loc: Tensor, conf: Tensor, gt: ops.GroundTruth, priors: Tensor) -> ops.MultiBoxLosses:
        """loc ``[B, P, 4]``, conf ``[B, P, C]``, priors ``[P, 4]`` -> the two losses and num_positives."""
        return ops.focal_loss(loc, conf, gt, priors, self.config, process_group=self.process_group)

    def extra_repr(self) -> str:
        return repr(self.config)
