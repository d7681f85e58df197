"""The loss of the tutorial that this project starts from: its class, its values, fused inside."""

from __future__ import annotations

from torch import Tensor, nn

from .. import ops
from ..config import MultiBoxConfig, check_integer, check_range
from ..ops._checks import FLOATING, check_tensor
from ..ops._target_checks import check_class_weights
from ._scripting import NotScriptable


class SSDLoss(NotScriptable, nn.Module):
    """:func:`ssd_cuda.ops.ssd_loss` on ready targets.

    Args:
        num_classes: columns of ``conf_pred``, background included.
        neg_pos_ratio: mined rows per positive.
        class_weights: floating ``[num_classes]``, as in :func:`ssd_cuda.ops.ssd_loss`; kept as a buffer.
        label_smoothing: as there.

    Example:
        >>> criterion = nn.SSDLoss(num_classes=21)
        >>> targets = torch.ones(1, 6, 4), torch.tensor([[7, 0, 0, 0, 0, 0]])
        >>> localization, classification = criterion(torch.zeros(1, 6, 4), torch.zeros(1, 6, 21), *targets)
        >>> localization.item()
        2.0
    """

    def __init__(
        self,
        num_classes: int,
        neg_pos_ratio: float = 3.0,
        *,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_integer("num_classes", num_classes, 1)
        check_range("neg_pos_ratio", neg_pos_ratio, 0.0)
        if class_weights is not None:
            check_tensor("class_weights", class_weights, (num_classes,), FLOATING)
            check_class_weights(class_weights)
        self.num_classes = num_classes
        self.neg_pos_ratio = neg_pos_ratio
        self.label_smoothing = MultiBoxConfig(label_smoothing=label_smoothing).label_smoothing
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)

    def forward(
        self, loc_pred: Tensor, conf_pred: Tensor, loc_target: Tensor, conf_target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """loc ``[B, P, 4]``, conf_pred ``[B, P, C]``, conf_target ``[B, P]`` -> (loc loss, conf loss)."""
        if isinstance(conf_pred, Tensor) and conf_pred.dim() == 3 and conf_pred.shape[2] != self.num_classes:
            raise ValueError(
                f"conf_pred must have num_classes = {self.num_classes} columns, got {conf_pred.shape[2]}"
            )
        return ops.ssd_loss(
            loc_pred,
            conf_pred,
            loc_target,
            conf_target,
            self.neg_pos_ratio,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
        )

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, neg_pos_ratio={self.neg_pos_ratio}"
