"""The options of the focal loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checks import check_range, check_variances
from .multibox import MatchConfig
from .options import Options

__all__ = ["FocalConfig"]

_MATCH = MatchConfig()


@dataclass(frozen=True)
class FocalConfig(Options):
    """The focal loss of Lin et al. 2017 (RetinaNet) in place of mining; the rest is the MultiBox loss's.

    ``alpha_t (1 - p_t)^gamma (-log p_t)``, with p_t the probability of what is true, added over every prior
    that is not ignored.

    Attributes:
        form: ``"sigmoid"``: every column is a yes or no of its own and all are added, as in RetinaNet;
            ``"softmax"``: one term a prior, of the softmax over the columns, background included.
        alpha: weight of what is positive; 1 - alpha is that of the rest (sigmoid: of each column that is not
            the label's; softmax: of background priors). None: both 1.
        gamma: how much an easy example is lowered; 0 is the cross entropy.
        match: how priors are matched; RetinaNet's own are ``iou_threshold=0.5, candidate_max_iou=0.4,
            forced="argmax"``.
        variances: as in :class:`MultiBoxConfig`.
        loc_loss: as there, with ``beta`` (RetinaNet in torchvision: ``"l1"``).
        beta: where smooth L1 turns from quadratic to linear.
        loc_reduction: as there.
        normalizer: as there; ``"selected"`` divides by all priors that are not ignored.
        clamp_normalizer: as there.
        loc_weight: factor of the localisation loss.
        background: index of the background column, ``"first"``, ``"last"`` or, in the sigmoid form,
            ``"none"``: the columns are the classes alone, and a label of -1 after the offset is the
            background. A background column of the sigmoid form is one that is never true (torchvision).
        label_offset: added to every label before use: -1 where labels start at 1 and there is no background
            column.
        ignore_label: as in :class:`MultiBoxConfig`.
        zero_label: what a matched label equal to the background is, as there.
        layout: as there.

    Example:
        >>> ssd_cuda.FocalConfig(background="none", label_offset=-1).gamma  # 80 columns, labels 1 to 80
        2.0
    """

    form: Literal["sigmoid", "softmax"] = "sigmoid"
    alpha: float | None = 0.25
    gamma: float = 2.0
    match: MatchConfig = _MATCH
    variances: tuple[float, ...] = (0.1, 0.2)
    loc_loss: Literal["smooth_l1", "l1"] = "smooth_l1"
    beta: float = 1.0
    loc_reduction: Literal["sum", "mean4"] = "sum"
    normalizer: Literal["batch", "per_image", "selected", "global", "batch_min_one"] = "batch"
    clamp_normalizer: bool = True
    loc_weight: float = 1.0
    background: Literal["first", "last", "none"] = "first"
    label_offset: int = 0
    ignore_label: int | None = None
    zero_label: Literal["positive", "localize", "background"] = "background"
    layout: Literal["bpc", "bcp"] = "bpc"

    def _check(self) -> None:
        if self.alpha is not None:
            check_range("alpha", self.alpha, 0.0, 1.0)
        check_range("gamma", self.gamma, 0.0)
        check_variances(self.variances)
        check_range("beta", self.beta, 0.0)
        check_range("loc_weight", self.loc_weight, 0.0)
        if self.form == "softmax" and self.background == "none":
            raise ValueError("background must be 'first' or 'last' for form='softmax', got 'none'")
