"""Drop-ins for code in the style of NVIDIA's DeepLearningExamples, PyTorch/Detection/SSD.

.. code-block:: python

    # from ssd.model import Loss
    from ssd_cuda.compat.nvidia import Loss
    loss_func = Loss(dboxes)                            # dboxes: that codebase's DefaultBoxes
    loss = loss_func(ploc, plabel, gloc, glabel)        # [B, 4, P], [B, C, P], [B, 4, P], [B, P]

    # encoder = Encoder(dboxes); encoder.decode_batch(ploc, plabel, 0.50, 200)
    from ssd_cuda.compat.nvidia import decode_batch
    results = decode_batch(dboxes, ploc, plabel, 0.50, 200)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..config import DetectConfig, MultiBoxConfig

__all__ = ["Loss", "decode_batch"]


def _variances(dboxes: Any) -> tuple[float, float]:
    return float(dboxes.scale_xy), float(dboxes.scale_wh)


class Loss(nn.Module):
    """The loss on the boxes that its encoder has assigned; values of the preset ``nvidia``.

    Args:
        dboxes: has ``scale_xy``, ``scale_wh`` (0.1, 0.2) and gives ``[P, 4]`` cx, cy, w, h when called with
            ``order="xywh"``.

    Example:
        >>> boxes = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.8, 0.8, 0.2, 0.2]])
        >>> class DefaultBoxes:  # that codebase's own: here two boxes
        ...     scale_xy, scale_wh = 0.1, 0.2
        ...     def __call__(self, order):
        ...         return boxes
        >>> gloc, glabel = boxes.T[None], torch.tensor([[3, 0]])  # assigned: exactly the default boxes
        >>> loss = Loss(DefaultBoxes())(torch.zeros(1, 4, 2), torch.zeros(1, 81, 2), gloc, glabel)
        >>> round(loss.item(), 3)  # a positive and a negative, each log(81)
        8.789
    """

    dboxes: Tensor

    def __init__(self, dboxes: Any) -> None:
        super().__init__()
        self.register_buffer("dboxes", dboxes(order="xywh").float(), persistent=False)
        self.variances = _variances(dboxes)
        self.config = MultiBoxConfig.preset("nvidia")

    def forward(self, ploc: Tensor, plabel: Tensor, gloc: Tensor, glabel: Tensor) -> Tensor:
        """Predictions ``[B, 4, P]``, ``[B, C, P]``; assigned boxes ``[B, 4, P]`` (centre, size) and labels
        ``[B, P]``."""
        center = gloc.transpose(1, 2)
        half = 0.5 * center[..., 2:]
        corners = torch.cat([center[..., :2] - half, center[..., :2] + half], -1)
        codes = ops.encode(corners, self.dboxes.to(ploc.device), self.variances).transpose(1, 2)
        losses = ops.multibox_loss_on_targets(ploc, plabel, codes.detach(), glabel, self.config)
        return losses.localization + losses.classification


def decode_batch(
    dboxes: Any, ploc: Tensor, plabel: Tensor, criteria: float = 0.45, max_output: int = 200
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per image (boxes ``[n, 4]``, labels ``[n]``, scores ``[n]``), the best last, as there.

    Example:
        >>> class DefaultBoxes:
        ...     scale_xy, scale_wh = 0.1, 0.2
        ...     def __call__(self, order):
        ...         return torch.tensor([[0.3, 0.3, 0.4, 0.4]])
        >>> logits = torch.tensor([[[0.0], [4.0]]])  # [1, 2, 1]: an object of class 1
        >>> boxes, labels, scores = decode_batch(DefaultBoxes(), torch.zeros(1, 4, 1), logits)[0]
        >>> boxes, labels
        (tensor([[0.1000, 0.1000, 0.5000, 0.5000]]), tensor([1]))
    """
    config = DetectConfig.preset(
        "nvidia",
        iou_threshold=criteria,
        detections_per_image=max_output,
        variances=_variances(dboxes),
    )
    priors = dboxes(order="xywh").float().to(ploc.device)
    found = ops.detect(ploc.detach(), plabel.detach(), priors, config)
    return [(d["boxes"].flip(0), d["labels"].flip(0), d["scores"].flip(0)) for d in found.to_list()]
