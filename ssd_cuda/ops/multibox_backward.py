"""The fused MultiBox loss for torch: shapes of the ops for tracing, and the loss's derivative."""

from __future__ import annotations

import torch
from torch import Tensor

from .._extension import register_autograd, register_fake
from ..config import MatchConfig
from .matching import op_options as match_options

# Of multibox_match_loss, not of the backward.
MATCH_OPTIONS = frozenset(match_options(MatchConfig())) - {"xyxy"}


def _empty_rows(rows: Tensor) -> Tensor:
    """[B, P, K] in the memory order of ``rows``, as the kernels lay out a gradient."""
    batch, width, classes = rows.shape
    if rows.stride(2) != 1 and rows.stride(1) == 1:
        return rows.new_empty(batch, classes, width).transpose(1, 2)
    return rows.new_empty(batch, width, classes)


@register_fake("multibox_match_loss")
def _(loc, conf, *_, with_zeros, **__):
    codes = conf.new_empty(conf.shape[:2], dtype=torch.int32)
    return (*_results(conf, with_zeros), codes)


@register_fake("multibox_loss")
def _(loc, conf, *_, with_zeros, **__):
    return _results(conf, with_zeros)


def _results(conf: Tensor, with_zeros: bool) -> tuple[Tensor, ...]:
    batch, width, _ = conf.shape
    wide, key = (torch.float64, torch.int64) if conf.dtype == torch.float64 else (torch.float32, torch.int32)
    return (
        conf.new_empty((), dtype=wide),
        conf.new_empty((), dtype=wide),
        conf.new_empty((), dtype=torch.int64),
        conf.new_empty((batch, width), dtype=key),
        conf.new_empty((batch, 2), dtype=torch.int64),
        conf.new_empty((batch,), dtype=wide),
        _empty_rows(conf) if with_zeros else conf.new_empty(0),
    )


@register_fake("multibox_loss_backward")
def _(grad_loc, grad_conf, loc, conf, *_, **__):
    return _empty_rows(loc), _empty_rows(conf)


@register_fake("multibox_loss_backward_into")
def _(grad_loc, grad_conf, loc, *_, **__):
    return _empty_rows(loc)


def _save(ctx, inputs, keyword_only_inputs, output):
    _keep(ctx, inputs, keyword_only_inputs, output[2:])


def _save_match(ctx, inputs, keyword_only_inputs, output):
    loc, conf, *truths = inputs
    *found, codes = output
    _keep(ctx, (loc, conf, codes, *truths), keyword_only_inputs, found[2:], codes)


def _keep(ctx, inputs, options, found, *more):
    """inputs: of multibox_loss; found: its results but the losses; more: what else the op gives."""
    num_positives, keys, cuts, scales, zeros = found
    ctx.mark_non_differentiable(num_positives, keys, cuts, scales, zeros, *more)
    ctx.save_for_backward(*inputs, keys, cuts, scales)
    # Not saved: nobody else has them, and the first backward makes them the gradient.
    ctx.options = {name: value for name, value in options.items() if name not in MATCH_OPTIONS}
    ctx.zeros = [zeros] if ctx.options.pop("with_zeros") else []
    ctx.set_materialize_grads(False)  # else every backward fills zeros for those that have no gradient


def _backward(ctx, grad_loc, grad_conf, *_):
    *inputs, keys, cuts, scales = ctx.saved_tensors
    grad_loc, grad_conf = (scales.new_zeros(()) if g is None else g for g in (grad_loc, grad_conf))
    arguments = (grad_loc, grad_conf, *inputs, keys, cuts, scales)
    if ctx.zeros and not torch.is_grad_enabled():  # else: create_graph, of which the other op says no
        d_conf = ctx.zeros.pop()
        d_loc = torch.ops.ssd_cuda.multibox_loss_backward_into(*arguments, d_conf, **ctx.options)
    else:  # none were asked for, or an earlier backward had them
        d_loc, d_conf = torch.ops.ssd_cuda.multibox_loss_backward(*arguments, **ctx.options)
    # codes, boxes, labels, offsets, priors, variances, class_weights
    return d_loc, d_conf, None, None, None, None, None, None, None


def _backward_match(ctx, *grads):
    d_loc, d_conf, *rest = _backward(ctx, *grads)
    return d_loc, d_conf, *rest[1:]  # it was not given the codes


register_autograd("multibox_loss", _backward, _save)
register_autograd("multibox_match_loss", _backward_match, _save_match, has_own=False)
