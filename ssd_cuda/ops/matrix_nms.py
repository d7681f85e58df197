"""Matrix NMS (Wang et al. 2020, SOLOv2): all scores are lowered at once, by every better box."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._extension import register_fake
from ..config import check_choice, check_range
from .nms import check_max_output, check_scored_boxes
from .soft_nms import empty_rows, filled_rows, same_arithmetic


def matrix_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    idxs: Tensor | None = None,
    method: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 2.0,
    score_threshold: float = 0.05,
    max_output: int | None = None,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Indices of the boxes whose lowered score passes, and these scores. Nothing is sequential.

    With the boxes in the order of :func:`nms` and ``c[i]`` the greatest IoU of box i with a better box of its
    class, ``s[j]`` becomes ``s[j] * min(f(iou[i, j]) / f(c[i]))`` over better boxes i of its class, at most
    ``s[j]``; ``f(x) = exp(-sigma * x**2)`` or ``1 - x``. sigma multiplies, as in the authors' code; the text
    of the paper divides. A NaN IoU lowers nothing, nor does 0 / 0: a box that a better one covers exactly
    lowers no third one. Memory is linear in N, time quadratic. The size depends on the data, for which CUDA
    waits once; :func:`matrix_nms_padded` does not.

    Args:
        boxes: ``[N, 4]`` x1, y1, x2, y2; any floating dtype. The arithmetic is in fp32 (fp64 where boxes or
            scores are fp64).
        scores: ``[N]``, any floating dtype. A NaN comes first and stays.
        idxs: ``[N]`` class of each box, as in :func:`batched_nms`; None: one class.
        method: ``"gaussian"`` or ``"linear"``.
        sigma: of the gaussian, > 0.
        score_threshold: >= 0; a box is dropped if its lowered score is at or below it.
        max_output: the best so many; None: all.
        iou_eps, pixel_offset: as in :func:`nms`.

    Returns:
        int64 ``[kept]`` indices and ``[kept]`` lowered scores, descending, equal scores by index.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; an input that requires a gradient.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0], [8.0, 0.0, 9.0, 1.0]])
        >>> ops.matrix_nms(boxes, torch.tensor([0.75, 0.5, 0.5]), method="linear")
        (tensor([0, 2, 1]), tensor([0.7500, 0.5000, 0.2500]))
    """
    rule = (method, sigma, score_threshold, iou_eps, pixel_offset)
    return filled_rows(*_call("matrix_nms", boxes, scores, idxs, max_output, rule))


def matrix_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    *,
    idxs: Tensor | None = None,
    max_output: int | None = None,
    method: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 2.0,
    score_threshold: float = 0.05,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`matrix_nms` in a fixed size: no wait for the device.

    Args:
        max_output: rows of the result; None: N.
        boxes, scores, idxs, method, sigma, score_threshold, iou_eps, pixel_offset: as in :func:`matrix_nms`.

    Returns:
        ``keep`` int64 ``[max_output]``, -1 after the kept indices, their ``scores`` ``[max_output]``, 0 after
        those, and ``count`` int64 ``[]``.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; an input that requires a gradient.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 2.0, 1.0]])
        >>> ops.matrix_nms_padded(boxes, torch.tensor([0.75, 0.5]), method="linear")
        (tensor([ 0, -1]), tensor([0.7500, 0.0000]), tensor(1))
    """
    rule = (method, sigma, score_threshold, iou_eps, pixel_offset)
    return _call("matrix_nms_padded", boxes, scores, idxs, max_output, rule)


def _call(op, boxes, scores, idxs, max_output, rule):
    method, sigma, score_threshold, iou_eps, pixel_offset = rule
    idxs, _ = check_scored_boxes(boxes, scores, idxs, 0.0, False, iou_eps, pixel_offset, op)
    check_choice("method", method, ("gaussian", "linear"))
    check_range("sigma", sigma, 1e-12)
    check_range("score_threshold", score_threshold, 0.0)
    boxes, scores = same_arithmetic(boxes, scores)
    return torch.ops.ssd_cuda.matrix_nms(
        boxes,
        scores,
        idxs,
        sigma=sigma,
        linear=method == "linear",
        iou_eps=iou_eps,
        pixel_offset=pixel_offset,
        score_threshold=score_threshold,
        max_output=check_max_output(max_output, boxes.shape[0]),
    )


register_fake("matrix_nms")(empty_rows)
