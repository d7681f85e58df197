"""Pairwise IoU and the centre-size box code, with their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._extension import differentiable, register_autograd, register_fake, require
from ..config import BoxFormat, check_choice, check_flag, check_range
from ._checks import FLOATING, check_no_grad, check_no_tangent, check_tensor, finite, four_variances

Variances = Sequence[float] | Tensor


def _real(tensor: Tensor) -> Tensor:
    """The tensor in the dtype its arithmetic is done in: fp64 stays, everything else is fp32."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def box_iou(boxes1: Tensor, boxes2: Tensor, *, eps: float = 0.0) -> Tensor:
    """Intersection over union of every pair.

    The operations are rounded one by one in the order of torchvision's ``box_iou``, so that the result
    is the same bits there, on the CPU and on CUDA.

    Args:
        boxes1: ``[N, 4]`` x1, y1, x2, y2; float32, float64, float16 or bfloat16.
        boxes2: ``[M, 4]``, the same dtype and device.
        eps: added to the union (lufficc and qfgaohao use 1e-5).

    Returns:
        ``[N, M]``, float32 (float64 for float64 boxes). Two boxes of zero area give nan, as in torchvision.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes or devices; a box that requires a gradient.

    Example:
        >>> boxes = torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> ops.box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), boxes)
        tensor([[0.3333, 0.0000]])
    """
    check_tensor("boxes1", boxes1, ("N", 4), FLOATING)
    check_tensor("boxes2", boxes2, ("M", 4), (boxes1.dtype,))
    check_range("eps", eps, 0.0)
    for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
        check_no_grad(name, boxes, "box_iou has no backward")
    require("box_iou", boxes1, boxes2)
    return torch.ops.ssd_cuda.box_iou(_real(boxes1), _real(boxes2), eps=eps)


def _coder_inputs(
    name: str, rows: Tensor, priors: Tensor, variances: Variances, prior_format: str
) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Any]]:
    check_tensor(name, rows, ("...", "P", 4), FLOATING)
    check_tensor("priors", priors, ("...", rows.shape[-2], 4), FLOATING)
    if priors.dim() > 2 and priors.shape != rows.shape:
        raise ValueError(f"priors must have shape [P, 4] or {list(rows.shape)}, got {list(priors.shape)}")
    check_choice("prior_format", prior_format, ("cxcywh", "xyxy"))
    check_no_grad("priors", priors, "only boxes and loc are differentiated")
    check_no_tangent(name, rows)
    rows = _real(rows)
    per_prior = None
    numbers = [1.0] * 4
    if isinstance(variances, Tensor):
        check_tensor("variances", variances, tuple(priors.shape), FLOATING)
        check_no_grad("variances", variances, "only boxes and loc are differentiated")
        per_prior = variances.to(rows.dtype)
    else:
        numbers = four_variances(variances)
    return rows, priors.to(rows.dtype), per_prior, {"variance": numbers, "xyxy": prior_format == "xyxy"}


def encode(
    boxes: Tensor,
    priors: Tensor,
    variances: Variances = (0.1, 0.2),
    *,
    prior_format: BoxFormat = "cxcywh",
) -> Tensor:
    """Box offsets relative to their priors: ``((g - p) / p_size) / v``, ``log(g_size / p_size) / v``.

    Args:
        boxes: ``[..., P, 4]`` x1, y1, x2, y2; any floating dtype. Differentiable.
        priors: ``[P, 4]``, or the shape of ``boxes``; in ``prior_format``, units of ``boxes``.
        variances: 2 numbers (centre, size), 4 numbers, or a tensor of the shape of ``priors`` (caffe).

    Returns:
        Offsets of the shape of ``boxes``, float32 (float64 for float64 boxes). A box without area gives
        -inf or nan: that is what its logarithm is.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options.

    Example:
        >>> priors = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
        >>> boxes = torch.tensor([[0.42, 0.4, 0.62, 0.6]])
        >>> ops.encode(boxes, priors)[0, 0].round(decimals=3)  # 0.02 / 0.2 / 0.1
        tensor(1.)
    """
    rows, prior, per_prior, options = _coder_inputs("boxes", boxes, priors, variances, prior_format)
    require("encode", rows, prior, per_prior)
    return differentiable("box_encode", options, rows, prior, per_prior)


def decode(
    loc: Tensor,
    priors: Tensor,
    variances: Variances = (0.1, 0.2),
    *,
    prior_format: BoxFormat = "cxcywh",
    max_log_scale: float | None = None,
    symmetric_log_scale: bool = False,
) -> Tensor:
    """Boxes from offsets: the inverse of :func:`encode`.

    Args:
        loc: ``[..., P, 4]`` offsets; any floating dtype. Differentiable.
        priors: ``[P, 4]``, or the shape of ``loc``.
        variances: as in :func:`encode`.
        max_log_scale: ``v * dw`` and ``v * dh`` are cut above at this before exp (torchvision:
            log(1000/16)); there the gradient is zero. None: never.
        symmetric_log_scale: also cut below at ``-max_log_scale`` (mmdet).

    Returns:
        ``x1, y1, x2, y2`` of the shape of ``loc``, float32 (float64 for float64 offsets).

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options.

    Example:
        >>> ops.decode(torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))  # no offset: the prior itself
        tensor([[0.4000, 0.4000, 0.6000, 0.6000]])
    """
    rows, prior, per_prior, options = _coder_inputs("loc", loc, priors, variances, prior_format)
    if max_log_scale is not None:
        check_range("max_log_scale", max_log_scale, 0.0)
    check_flag("symmetric_log_scale", symmetric_log_scale)
    limit = finite(max_log_scale)
    require("decode", rows, prior, per_prior)
    options |= {"max_log": limit, "symmetric": symmetric_log_scale}
    return differentiable("box_decode", options, rows, prior, per_prior)


@register_fake("box_iou")
def _(boxes1, boxes2, **_):
    return boxes1.new_empty(boxes1.shape[0], boxes2.shape[0])


@register_fake("box_encode")
@register_fake("box_decode")
def _(rows, *_, **__):
    return torch.empty_like(rows, memory_format=torch.contiguous_format)


@register_fake("box_encode_backward")
@register_fake("box_decode_backward")
def _(grad, rows, *_, **__):
    return torch.empty_like(rows, memory_format=torch.contiguous_format)


def _save(ctx, inputs, keyword_only_inputs, output):
    ctx.save_for_backward(*inputs)
    ctx.options = keyword_only_inputs


def _encode_backward(ctx, grad):
    rows, priors, variances = ctx.saved_tensors
    out = torch.ops.ssd_cuda.box_encode_backward(grad, rows, priors, variances, **ctx.options)
    return out, None, None  # priors, variances


def _decode_backward(ctx, grad):
    rows, priors, variances = ctx.saved_tensors
    out = torch.ops.ssd_cuda.box_decode_backward(grad, rows, priors, variances, **ctx.options)
    return out, None, None  # priors, variances


register_autograd("box_encode", _encode_backward, _save)
register_autograd("box_decode", _decode_backward, _save)
