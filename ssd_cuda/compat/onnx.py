"""The signature of ONNX's NonMaxSuppression (opset 11), for code that was written around that operator."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..ops._checks import check_tensor
from ._rules import to_float32, to_whole

__all__ = ["non_max_suppression"]


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: int | Tensor = 0,
    iou_threshold: float | Tensor = 0.0,
    score_threshold: float | Tensor | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """What onnxruntime's ``NonMaxSuppression`` selects, in its order.

    Args:
        boxes: float32 ``[B, N, 4]``: two opposite corners y, x, y, x in any order, or with
            ``center_point_box=1`` centre x, centre y, width, height.
        scores: float32 ``[B, C, N]``.
        max_output_boxes_per_class: at most so many of each image and class; 0, ONNX's default, selects
            nothing.
        iou_threshold: in [0, 1], taken as float32: a box goes whose IoU with a better one is above it.
        score_threshold: only scores above it take part; None: all.
        center_point_box: 0 or 1, the format of boxes.

    Returns:
        int64 ``[selected, 3]``: image, class, box; by image, class, then score descending, equal scores by
        index. On CUDA it waits for the device once: the size of the result depends on the data.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options.

    Example:
        >>> from ssd_cuda.compat.onnx import non_max_suppression
        >>> boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.1, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]]])
        >>> non_max_suppression(boxes, torch.tensor([[[0.8, 0.9, 0.1]]]), 3, 0.5)
        tensor([[0, 0, 1],
                [0, 0, 2]])

    Source: the operator's page in ONNX's list of operators; where it is silent (ties, boxes without area),
    onnxruntime's kernel for the CPU.
    """
    check_tensor("boxes", boxes, ("B", "N", 4), (torch.float32,))
    images, width = boxes.shape[:2]
    check_tensor("scores", scores, (images, "C", width), (torch.float32,))
    if center_point_box not in (0, 1):
        raise ValueError(f"center_point_box must be 0 or 1, got {center_point_box!r}")
    most = to_whole("max_output_boxes_per_class", max_output_boxes_per_class)
    threshold = to_float32("iou_threshold", iou_threshold)
    least = None if score_threshold is None else to_float32("score_threshold", score_threshold)
    classes = scores.shape[1]
    if most <= 0 or scores.numel() == 0:
        return scores.new_empty(0, 3, dtype=torch.int64)
    lists = corners(boxes, center_point_box)[:, None].expand(images, classes, width, 4).flatten(0, 1)
    rows = scores.flatten(0, 1)
    mask = None if least is None else rows > least
    keep, counts = ops.nms_batch(lists, rows, threshold, mask=mask, max_output=min(most, width))
    index = torch.arange(keep.shape[1], device=keep.device)
    of_list, place = (index < counts[:, None]).nonzero(as_tuple=True)
    image = torch.div(of_list, classes, rounding_mode="floor")
    return torch.stack([image, of_list % classes, keep[of_list, place]], 1)


def corners(boxes: Tensor, center_point_box: int) -> Tensor:
    """x1, y1, x2, y2 up to the order of x and y, which no IoU depends on."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center_point_box:
        return torch.cat([first - second / 2, first + second / 2], -1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)
