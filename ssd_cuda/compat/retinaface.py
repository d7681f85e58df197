"""Drop-ins for code in the style of biubug6/Pytorch_Retinaface and its relatives.

.. code-block:: python

    # from layers.modules import MultiBoxLoss
    from ssd_cuda.compat.retinaface import MultiBoxLoss
    criterion = MultiBoxLoss(2, 0.35, True, 0, True, 7, 0.35, False)
    loss_l, loss_c, loss_landm = criterion(net(images), priors, targets)   # targets: a list of [n, 15]

    # from utils.nms.py_cpu_nms import py_cpu_nms
    from ssd_cuda.compat.retinaface import py_cpu_nms
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..ops._loss_inputs import arithmetic_of
from ._rules import as_compared, loss_config

__all__ = ["MultiBoxLoss", "py_cpu_nms"]

_CENTER_VARIANCE = 0.1


class MultiBoxLoss(nn.Module):
    """(localisation, classification, landmarks); values of the preset ``retinaface``.

    The weight 2 of the localisation loss is applied by that codebase's training loop, so not here. Logits
    that lie far below the largest of the whole batch differ on purpose: there exp underflows and their row
    has the loss inf, here every row is taken on its own.

    Args:
        overlap_thresh: IoU from which a prior is positive.
        neg_pos: negatives per positive.
        num_classes, prior_for_matching, bkg_label, neg_mining, neg_overlap, encode_target: accepted and,
            as there, without effect.

    Example:
        >>> spec = ssd_cuda.PriorSpec.preset("retinaface", image_size=(64, 64))
        >>> priors = ops.generate_priors(spec)
        >>> face = torch.tensor([[0.2, 0.2, 0.7, 0.7, *[0.5] * 10, 1.0]])  # box, five points, label
        >>> loc, conf, landmarks = (torch.zeros(1, len(priors), n) for n in (4, 2, 10))
        >>> criterion = MultiBoxLoss(2, 0.35, True, 0, True, 7, 0.35, False)
        >>> loss_l, loss_c, loss_landm = criterion((loc, conf, landmarks), priors, [face])
        >>> round(loss_c.item(), 3)  # eight rows a positive, each log(2)
        5.545
    """

    def __init__(
        self,
        num_classes: int = 2,
        overlap_thresh: float = 0.35,
        prior_for_matching: bool = True,
        bkg_label: int = 0,
        neg_mining: bool = True,
        neg_pos: float = 7,
        neg_overlap: float = 0.35,
        encode_target: bool = False,
    ) -> None:
        super().__init__()
        self.config = loss_config("retinaface", ratio=neg_pos, iou_threshold=overlap_thresh, loc_weight=1.0)

    def forward(
        self, predictions: tuple[Tensor, Tensor, Tensor], priors: Tensor, targets: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(loc ``[B, P, 4]``, conf ``[B, P, C]``, landmarks ``[B, P, 10]``), priors ``[P, 4]``, and per image
        ``[n, 15]``: box, five points, label (1, or -1 for a face without landmarks)."""
        loc, conf, landmarks = predictions
        gt = ops.GroundTruth.from_list(
            [target[:, :4] for target in targets],
            [target[:, 14].long() for target in targets],
            degenerate="keep",
            device=loc.device,
        )
        codes = ops.match(gt, priors, config=self.config.match)
        losses = ops.multibox_loss(loc, conf, gt, priors, self.config, codes=codes)
        # Not in the dtype of half predictions: of a small prior their rounding is most of a code.
        wide = arithmetic_of(landmarks)
        points = torch.cat([target[:, 4:14] for target in targets]).to(loc.device, wide)
        landmark_loss = _landmark_loss(landmarks.to(wide), codes, points, gt, priors.to(wide))
        return losses.localization, losses.classification, landmark_loss


def _landmark_loss(
    landmarks: Tensor, codes: Tensor, points: Tensor, gt: ops.GroundTruth, priors: Tensor
) -> Tensor:
    """Smooth L1 of the five points of faces that have them, over max(1, their number of priors)."""
    if len(points) == 0:
        return landmarks.sum() * 0
    row = gt.offsets[:-1, None] + codes.clamp(min=0)
    row = row.clamp(max=len(points) - 1).long()
    wanted = (codes >= 0) & (gt.labels[row] > 0)
    center, size = priors[:, None, :2], priors[:, None, 2:]
    target = (points[row].unflatten(-1, (5, 2)) - center) / (_CENTER_VARIANCE * size)
    loss = nn.functional.smooth_l1_loss(landmarks, target.flatten(-2), reduction="none").sum(-1)
    return torch.where(wanted, loss, 0).sum() / wanted.sum().clamp(min=1)


def py_cpu_nms(dets: Any, thresh: float) -> list[int]:
    """Indices of the kept rows of ``dets`` (numpy ``[N, 5]``: box in pixels, score), best first; boxes are
    measured as x2 - x1 + 1. Relatives that call cv2's NMS measure x2 - x1: use :func:`ssd_cuda.ops.nms`.

    Example:
        >>> import numpy as np
        >>> py_cpu_nms(np.array([[0, 0, 20, 20, 0.8], [1, 0, 20, 20, 0.9]]), 0.4)
        [1]
    """
    threshold = as_compared("thresh", thresh)
    rows = torch.from_numpy(np.ascontiguousarray(dets, dtype=np.float32))
    return ops.nms(rows[:, :4], rows[:, 4], threshold, pixel_offset=1.0).tolist()
