"""The MultiBox loss as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..config import MultiBoxConfig
from ..ops._checks import FLOATING, check_tensor
from ..ops._target_checks import check_class_weights
from ._scripting import NotScriptable


class MultiBoxLoss(NotScriptable, nn.Module):
    """:func:`ssd_cuda.ops.multibox_loss` with its options.

    Args:
        config: every option, a dict of some, or the name of a preset (``"torchvision"``, ``"paper"``); None:
            the defaults.
        class_weights: floating ``[C]``, as in :func:`ssd_cuda.ops.multibox_loss`; kept as a buffer.
        process_group: of ``normalizer="global"``.

    Example:
        >>> criterion = nn.MultiBoxLoss("paper")
        >>> priors = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.8, 0.8, 0.2, 0.2]])
        >>> gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.5]])], [torch.tensor([3])])
        >>> losses = criterion(torch.zeros(1, 2, 4), torch.zeros(1, 2, 21), gt, priors)
        >>> losses.num_positives, round(losses.classification.item(), 3)  # two rows, each log(21)
        (tensor(1), 6.089)
    """

    def __init__(
        self,
        config: MultiBoxConfig | dict | str | None = None,
        *,
        class_weights: Tensor | None = None,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.config = MultiBoxConfig.of(config)
        if class_weights is not None:
            check_tensor("class_weights", class_weights, ("C",), FLOATING)
            check_class_weights(class_weights)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)
        self.process_group = process_group

    def forward(self, loc: Tensor, conf: Tensor, gt: ops.GroundTruth, priors: Tensor) -> ops.MultiBoxLosses:
        """loc ``[B, P, 4]``, conf ``[B, P, C]``, priors ``[P, 4]`` -> the two losses and num_positives."""
        return ops.multibox_loss(
            loc,
            conf,
            gt,
            priors,
            self.config,
            class_weights=self.class_weights,
            process_group=self.process_group,
        )

    def extra_repr(self) -> str:
        return repr(self.config)
