"""DIoU-NMS (Zheng et al. 2020): boxes whose centres are apart are spared."""

from __future__ import annotations

import torch
from torch import Tensor

from .._extension import register_fake
from ..config import check_range, to_number
from .nms import check_max_output, check_scored_boxes
from .soft_nms import empty_rows, filled_rows, same_arithmetic


def diou_nms(
    boxes: Tensor,
    scores: Tensor,
    diou_threshold: float,
    *,
    idxs: Tensor | None = None,
    max_output: int | None = None,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> Tensor:
    """:func:`nms` by ``iou - d**2 / c**2``: d the distance of the centres, c the diagonal around both boxes.

    The criterion is at most the IoU, so this keeps what :func:`nms` keeps at the same threshold, or boxes of
    crowds in their place. Two boxes that are one and the same point have 0 / 0, which removes nothing.
    Memory is linear in N; the time grows with N times the number of kept boxes. The size depends on the data,
    for which CUDA waits once; :func:`diou_nms_padded` does not.

    Args:
        boxes: ``[N, 4]`` x1, y1, x2, y2; any floating dtype. The arithmetic is in fp32 (fp64 where boxes or
            scores are fp64).
        scores: ``[N]``, any floating dtype.
        diou_threshold: in [0, 1]; compared as in :func:`nms`.
        idxs: ``[N]`` class of each box, as in :func:`batched_nms`; None: one class.
        max_output: the best so many; None: all.
        inclusive: remove at ``>=`` the threshold, not ``>``.
        iou_eps, pixel_offset: of the IoU, as in :func:`nms`.

    Returns:
        int64 ``[kept]``, scores descending, equal scores by index, NaN first.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; an input that requires a gradient.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0], [1.0, 0.0, 5.0, 1.0], [0.0, 0.0, 4.0, 1.0]])
        >>> scores = torch.tensor([0.9, 0.8, 0.7])  # the IoU of the first two is 0.6
        >>> ops.nms(boxes, scores, 0.58), ops.diou_nms(boxes, scores, 0.58)
        (tensor([0]), tensor([0, 1]))
    """
    rule = (diou_threshold, inclusive, iou_eps, pixel_offset)
    return filled_rows(*_call("diou_nms", boxes, scores, idxs, max_output, rule))[0]


def diou_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    diou_threshold: float,
    *,
    max_output: int | None = None,
    idxs: Tensor | None = None,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """:func:`diou_nms` in a fixed size: no wait for the device.

    Args:
        max_output: rows of the result; None: N.
        boxes, scores, diou_threshold, idxs, inclusive, iou_eps, pixel_offset: as in :func:`diou_nms`.

    Returns:
        ``keep`` int64 ``[max_output]``, -1 after the kept indices, and ``count`` int64 ``[]``, their number.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; an input that requires a gradient.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0], [0.0, 0.0, 4.0, 1.0]])
        >>> ops.diou_nms_padded(boxes, torch.tensor([0.9, 0.8]), 0.5)
        (tensor([ 0, -1]), tensor(1))
    """
    rule = (diou_threshold, inclusive, iou_eps, pixel_offset)
    keep, _, count = _call("diou_nms_padded", boxes, scores, idxs, max_output, rule)
    return keep, count


def _call(op, boxes, scores, idxs, max_output, rule):
    threshold, inclusive, iou_eps, pixel_offset = rule
    threshold = to_number(threshold)
    check_range("diou_threshold", threshold, 0.0, 1.0)
    idxs, _ = check_scored_boxes(boxes, scores, idxs, 0.0, inclusive, iou_eps, pixel_offset, op)
    boxes, scores = same_arithmetic(boxes, scores)
    return torch.ops.ssd_cuda.diou_nms(
        boxes,
        scores,
        idxs,
        iou_threshold=float(threshold),
        inclusive=inclusive,
        iou_eps=iou_eps,
        pixel_offset=pixel_offset,
        max_output=check_max_output(max_output, boxes.shape[0]),
    )


register_fake("diou_nms")(empty_rows)
