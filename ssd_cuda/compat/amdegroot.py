"""Drop-ins for code in the style of amdegroot/ssd.pytorch.

.. code-block:: python

    # from layers.modules import MultiBoxLoss
    from ssd_cuda.compat.amdegroot import MultiBoxLoss
    criterion = MultiBoxLoss(num_classes, 0.5, True, 0, True, 3, 0.5, False)
    loss_l, loss_c = criterion(net(images), targets)   # targets: a list of [n, 5]

    # from layers.functions import Detect
    from ssd_cuda.compat.amdegroot import Detect
    output = Detect(num_classes, 0, 200, 0.01, 0.45)(loc, softmax(conf), priors)   # [B, C, 200, 5]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from ..config import DetectConfig
from ._rules import as_compared, loss_config

__all__ = ["Detect", "MultiBoxLoss"]


class MultiBoxLoss(nn.Module):
    """The loss, with that codebase's constructor; values of the preset ``amdegroot``.

    An image without boxes, which raises there, is background here; a batch without any gives nan, as the
    unclamped division there would. Logits that lie far below the largest of the whole batch differ on
    purpose: there exp underflows and their row has the loss inf, here every row is taken on its own.

    Args:
        num_classes: background included; only documents, the logits say it.
        overlap_thresh: IoU from which a prior is positive.
        neg_pos: negatives per positive.
        prior_for_matching, bkg_label, neg_mining, neg_overlap, encode_target, use_gpu: accepted and, as
            there, without effect.

    Example:
        >>> criterion = MultiBoxLoss(21, 0.5, True, 0, True, 3, 0.5, False)
        >>> priors = ops.generate_priors(ssd_cuda.PriorSpec.preset("amdegroot"))
        >>> predictions = torch.zeros(1, 8732, 4), torch.zeros(1, 8732, 21), priors
        >>> loss_l, loss_c = criterion(predictions, [torch.tensor([[0.1, 0.1, 0.5, 0.6, 2.0]])])
        >>> round(loss_c.item(), 3)
        12.178
    """

    def __init__(
        self,
        num_classes: int,
        overlap_thresh: float = 0.5,
        prior_for_matching: bool = True,
        bkg_label: int = 0,
        neg_mining: bool = True,
        neg_pos: float = 3,
        neg_overlap: float = 0.5,
        encode_target: bool = False,
        use_gpu: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.config = loss_config("amdegroot", ratio=neg_pos, iou_threshold=overlap_thresh)

    def forward(
        self, predictions: tuple[Tensor, Tensor, Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """``(loc [B, P, 4], conf [B, P, C], priors [P, 4])`` and per image ``[n, 5]``: box, label from 0."""
        loc, conf, priors = predictions
        gt = ops.GroundTruth.from_list(
            [target[:, :4] for target in targets],
            [target[:, 4].long() for target in targets],
            degenerate="keep",
            device=loc.device,
        )
        losses = ops.multibox_loss(loc, conf, gt, priors[: loc.shape[1]].detach(), self.config)
        return losses.localization, losses.classification


class Detect:
    """The post-process, ``[B, C, top_k, 5]`` of (score, x1, y1, x2, y2), zero-padded per class.

    Of equal scores the highest prior comes first, as in that code's rising sort read from its end (a stable
    one; the sort that torch takes by default leaves the order of equal scores open for long lists).
    A box whose IoU is NaN stays, which drops out there.

    Call it, or use ``forward`` or ``apply`` as the versions of that codebase do.

    Example:
        >>> priors = torch.tensor([[0.3, 0.3, 0.4, 0.4]])
        >>> output = Detect(2, 0, 200, 0.01, 0.45)(torch.zeros(1, 1, 4), torch.tensor([[[0.1, 0.9]]]), priors)
        >>> output.shape, output[0, 1, 0]
        (torch.Size([1, 2, 200, 5]), tensor([0.9000, 0.1000, 0.1000, 0.5000, 0.5000]))
    """

    def __init__(
        self,
        num_classes: int,
        bkg_label: int = 0,
        top_k: int = 200,
        conf_thresh: float = 0.01,
        nms_thresh: float = 0.45,
    ) -> None:
        if bkg_label != 0:
            raise ValueError(f"bkg_label must be 0, as that codebase assumes throughout, got {bkg_label}")
        self.num_classes, self.top_k = num_classes, top_k
        self.config = DetectConfig.preset(
            "amdegroot",
            scores="given",
            top_k=top_k,
            score_threshold=conf_thresh,
            iou_threshold=as_compared("nms_thresh", nms_thresh),
        )

    def __call__(self, loc: Tensor, conf: Tensor, priors: Tensor) -> Tensor:
        """loc ``[B, P, 4]``, conf ``[B, P, C]`` after softmax, priors ``[P, 4]``."""
        batch = loc.shape[0]
        conf = conf.reshape(batch, -1, self.num_classes)
        # The op prefers the lowest of equal priors: it sees them from the last to the first.
        found = ops.detect(loc.detach().flip(1), conf.detach().flip(1), priors.detach().flip(-2), self.config)
        filled = found.labels >= 0
        label = found.labels.clamp(min=0)
        per_class = torch.nn.functional.one_hot(label, self.num_classes) * filled[..., None]
        rank = per_class.cumsum(1).gather(2, label[..., None])[..., 0] - 1  # within its class, best first
        slot = torch.where(filled, label * self.top_k + rank, self.num_classes * self.top_k)
        rows = torch.cat([found.scores[..., None], found.boxes], 2)
        output = rows.new_zeros(batch, self.num_classes * self.top_k + 1, 5)
        output.scatter_(1, slot[..., None].expand(-1, -1, 5), rows)
        return output[:, :-1].reshape(batch, self.num_classes, self.top_k, 5)

    forward = __call__

    @staticmethod
    def apply(
        num_classes: int,
        bkg_label: int,
        top_k: int,
        conf_thresh: float,
        nms_thresh: float,
        loc: Tensor,
        conf: Tensor,
        priors: Tensor,
    ) -> Tensor:
        """The form of the versions in which Detect is an autograd function."""
        return Detect(num_classes, bkg_label, top_k, conf_thresh, nms_thresh)(loc, conf, priors)
