"""The focal loss, fused, with its backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._extension import differentiable, register_autograd, register_fake, require
from ..config import FocalConfig
from ._checks import config_or, four_variances
from ._loss_inputs import Targets, check_targets, matched_targets, predictions_of, ready_targets
from ._target_checks import check_classes, check_labels, should_check
from .ground_truth import GroundTruth, readable
from .multibox import MultiBoxLosses, losses_of
from .multibox_backward import _empty_rows

_DEFAULT = FocalConfig()


def op_options(config: FocalConfig) -> dict[str, Any]:
    """The options of the ops of the loss: the table of csrc/focal/focal_rule.h. The forward has
    ``with_gradients`` beside them."""
    return {
        "variance": four_variances(config.variances),
        "xyxy": config.match.prior_format == "xyxy",
        "form": config.form,
        "alpha_positive": 1.0 if config.alpha is None else float(config.alpha),
        "alpha_negative": 1.0 if config.alpha is None else 1.0 - float(config.alpha),
        "gamma": float(config.gamma),
        "background": config.background,
        "label_offset": config.label_offset,
        "has_ignore": config.ignore_label is not None,
        "ignore_label": 0 if config.ignore_label is None else config.ignore_label,
        "zero_label": config.zero_label,
        "normalizer": config.normalizer,
        "clamp_normalizer": config.clamp_normalizer,
        "beta": 0.0 if config.loc_loss == "l1" else float(config.beta),
        "loc_factor": float(config.loc_weight) / (4.0 if config.loc_reduction == "mean4" else 1.0),
    }


def focal_loss(
    loc: Tensor,
    conf: Tensor,
    gt: GroundTruth,
    priors: Tensor,
    config: FocalConfig | None = None,
    *,
    codes: Tensor | None = None,
    variances: Tensor | None = None,
    process_group: torch.distributed.ProcessGroup | None = None,
    check: bool = False,
) -> MultiBoxLosses:
    """The loss of RetinaNet on the priors and ground truth of :func:`multibox_loss`: focal instead of mined.

    Every prior that the matching does not ignore counts, with all its columns. The forward reads the logits
    once; the backward reads them once more and writes their gradient, each number rounded once. On the CPU
    in float32 the forward writes the gradient already, which a backward of the plain sum of both losses
    takes; one with other factors makes it anew.

    Args:
        loc: as in :func:`multibox_loss`. Differentiable.
        conf: as in :func:`multibox_loss`. Differentiable, once.
        gt: ground truth of the B images.
        priors: ``[P, 4]``, or ``[B, P, 4]``.
        config: every option, see :class:`ssd_cuda.FocalConfig`; None: ``FocalConfig()``.
        codes: as in :func:`multibox_loss`.
        variances: as there.
        process_group: as there.
        check: as there.

    Returns:
        The two losses, each already weighted and divided, and the number of matched priors. In float32 and
        half the sums have the same bits on every device. A label that gives no class and is not looked at
        makes the classification loss nan; so does a nan or +inf logit in a row that counts.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; a label or code out of range.
        NotImplementedError: a tangent of forward mode (``torch.func.jvp``).

    Example:
        >>> priors = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.8, 0.8, 0.2, 0.2]])
        >>> gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.5]])], [torch.tensor([3])])
        >>> retinanet = ssd_cuda.FocalConfig(  # four columns for the labels 1 to 4, L1 on the boxes
        ...     background="none", label_offset=-1, loc_loss="l1",
        ...     match=dict(iou_threshold=0.5, candidate_max_iou=0.4),
        ... )
        >>> loc, conf = (torch.zeros(1, 2, 4, requires_grad=True) for _ in range(2))
        >>> losses = ops.focal_loss(loc, conf, gt, priors, retinanet)
        >>> (losses.localization + losses.classification).backward()
        >>> round(losses.classification.item(), 4)  # log(2) / 4 times .25 once and .75 seven times
        0.9531
    """
    config = config_or(_DEFAULT, config)
    loc, conf = predictions_of(loc, conf, config.layout)
    check_targets(conf, gt, priors, variances, codes)
    require("focal_loss", loc, conf, gt.boxes, priors, variances, codes)
    if should_check(check, gt.labels):
        check_labels(gt, config, conf.shape[2], "focal_loss")
    targets = matched_targets(conf, gt, priors, variances, codes, config, check)
    return _call(loc, conf, targets, config, process_group)


def focal_loss_on_targets(
    loc: Tensor,
    conf: Tensor,
    loc_target: Tensor,
    conf_target: Tensor,
    config: FocalConfig | None = None,
    *,
    process_group: torch.distributed.ProcessGroup | None = None,
    check: bool = False,
) -> MultiBoxLosses:
    """:func:`focal_loss` where matching and coding are done already.

    Args:
        loc: as in :func:`focal_loss`. Differentiable.
        conf: as in :func:`focal_loss`. Differentiable.
        loc_target: box codes of the shape of ``loc``; read at positives only.
        conf_target: integer ``[B, P]`` classes; what is no background and not ``config.ignore_label`` is
            positive. ``label_offset`` is added here too.
        config: the options of the loss; those of matching are not used.
        process_group: as in :func:`focal_loss`.
        check: also look at ``conf_target`` where that waits for the device (always on the CPU in eager mode).

    Returns:
        As :func:`focal_loss`.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; a class out of range.

    Example:
        >>> loc, conf = torch.zeros(1, 3, 4), torch.zeros(1, 3, 5)
        >>> classes = torch.tensor([[4, 0, -1]])
        >>> config = ssd_cuda.FocalConfig(form="softmax", alpha=None, gamma=0.0, ignore_label=-1)
        >>> losses = ops.focal_loss_on_targets(loc, conf, torch.ones(1, 3, 4), classes, config)
        >>> round(losses.classification.item(), 3)  # two rows, each log(5)
        3.219
    """
    config = config_or(_DEFAULT, config)
    loc, conf = predictions_of(loc, conf, config.layout)
    targets = ready_targets("focal_loss_on_targets", loc, conf, loc_target, conf_target, config.layout)
    if should_check(check, targets[0]):
        check_classes(targets[0], config, conf.shape[2])
    return _call(loc, conf, targets, config, process_group)


def _call(
    loc: Tensor,
    conf: Tensor,
    targets: Targets,
    config: FocalConfig,
    process_group: torch.distributed.ProcessGroup | None,
) -> MultiBoxLosses:
    options = {**op_options(config), "with_gradients": _wants_gradients(conf)}
    found = differentiable("focal_loss", options, loc, conf, *targets)
    return losses_of(found, config, conf.shape[0], process_group)


def _wants_gradients(conf: Tensor) -> bool:
    """Whether the forward shall leave the gradients for a backward with factors of 1, which it makes at half
    their price: in eager mode on the CPU, where a backward can look at its factors."""
    wants = conf.requires_grad and torch.is_grad_enabled()
    return wants and readable(conf) and conf.dtype == torch.float32


@register_fake("focal_loss")
def _(loc, conf, *_, form, with_gradients, **__):
    batch, width, _classes = conf.shape
    wide = torch.float64 if conf.dtype == torch.float64 else torch.float32
    return (
        conf.new_empty((), dtype=wide),
        conf.new_empty((), dtype=wide),
        conf.new_empty((), dtype=torch.int64),
        conf.new_empty((batch, width), dtype=torch.int32),
        conf.new_empty((3, batch, width) if form == "softmax" else (0,), dtype=wide),
        conf.new_empty((batch,), dtype=wide),
        *(_empty_rows(rows) if with_gradients else rows.new_empty(0) for rows in (loc, conf)),
    )


@register_fake("focal_loss_backward")
def _(grad_loc, grad_conf, loc, conf, *_, **__):
    return tuple(_empty_rows(rows) for rows in (loc, conf))


def _save(ctx, inputs, keyword_only_inputs, output):
    _, _, num_positives, columns, stats, scales, *gradients = output
    ctx.mark_non_differentiable(num_positives, columns, stats, scales, *gradients)
    ctx.save_for_backward(*inputs, columns, stats, scales)
    ctx.options = dict(keyword_only_inputs)
    # Not saved: nobody else has them, and the first backward gives them away.
    ctx.gradients = gradients if ctx.options.pop("with_gradients") else []
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_loc, grad_conf, *_):
    *inputs, columns, stats, scales = ctx.saved_tensors
    (d_loc, d_conf), ctx.gradients = ctx.gradients or (None, None), []
    if d_conf is None or torch.is_grad_enabled() or not (_is_one(grad_loc) and _is_one(grad_conf)):
        grad_loc, grad_conf = (scales.new_zeros(()) if g is None else g for g in (grad_loc, grad_conf))
        d_loc, d_conf = torch.ops.ssd_cuda.focal_loss_backward(
            grad_loc, grad_conf, *inputs, columns, stats, scales, **ctx.options
        )
    # codes, boxes, labels, offsets, priors, variances
    return d_loc, d_conf, None, None, None, None, None, None


def _is_one(factor: Tensor | None) -> bool:
    return factor is not None and readable(factor) and factor.item() == 1


register_autograd("focal_loss", _backward, _save)
