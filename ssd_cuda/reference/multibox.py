"""The MultiBox loss in plain PyTorch, differentiable by autograd.

float16 and bfloat16 inputs are computed in float32; float64 stays. The geometry has the dtype of boxes and
priors. A logit that is not finite makes the loss not finite as soon as its row counts; a row that does not
count gets a gradient of exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import matching
from .box_losses import iou_loss
from .boxes import decode, encode
from .exponential import exp, log, sum_in_order
from .mining import select_hard_negatives


def cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """logits: [..., C], labels: [...] integer -> [...]: log-sum-exp minus the logit of the label.

    Both are taken relative to the maximum of the row: equal logits of -1e4 give log(C) in float32 too.
    class_weights: [C]. With them, or smoothed labels, the loss of torch.nn.functional.cross_entropy, no mean:
    (1 - e) w_y l_y + e / C * sum_c w_c l_c, where l_c is the loss above at class c.
    """
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    log_sum = log(sum_in_order(exp(shifted)))
    loss = log_sum - shifted.gather(-1, labels[..., None])[..., 0]
    if class_weights is None and label_smoothing == 0:
        return loss
    weights = logits.new_ones(logits.shape[-1]) if class_weights is None else class_weights.to(logits.dtype)
    loss = (1 - label_smoothing) * weights[labels] * loss
    if label_smoothing == 0:
        return loss
    everywhere = sum_in_order(weights) * log_sum - sum_in_order(weights * shifted)
    return loss + label_smoothing / logits.shape[-1] * everywhere


def _arithmetic(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def class_targets(
    codes: Tensor,
    labels: Tensor,
    offsets: Tensor,
    num_classes: int,
    *,
    background: str = "first",
    label_offset: int = 0,
    ignore_label: int | None = None,
    single_class: bool = False,
    zero_label: str = "background",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What each prior is, from its match code: (target, positive, localized, candidate), all [B, P].

    target: class index of the cross entropy; positive: counts in the classification loss; localized:
    counts in the localisation loss and the normaliser; candidate: may be mined as a negative.

    A label of ``labels`` is first compared with ``ignore_label``, then moved by ``label_offset``, then
    compared with the background (``zero_label``); ``single_class`` comes last.
    """
    empty = 0 if background == "first" else num_classes - 1
    matched = codes >= 0
    candidate = codes == matching.BACKGROUND
    target = torch.full_like(codes, empty, dtype=torch.int64)
    localized = matched.clone()
    for b, start in enumerate(offsets[:-1].tolist()):
        label = labels[start + codes[b][matched[b]].long()].long()
        if ignore_label is not None:
            localized[b][matched[b]] = label != ignore_label
            label = torch.where(label == ignore_label, empty - label_offset, label)
        target[b][matched[b]] = label + label_offset
    positive = localized.clone()
    if zero_label != "positive":
        empty_label = localized & (target == empty)
        positive &= ~empty_label
        candidate |= empty_label
        if zero_label == "background":
            localized &= ~empty_label
    if single_class:
        target = torch.where(positive, 1, target)
    if bool(((target < 0) | (target >= num_classes)).any()):
        bad = target[(target < 0) | (target >= num_classes)][0]
        raise ValueError(
            f"labels must give a class in [0, {num_classes}), got {int(bad)} for a matched prior"
        )
    return target, positive, localized, candidate


def localization_terms(loc: Tensor, target: Tensor, loc_loss: str, beta: float) -> Tensor:
    """loc, target: [N, 4] -> [N, 4]."""
    if loc_loss == "l1":
        return (loc - target).abs()
    return F.smooth_l1_loss(loc, target, reduction="none", beta=beta)


def _row_weights(positive: Tensor, negative: Tensor, count_positives_twice: bool) -> Tensor:
    """How often the cross entropy of each row counts: int [B, P]."""
    return positive.int() + negative.int() if count_positives_twice else (positive | negative).int()


def _classification(conf: Tensor, target: Tensor, weights: Tensor, *terms: Any) -> Tensor:
    """The sum over the rows of each image that count: [B]. Only those rows enter autograd. terms: the weights
    of the classes and the smoothing."""
    sums = []
    for logits, label, weight in zip(conf, target, weights, strict=True):
        rows = weight > 0
        sums.append((cross_entropy(logits[rows], label[rows], *terms) * weight[rows]).sum())
    return torch.stack(sums) if sums else conf.sum((1, 2))


def _localization(
    loc: Tensor,
    codes: Tensor,
    localized: Tensor,
    boxes: Tensor,
    offsets: Tensor,
    priors: Tensor,
    variances: Sequence[float],
    prior_format: str,
    loc_loss: str,
    beta: float,
) -> Tensor:
    """The sum over the localized priors of each image: [B]."""
    sums = []
    for b, start in enumerate(offsets[:-1].tolist()):
        rows = localized[b]
        own = (priors[b] if priors.dim() == 3 else priors)[rows]
        truth = boxes[start + codes[b][rows].long()]
        if loc_loss in ("smooth_l1", "l1"):
            target = encode(truth, own, variances, prior_format).to(loc.dtype)
            sums.append(localization_terms(loc[b][rows], target, loc_loss, beta).sum())
        else:
            decoded = decode(loc[b][rows], own.to(loc.dtype), variances, prior_format)
            sums.append(iou_loss(decoded, truth.to(loc.dtype), loc_loss).sum())
    return torch.stack(sums) if sums else loc.sum((1, 2))


def _normalize(per_image: Tensor, counts: Tensor, normalizer: str, clamp: bool) -> Tensor:
    """per_image: [B] sums, counts: [B] what they are divided by -> scalar; 0 for a batch of no image."""
    if len(counts) == 0:
        return per_image.sum()
    if normalizer == "per_image":
        return torch.where(counts > 0, per_image / counts.clamp(min=1), 0).sum() / len(counts)
    if normalizer == "batch_min_one":
        return per_image.sum() / counts.clamp(min=1).sum()
    total = counts.sum()
    return per_image.sum() / (total.clamp(min=1) if clamp else total)


def multibox_loss(
    loc: Tensor,
    conf: Tensor,
    boxes: Tensor,
    labels: Tensor,
    offsets: Tensor,
    priors: Tensor,
    *,
    match: Mapping[str, Any] | None = None,
    mining: Mapping[str, Any] | None = None,
    variances: Sequence[float] = (0.1, 0.2),
    loc_loss: str = "smooth_l1",
    beta: float = 1.0,
    label_smoothing: float = 0.0,
    loc_reduction: str = "sum",
    normalizer: str = "batch",
    clamp_normalizer: bool = True,
    loc_weight: float = 1.0,
    background: str = "first",
    label_offset: int = 0,
    ignore_label: int | None = None,
    ignored_key: str = "none",
    single_class: bool = False,
    zero_label: str = "background",
    layout: str = "bpc",
    codes: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(localization, classification, num_positives), scalars; num_positives is int64.

    loc: [B, P, 4], conf: [B, P, C], or [B, 4, P] and [B, C, P] in the layout ``"bcp"``; boxes: [G, 4],
    labels: [G], offsets: [B + 1]; priors: [P, 4] or [B, P, 4]. The options are those of ``MultiBoxConfig``
    (``dataclasses.asdict``); codes: [B, P], the matches if they are known already; class_weights: [C].
    ``normalizer="global"`` is ``"batch"`` for a group of one process.
    """
    options = dict(mining or {})
    if layout == "bcp":
        loc, conf = loc.transpose(1, 2), conf.transpose(1, 2)
    loc, conf = _arithmetic(loc), _arithmetic(conf)
    prior_format = (match or {}).get("prior_format", "cxcywh")
    if codes is None:
        codes = matching.match(boxes, offsets, priors, **(match or {}))
    target, positive, localized, candidate = class_targets(
        codes,
        labels,
        offsets,
        conf.shape[2],
        background=background,
        label_offset=label_offset,
        ignore_label=ignore_label,
        single_class=single_class,
        zero_label=zero_label,
    )
    twice = options.pop("count_positives_twice", False)
    terms = (class_weights, label_smoothing)
    plain = options.pop("key", "ce") == "background"  # a candidate's target is the background
    keys = cross_entropy(conf.detach(), target, *(() if plain else terms))  # [B, P]
    ranked = candidate
    if ignored_key == "zero":
        ignored = ~(positive | candidate)
        keys, ranked = keys.masked_fill(ignored, 0), candidate | ignored
    negative = select_hard_negatives(keys, positive, candidates=ranked, **options) & (positive | candidate)
    weights = _row_weights(positive, negative, twice)
    classification = _classification(conf, target, weights, *terms)
    localization = loc_weight * _localization(
        loc, codes, localized, boxes, offsets, priors, variances, prior_format, loc_loss, beta
    )
    if loc_reduction == "mean4":
        localization = localization / 4
    counts = (weights > 0).sum(1) if normalizer == "selected" else localized.sum(1)
    return (
        _normalize(localization, counts, normalizer, clamp_normalizer),
        _normalize(classification, counts, normalizer, clamp_normalizer),
        localized.sum(),
    )


def ssd_loss(
    loc_pred: Tensor,
    conf_pred: Tensor,
    loc_target: Tensor,
    conf_target: Tensor,
    neg_pos_ratio: float = 3.0,
) -> tuple[Tensor, Tensor]:
    """The seed's SSDLoss on ready targets: (localization, classification).

    loc_pred, loc_target: [B, P, 4]; conf_pred: [B, P, C]; conf_target: [B, P] integer, 0 is background.
    Its two quirks are kept: positives take part in the mining with the key 0, and one that is selected
    there counts twice in the classification loss. Equal keys are taken in the order of the priors. A target
    of -100, torch's ignored class, has no loss and no gradient, and takes part in the mining with that 0.
    """
    loc_pred, conf_pred = _arithmetic(loc_pred), _arithmetic(conf_pred)
    ignored, positive = conf_target == -100, conf_target > 0
    target = conf_target.long().masked_fill(ignored, 0)
    keys = cross_entropy(conf_pred.detach(), target).masked_fill(ignored, 0)
    negative = select_hard_negatives(
        keys, positive, ratio=neg_pos_ratio, cap="all_but_one", positive_fill="zero"
    )
    weights = _row_weights(positive, negative, count_positives_twice=True).masked_fill(ignored, 0)
    terms = localization_terms(loc_pred[positive], loc_target[positive].to(loc_pred.dtype), "smooth_l1", 1.0)
    total = positive.sum().clamp(min=1)
    return terms.sum() / total, _classification(conf_pred, target, weights).sum() / total
