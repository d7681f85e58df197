"""Drop-ins for code in the style of NVIDIA's DeepLearningExamples, PyTorch/Detection/SSD.

.. code-block:: python

    # from ssd.model import Loss
    from ssd_cuda.compat.nvidia import Loss
    loss_func = Loss(dboxes)                            # dboxes: that codebase's DefaultBoxes
    loss = loss_func(ploc, plabel, gloc, glabel)        # [B, 4, P], [B, C, P], [B, 4, P], [B, P]

    # encoder = Encoder(dboxes); every encoder decodes with it from here on
    from ssd_cuda.compat.nvidia import decode_batch
    Encoder.decode_batch = decode_batch
    results = encoder.decode_batch(ploc, plabel, 0.50, 200)         # or decode_batch(dboxes, ploc, ...)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..config import DetectConfig, MultiBoxConfig
from ..config.checks import check_integer
from ._rules import as_compared

__all__ = ["Loss", "decode_batch"]


def _priors(dboxes: Any) -> Tensor:
    """``[P, 4]`` cx, cy, w, h of that codebase's DefaultBoxes, or of the Encoder that holds them."""
    return (dboxes(order="xywh") if callable(dboxes) else dboxes.dboxes_xywh[0]).float()


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
        self.register_buffer("dboxes", _priors(dboxes), persistent=False)
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

    ``dboxes`` is that codebase's DefaultBoxes, or its Encoder, whose method this can become.

    Equal scores come in that code's order too, which sorts upwards and takes the end (with a stable sort;
    the one that torch takes by default leaves their order open for long lists): within a class the highest
    prior is the first candidate; of the boxes that are kept, listed class by class, the last ones stay. A
    box whose IoU is NaN stays, which drops out there.

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
    check_integer("max_output", max_output, 1)  # there [-0:] would be all
    config = DetectConfig.preset(
        "nvidia",
        iou_threshold=as_compared("criteria", criteria),
        detections_per_image=max_output + 1,
        variances=_variances(dboxes),
    )
    # The op prefers the lowest of equal priors: it sees them from the last to the first.
    priors = _priors(dboxes).to(ploc.device).flip(0)
    inputs = ploc.detach().flip(2), plabel.detach().flip(2), priors
    found = ops.detect(*inputs, config)
    last = found.scores[:, max_output - 1 :]
    if ((last[:, 0] == last[:, 1]) & (found.counts > max_output)).any():  # which of the equal ones stay?
        found = ops.detect(*inputs, replace(config, detections_per_image=None))
    return [_best_last(image, max_output) for image in found.to_list()]


def _best_last(image: dict[str, Tensor], max_output: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows by (score descending, label ascending, prior descending) -> the best by rising score, in the order
    of (label ascending, prior descending) where they are equal."""
    order = image["scores"].sort(stable=True).indices[-max_output:]
    return image["boxes"][order], image["labels"][order], image["scores"][order]
