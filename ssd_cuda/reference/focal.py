"""The focal loss in plain PyTorch, differentiable by autograd.

Lin et al. 2017: ``alpha_t (1 - p_t)^gamma (-log p_t)``, p_t the probability of what is true. In the sigmoid
form every column of a row is an example, true at the row's label; in the softmax form the row is one, of the
class of its label or of the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import matching
from .multibox import _arithmetic, _localization, _normalize, class_targets, localization_terms


def _weights(true: Tensor, alpha: float | None, like: Tensor) -> Tensor:
    values = like.new_tensor([1.0, 1.0] if alpha is None else [1 - alpha, alpha])
    return values[true.long()]


def sigmoid_focal(logits: Tensor, true: Tensor, alpha: float | None, gamma: float) -> Tensor:
    """logits: [...], true: [...] bool -> [...]."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, true.to(logits.dtype), reduction="none")
    log_wrong = F.logsigmoid(torch.where(true, -logits, logits))  # of 1 - p_t, which may be 0
    return _weights(true, alpha, logits) * torch.exp(gamma * log_wrong) * cross_entropy


def softmax_focal(
    logits: Tensor, labels: Tensor, positive: Tensor, alpha: float | None, gamma: float
) -> Tensor:
    """logits: [N, C], labels: [N], positive: [N] -> [N]."""
    log_p = F.log_softmax(logits, -1).gather(1, labels[:, None])[:, 0]
    wrong = -torch.expm1(log_p)
    power = torch.where(wrong > 0, wrong, 1.0) ** gamma  # 0^gamma has no derivative for gamma below 1
    power = power if gamma == 0 else torch.where(wrong > 0, power, 0.0 * log_p)
    return _weights(positive, alpha, logits) * power * -log_p


def _classification(
    conf: Tensor, target: Tensor, positive: Tensor, counts: Tensor, options: dict[str, Any]
) -> Tensor:
    """The sum over the rows of each image that count: [B]. target: [B, P] columns, -1 where none is true."""
    sums = []
    for logits, label, own, rows in zip(conf, target, positive, counts, strict=True):
        logits, label, own = logits[rows], label[rows], own[rows]
        if options["form"] == "softmax":
            term = softmax_focal(logits, label, own, options["alpha"], options["gamma"])
        else:
            true = own[:, None] & (torch.arange(logits.shape[1], device=label.device) == label[:, None])
            term = sigmoid_focal(logits, true, options["alpha"], options["gamma"])
        sums.append(term.sum())
    return torch.stack(sums) if sums else conf.sum((1, 2))


def focal_loss(
    loc: Tensor,
    conf: Tensor,
    boxes: Tensor,
    labels: Tensor,
    offsets: Tensor,
    priors: Tensor,
    *,
    form: str = "sigmoid",
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    match: Mapping[str, Any] | None = None,
    variances: Sequence[float] = (0.1, 0.2),
    loc_loss: str = "smooth_l1",
    beta: float = 1.0,
    loc_reduction: str = "sum",
    normalizer: str = "batch",
    clamp_normalizer: bool = True,
    loc_weight: float = 1.0,
    background: str = "first",
    label_offset: int = 0,
    ignore_label: int | None = None,
    zero_label: str = "background",
    layout: str = "bpc",
    codes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(localization, classification, num_positives), as ``reference.multibox.multibox_loss`` has them.

    The options are those of ``FocalConfig``.
    """
    if layout == "bcp":
        loc, conf = loc.transpose(1, 2), conf.transpose(1, 2)
    loc, conf = _arithmetic(loc), _arithmetic(conf)
    prior_format = (match or {}).get("prior_format", "cxcywh")
    if codes is None:
        codes = matching.match(boxes, offsets, priors, **(match or {}))
    extra = int(background == "none")  # the background is a column before the first
    target, positive, localized, candidate = class_targets(
        codes,
        labels,
        offsets,
        conf.shape[2] + extra,
        background="first" if extra else background,
        label_offset=label_offset + extra,
        ignore_label=ignore_label,
        zero_label=zero_label,
    )
    counted = positive | candidate
    options = {"form": form, "alpha": alpha, "gamma": gamma}
    weighted = positive
    if form == "softmax":  # alpha goes by the column, where zero_label may call the background's positive
        weighted = positive & (target != (conf.shape[2] - 1 if background == "last" else 0))
    classification = _classification(conf, target - extra, weighted, counted, options)
    localization = loc_weight * _localization(
        loc, codes, localized, boxes, offsets, priors, variances, prior_format, loc_loss, beta
    )
    if loc_reduction == "mean4":
        localization = localization / 4
    counts = (counted if normalizer == "selected" else localized).sum(1)
    return (
        _normalize(localization, counts, normalizer, clamp_normalizer),
        _normalize(classification, counts, normalizer, clamp_normalizer),
        localized.sum(),
    )


def focal_loss_on_targets(
    loc: Tensor, conf: Tensor, loc_target: Tensor, conf_target: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """(localization, classification) of ready targets over max(1, positives); conf_target: [B, P] columns,
    ``background`` being that of a negative (-1: none), ``ignore`` what counts nowhere."""
    loc, conf = _arithmetic(loc), _arithmetic(conf)
    background = options.pop("background", 0)
    counts = conf_target != options.pop("ignore", -100)
    positive = counts & (conf_target != background)
    total = positive.sum().clamp(min=1)
    terms = localization_terms(loc[positive], loc_target[positive].to(loc.dtype), "smooth_l1", 1.0)
    return terms.sum() / total, _classification(conf, conf_target, positive, counts, options).sum() / total
