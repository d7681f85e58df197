"""The fused MultiBox loss: matching, mining, classification and localisation, with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._extension import differentiable, is_transformed, require
from ..config import FocalConfig, MultiBoxConfig, check_range
from . import multibox_backward  # noqa: F401  # registers the derivative
from ._checks import FLOATING, check_no_grad, check_tensor, config_or, four_variances
from ._loss_inputs import (
    Targets,
    arithmetic_of,
    check_targets,
    matched_targets,
    predictions_of,
    ready_targets,
    truths_of,
)
from ._pytrees import register_named_tuple
from ._target_checks import check_class_weights, check_classes, check_labels, should_check
from .ground_truth import GroundTruth
from .matching import arithmetic_of as matching_in
from .matching import check_problem, warn_of_units
from .matching import op_options as match_options
from .mining import op_options as mining_options

_TORCH_IGNORE = -100  # the ignore_index of torch's cross_entropy
_DEFAULT = MultiBoxConfig()


@register_named_tuple
class MultiBoxLosses(NamedTuple):
    """The two losses of a batch, and how many priors were matched; all on the device.

    Attributes:
        localization: 0-dim, float32 (float64 for float64 logits).
        classification: 0-dim, the same dtype.
        num_positives: int64, 0-dim: priors in the localisation loss, of this process.
    """

    localization: Tensor
    classification: Tensor
    num_positives: Tensor


def op_options(config: MultiBoxConfig) -> dict[str, Any]:
    """The options of the ops of the loss: the table of csrc/multibox/multibox_rule.h. The forward has
    ``with_zeros`` beside them."""
    return {
        "variance": four_variances(config.variances),
        "xyxy": config.match.prior_format == "xyxy",
        "background_last": config.background == "last",
        "label_offset": config.label_offset,
        "has_ignore": config.ignore_label is not None,
        "ignore_label": 0 if config.ignore_label is None else config.ignore_label,
        "rank_ignored": config.ignored_key == "zero",
        "single_class": config.single_class,
        "zero_label": config.zero_label,
        **mining_options(config.mining),
        "key": config.mining.key,
        "label_smoothing": float(config.label_smoothing),
        "positives_twice": config.mining.count_positives_twice,
        "normalizer": config.normalizer,
        "clamp_normalizer": config.clamp_normalizer,
        "loc_loss": config.loc_loss,
        "beta": float(config.beta),
        "loc_factor": float(config.loc_weight) / (4.0 if config.loc_reduction == "mean4" else 1.0),
    }


def _class_weights(weights: Tensor | None, conf: Tensor, check: bool) -> Tensor | None:
    """The weights of the classes in the dtype of the arithmetic. conf: ``[B, P, C]``."""
    if weights is None:
        return None
    check_tensor("class_weights", weights, (conf.shape[2],), FLOATING)
    check_no_grad("class_weights", weights, "only loc and conf are differentiated")
    require("multibox_loss", conf, weights)
    if should_check(check, weights):
        check_class_weights(weights)
    return weights.to(arithmetic_of(conf))


def _wants_zeros(conf: Tensor) -> bool:
    """Whether the forward also prepares the zeros of the gradient of ``conf``: there a card writes them while
    it computes, in the backward they would be most of its time. The CPU gets zero pages from the system. A
    traced graph has no place for what its backward changes: not in compiled code, nor for subclasses."""
    eager = type(conf) is Tensor and not torch.compiler.is_compiling()
    return eager and conf.is_cuda and conf.requires_grad and torch.is_grad_enabled()


def multibox_loss(
    loc: Tensor,
    conf: Tensor,
    gt: GroundTruth,
    priors: Tensor,
    config: MultiBoxConfig | None = None,
    *,
    codes: Tensor | None = None,
    variances: Tensor | None = None,
    class_weights: Tensor | None = None,
    process_group: torch.distributed.ProcessGroup | None = None,
    check: bool = False,
) -> MultiBoxLosses:
    """The loss of SSD from raw predictions and ragged ground truth, fused.

    Matching gives one code per prior; one read of the logits gives a key per prior; the selection and
    all sums stay on the device. The backward writes zeros and reads again only the rows that count: the
    positives and the selected negatives.

    Args:
        loc: ``[B, P, 4]`` box codes, ``[B, 4, P]`` in the layout ``"bcp"``. Differentiable.
        conf: ``[B, P, C]`` logits, ``[B, C, P]`` in the layout ``"bcp"``; float32, float64, float16 or
            bfloat16, computed in float32 (float64 in float64). Any strides: memory whose last or middle
            dimension is dense is read where it lies. Where its dtype is not that of ``loc``, the narrower
            one is copied into the wider. Differentiable, once.
        gt: ground truth of the B images.
        priors: ``[P, 4]``, or ``[B, P, 4]`` for priors of their own in every image.
        config: every option; None: ``MultiBoxConfig()``. Under ``torch.compile`` make it outside of the
            compiled function.
        codes: int32 ``[B, P]``, the result of :func:`ssd_cuda.ops.match` if it is known already; then
            ``config.match`` is not used but for ``prior_format``.
        variances: tensor of the shape of ``priors``: per-prior variances (caffe), not those of ``config``.
        class_weights: floating ``[C]``, finite and at least 0, background included: the loss of a row is that
            of torch's ``cross_entropy(reduction="none", weight=class_weights)`` with the ``label_smoothing``
            of ``config``. The normaliser stays a count of priors, where torch's ``reduction="mean"`` divides
            by the weights of the labels. What is mined: see ``key`` of :class:`ssd_cuda.MiningConfig`.
        process_group: over which ``normalizer="global"`` adds the positives; None: the default group if
            ``torch.distributed`` is initialised, else this process alone.
        check: also look at the labels, codes and weights where that waits for the device. On the CPU they are
            always looked at in eager mode.

    Returns:
        The two losses, each already weighted and divided, and the number of matched priors. A label that
        gives no class and is not looked at makes the classification loss nan; so does a nan or +inf logit
        in a row that counts.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; a label, code or weight out of range.
        NotImplementedError: a tangent of forward mode (``torch.func.jvp``).

    Example:
        >>> priors = ops.generate_priors(ssd_cuda.PriorSpec())
        >>> gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.6]])], [torch.tensor([3])])
        >>> loc, conf = (torch.zeros(1, 8732, n, requires_grad=True) for n in (4, 21))
        >>> losses = ops.multibox_loss(loc, conf, gt, priors)
        >>> (losses.localization + losses.classification).backward()
        >>> round(losses.classification.item(), 3)  # four rows a positive, each log(21)
        12.178
    """
    config = config_or(_DEFAULT, config)
    loc, conf = predictions_of(loc, conf, config.layout)
    check_targets(conf, gt, priors, variances, codes)
    num_classes = conf.shape[2]
    if config.single_class and num_classes < 2:
        raise ValueError(f"conf must have at least 2 classes with single_class, got {num_classes}")
    require("multibox_loss", loc, conf, gt.boxes, priors, variances, codes)
    weights = _class_weights(class_weights, conf, check)
    if should_check(check, gt.labels):
        check_labels(gt, config, num_classes)
    if codes is None and matching_in(gt, priors) == arithmetic_of(conf) and not is_transformed():
        return _match_and_call(loc, conf, gt, priors, variances, weights, config, process_group)
    targets = matched_targets(conf, gt, priors, variances, codes, config, check)
    return _call(loc, conf, targets, weights, config, process_group)


def _match_and_call(
    loc: Tensor,
    conf: Tensor,
    gt: GroundTruth,
    priors: Tensor,
    variances: Tensor | None,
    weights: Tensor | None,
    config: MultiBoxConfig,
    process_group: torch.distributed.ProcessGroup | None,
) -> MultiBoxLosses:
    """match() and the loss in one op: a card computes the one beside the other."""
    check_problem(gt, priors)
    matching = match_options(config.match, gt.boxes.dtype, priors.dtype)
    options = {**matching, **op_options(config), "with_zeros": _wants_zeros(conf)}
    truths = truths_of(conf, gt, priors, variances)
    *found, codes = differentiable("multibox_match_loss", options, loc, conf, *truths, weights)
    warn_of_units(gt, priors, config.match.prior_format, codes, level=4)
    return losses_of(found, config, conf.shape[0], process_group)


def _call(
    loc: Tensor,
    conf: Tensor,
    targets: Targets,
    weights: Tensor | None,
    config: MultiBoxConfig,
    process_group: torch.distributed.ProcessGroup | None,
) -> MultiBoxLosses:
    options = {**op_options(config), "with_zeros": _wants_zeros(conf)}
    found = differentiable("multibox_loss", options, loc, conf, *targets, weights)
    return losses_of(found, config, conf.shape[0], process_group)


def losses_of(
    found: Sequence[Tensor],
    config: MultiBoxConfig | FocalConfig,
    images: int,
    process_group: torch.distributed.ProcessGroup | None,
) -> MultiBoxLosses:
    """The first three results of an op of a loss, divided by the positives of all processes where asked."""
    losses = MultiBoxLosses(*found[:3])
    if config.normalizer != "global":
        return losses
    return _over_processes(losses, config.clamp_normalizer or images == 0, process_group)


def _over_processes(
    sums: MultiBoxLosses, clamp: bool, group: torch.distributed.ProcessGroup | None
) -> MultiBoxLosses:
    """The sums of this process over the positives of all, or at least over 1 (clamp).

    A process without images has nothing to divide: its share is 0 whatever the others have, hence clamped.
    """
    total = _total_over_processes(sums.num_positives, group).to(sums.localization.dtype)
    if clamp:
        total = total.clamp(min=1)
    return MultiBoxLosses(sums.localization / total, sums.classification / total, sums.num_positives)


def _total_over_processes(count: Tensor, group: torch.distributed.ProcessGroup | None) -> Tensor:
    """The sum of a device scalar over the group, without reading it on the host."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    total = count.clone()
    torch.distributed.all_reduce(total, group=group)
    return total


_SEED = MultiBoxConfig.preset("seed")


def ssd_loss(
    loc_pred: Tensor,
    conf_pred: Tensor,
    loc_target: Tensor,
    conf_target: Tensor,
    neg_pos_ratio: float = 3.0,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    check: bool = False,
) -> tuple[Tensor, Tensor]:
    """The MultiBox loss on ready targets, fused: the loss of the tutorial that this project starts from.

    ``conf_target > 0`` is positive; per image the ``min(int(ratio * positives), P - 1)`` largest cross
    entropies are mined with those of positives set to 0; both sums are divided by ``max(1, positives)`` of
    the batch. A positive that is mined too counts twice, as there. Equal keys go to the lowest prior.

    Args:
        loc_pred: ``[B, P, 4]``; conf_pred: ``[B, P, C]``; any floating dtype. Differentiable.
        loc_target: ``[B, P, 4]`` box codes; read at positives only.
        conf_target: integer ``[B, P]`` classes, 0 is background; -100, torch's ignored class, counts
            nowhere, but is ranked by the mining with its loss of 0.
        neg_pos_ratio: mined rows per positive.
        class_weights: as in :func:`multibox_loss`, in key and loss, as if it stood in the ``cross_entropy``
            of the tutorial.
        label_smoothing: as in :class:`ssd_cuda.MultiBoxConfig`, there too.
        check: also look at ``conf_target`` where that waits for the device (always on the CPU in eager mode).

    Returns:
        (localisation loss, classification loss), 0-dim, float32 (float64 for float64 logits).

    Raises:
        ValueError, TypeError: wrong shapes, dtypes or devices; a class out of range.

    Example:
        >>> targets, classes = torch.ones(1, 6, 4), torch.tensor([[7, 0, 0, 0, 0, 0]])
        >>> ops.ssd_loss(torch.zeros(1, 6, 4), torch.zeros(1, 6, 21), targets, classes)[0]
        tensor(2.)
    """
    check_range("neg_pos_ratio", neg_pos_ratio, 0.0)
    mining = replace(_SEED.mining, ratio=float(neg_pos_ratio))
    config = replace(_SEED, mining=mining, ignore_label=_TORCH_IGNORE, label_smoothing=label_smoothing)
    losses = multibox_loss_on_targets(
        loc_pred, conf_pred, loc_target, conf_target, config, class_weights=class_weights, check=check
    )
    return losses.localization, losses.classification


def multibox_loss_on_targets(
    loc: Tensor,
    conf: Tensor,
    loc_target: Tensor,
    conf_target: Tensor,
    config: MultiBoxConfig | None = None,
    *,
    class_weights: Tensor | None = None,
    process_group: torch.distributed.ProcessGroup | None = None,
    check: bool = False,
) -> MultiBoxLosses:
    """:func:`multibox_loss` where matching and coding are done already, as in codebases whose data loader
    or encoder hands over one target a prior.

    Args:
        loc: as in :func:`multibox_loss`. Differentiable.
        conf: as in :func:`multibox_loss`. Differentiable.
        loc_target: box codes of the shape of ``loc``; read at positives only.
        conf_target: integer ``[B, P]`` classes; what is no background and not ``config.ignore_label`` is
            positive. ``label_offset`` is added here too.
        config: the options of mining and loss; those of matching are not used, and ``loc_loss`` is no loss of
            boxes.
        class_weights: as in :func:`multibox_loss`.
        process_group: as in :func:`multibox_loss`.
        check: also look at ``conf_target`` and the weights where that waits for the device (always on the
            CPU in eager mode).

    Returns:
        As :func:`multibox_loss`.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; a class out of range.

    Example:
        >>> loc, conf = torch.zeros(1, 6, 4), torch.zeros(1, 6, 21)
        >>> classes = torch.tensor([[7, 0, 0, 0, 0, 0]])
        >>> losses = ops.multibox_loss_on_targets(loc, conf, torch.ones(1, 6, 4), classes)
        >>> losses.localization, losses.num_positives  # four coordinates, each off by 1
        (tensor(2.), tensor(1))
    """
    config = config_or(_DEFAULT, config)
    if config.loc_loss not in ("smooth_l1", "l1"):
        raise ValueError(
            f"config.loc_loss must be 'smooth_l1' or 'l1' on ready targets, which are codes, no boxes, got "
            f"{config.loc_loss!r}"
        )
    loc, conf = predictions_of(loc, conf, config.layout)
    targets = ready_targets("multibox_loss_on_targets", loc, conf, loc_target, conf_target, config.layout)
    weights = _class_weights(class_weights, conf, check)
    if should_check(check, targets[0]) and not config.single_class:
        check_classes(targets[0], config, conf.shape[2])
    return _call(loc, conf, targets, weights, config, process_group)
