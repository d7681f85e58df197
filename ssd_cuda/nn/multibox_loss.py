"""The MultiBox loss as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..config import MultiBoxConfig


class MultiBoxLoss(nn.Module):
    """:func:`ssd_cuda.ops.multibox_loss` with its options.

    Args:
        config: every option, or the name of a preset (``"torchvision"``, ``"paper"``); None: the defaults.
        process_group: of ``normalizer="global"``.

    Example:
        >>> criterion = MultiBoxLoss("paper")
        >>> losses = criterion(loc, conf, gt, priors)
        >>> (losses.localization + losses.classification).backward()
    """

    def __init__(
        self,
        config: MultiBoxConfig | str | None = None,
        *,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.config = MultiBoxConfig.preset(config) if isinstance(config, str) else config or MultiBoxConfig()
        self.process_group = process_group

    def forward(self, loc: Tensor, conf: Tensor, gt: ops.GroundTruth, priors: Tensor) -> ops.MultiBoxLosses:
        """loc ``[B, P, 4]``, conf ``[B, P, C]``, priors ``[P, 4]`` -> the two losses and num_positives."""
        return ops.multibox_loss(loc, conf, gt, priors, self.config, process_group=self.process_group)

    def extra_repr(self) -> str:
        return repr(self.config)
