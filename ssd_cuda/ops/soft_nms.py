"""Soft-NMS on plain boxes: scores that overlap a better box are lowered, not removed (Bodla et al. 2017)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .._extension import register_fake
from ..config import check_choice, check_range
from ._checks import check_no_grad, first_rows
from .nms import check_max_output, check_scored_boxes

Method = Literal["gaussian", "linear"]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: Method = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
    max_output: int | None = None,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Indices of the chosen boxes, and their scores, lowered by every better box that they overlap.

    The best score is chosen (NaN before every number, ties to the lower index); every other score becomes
    ``s * exp(-iou**2 / sigma)`` (gaussian), or ``s * (1 - iou)`` where the IoU with the choice is >
    ``iou_threshold`` (linear); what falls to ``score_threshold`` is dropped; and so on. A NaN IoU lowers
    nothing. Memory is linear in N; the time grows with N times the number of choices. The result has a size
    that depends on the data, for which CUDA waits once; :func:`soft_nms_padded` does not.

    Args:
        boxes: ``[N, 4]`` x1, y1, x2, y2; any floating dtype. The arithmetic is in fp32 (fp64 where boxes or
            scores are fp64), with the same bits on every device.
        scores: ``[N]``, any floating dtype.
        method: ``"gaussian"`` or ``"linear"``.
        sigma: width of the gaussian, > 0.
        iou_threshold: in [0, 1]; of the linear form only.
        score_threshold: >= 0; a score at or below it, rounded to the dtype of the arithmetic, is dropped.
        max_output: the best so many; None: all.
        inclusive: the linear form lowers at IoU ``>=`` the threshold, not ``>``.
        iou_eps, pixel_offset: as in :func:`nms`.

    Returns:
        int64 ``[kept]`` indices and ``[kept]`` scores, descending, equal scores by index. No gradient.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; an input that requires a gradient.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 3.0, 1.0], [8.0, 0.0, 9.0, 1.0]])
        >>> ops.soft_nms(boxes, torch.tensor([0.75, 0.6, 0.5]), method="linear")
        (tensor([0, 2, 1]), tensor([0.7500, 0.5000, 0.4000]))
    """
    rule = (method, sigma, iou_threshold, score_threshold, inclusive, iou_eps, pixel_offset)
    return filled_rows(*_call("soft_nms", boxes, scores, None, max_output, rule))


def batched_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    *,
    method: Method = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
    max_output: int | None = None,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """:func:`soft_nms` of every class on its own; on CUDA and on the CPU the classes run side by side.

    Args:
        idxs: ``[N]`` class of each box; any integers or bools, as :func:`batched_nms` takes them.
        max_output: the best so many of all classes; None: all.
        boxes, scores, method, sigma, iou_threshold, score_threshold, inclusive, iou_eps, pixel_offset: as in
            :func:`soft_nms`.

    Returns:
        int64 ``[kept]`` indices over all classes and ``[kept]`` scores, descending, equal scores by index.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; an input that requires a gradient.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 3.0, 1.0]])
        >>> ops.batched_soft_nms(boxes, torch.tensor([0.75, 0.5]), torch.tensor([0, 1]))
        (tensor([0, 1]), tensor([0.7500, 0.5000]))
    """
    if idxs is None:
        raise TypeError("idxs must be a tensor, got NoneType")
    rule = (method, sigma, iou_threshold, score_threshold, inclusive, iou_eps, pixel_offset)
    return filled_rows(*_call("batched_soft_nms", boxes, scores, idxs, max_output, rule))


def soft_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    *,
    idxs: Tensor | None = None,
    max_output: int | None = None,
    method: Method = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`soft_nms`, or with ``idxs`` :func:`batched_soft_nms`, in a fixed size: no wait for the device.

    Args:
        max_output: rows of the result; None: N.
        boxes, scores, idxs, method, sigma, iou_threshold, score_threshold, inclusive, iou_eps, pixel_offset:
            as in :func:`batched_soft_nms`.

    Returns:
        ``keep`` int64 ``[max_output]``, -1 after the chosen indices, their ``scores`` ``[max_output]``, 0
        after those, and ``count`` int64 ``[]``.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; an input that requires a gradient.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], [8.0, 0.0, 9.0, 1.0]])
        >>> ops.soft_nms_padded(boxes, torch.tensor([0.75, 0.625, 0.5]), method="linear")
        (tensor([ 0,  2, -1]), tensor([0.7500, 0.5000, 0.0000]), tensor(2))
    """
    rule = (method, sigma, iou_threshold, score_threshold, inclusive, iou_eps, pixel_offset)
    return _call("soft_nms_padded", boxes, scores, idxs, max_output, rule)


def _call(op, boxes, scores, idxs, max_output, rule):
    method, sigma, iou_threshold, score_threshold, inclusive, iou_eps, pixel_offset = rule
    idxs, iou_threshold = check_scored_boxes(
        boxes, scores, idxs, iou_threshold, inclusive, iou_eps, pixel_offset, op
    )
    check_choice("method", method, ("gaussian", "linear"))
    check_range("sigma", sigma, 1e-12)
    check_range("score_threshold", score_threshold, 0.0)
    boxes, scores = same_arithmetic(boxes, scores)
    return torch.ops.ssd_cuda.soft_nms(
        boxes,
        scores,
        idxs,
        iou_threshold=iou_threshold,
        inclusive=inclusive,
        iou_eps=iou_eps,
        pixel_offset=pixel_offset,
        soft_sigma=sigma,
        soft_linear=method == "linear",
        score_threshold=score_threshold,
        max_output=check_max_output(max_output, boxes.shape[0]),
    )


def same_arithmetic(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype of the arithmetic: float64 where one of them is, else float32."""
    for name, value in (("boxes", boxes), ("scores", scores)):
        check_no_grad(name, value, "the op has no backward")
    wide = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    return boxes.to(wide), scores.to(wide)


def filled_rows(keep: Tensor, kept_scores: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The rows before the padding; reads the count."""
    rows: Any = count if torch.jit.is_tracing() else count.item()  # int(count) ends the trace of torch.export
    kept, scores = first_rows(rows, keep, kept_scores)
    return kept, scores


def empty_rows(boxes, scores, idxs, *, max_output, **_):
    """What the ops of scored boxes give, by shape: rows, their scores, how many."""
    long = torch.int64
    return (
        boxes.new_empty(max_output, dtype=long),
        boxes.new_empty(max_output),
        boxes.new_empty((), dtype=long),
    )


register_fake("soft_nms")(empty_rows)
