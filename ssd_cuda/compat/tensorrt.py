"""The signature of TensorRT's plugin EfficientNMS_TRT, for code that was written around that plugin."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..config import check_choice, check_integer, check_range
from ..ops._checks import check_tensor
from ._rules import to_float32

__all__ = ["efficient_nms"]

_MOST_SCORES = 4096  # of an image that the plugin looks at


def efficient_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    max_output_boxes: int = 100,
    background_class: int = -1,
    score_activation: bool | int = False,
    class_agnostic: bool | int = False,
    box_coding: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the plugin finds in its standard mode: boxes that are decoded already.

    Of each image the 4,096 best scores that reach the threshold take part. Nothing waits for the device.

    Args:
        boxes: ``[B, N, 4]``, or ``[B, N, C, 4]`` for boxes of each class; float32 or float16.
        scores: ``[B, N, C]``, the same dtype.
        score_threshold: scores that reach it take part, as float32. With ``score_activation`` the logit is
            compared with that of the threshold.
        iou_threshold: in [0, 1], taken as float32: a box goes whose IoU with a better one reaches it.
        max_output_boxes: K, rows of an image.
        background_class: a column that takes no part; -1: none.
        score_activation: True: scores are logits, of which the results get the sigmoid.
        class_agnostic: one NMS over all classes.
        box_coding: 0: two opposite corners; 1: centre x, y, width, height.

    Returns:
        ``num_detections`` int32 ``[B, 1]``; ``detection_boxes`` ``[B, K, 4]``, corners as they were given;
        ``detection_scores`` ``[B, K]`` and ``detection_classes`` int32 ``[B, K]``, best first, equal scores
        by box, then class; zeros after them.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options.

    Example:
        >>> from ssd_cuda.compat.tensorrt import efficient_nms
        >>> boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.1, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]]])
        >>> scores = torch.tensor([[[0.8, 0.1], [0.9, 0.1], [0.1, 0.7]]])
        >>> count, _, best, classes = efficient_nms(boxes, scores, max_output_boxes=3)
        >>> count.item(), best.tolist()[0][:2], classes.tolist()
        (2, [0.8999999761581421, 0.699999988079071], [[0, 1, 0]])

    Source: the plugin's README and its kernels (efficientNMSPlugin of NVIDIA/TensorRT). The README speaks of
    an IoU above the threshold; the kernel removes one that equals it. Its order of equal scores is not fixed.
    """
    _check(boxes, scores, box_coding, background_class)
    check_range("score_threshold", score_threshold, -math.inf, finite=False)
    check_integer("max_output_boxes", max_output_boxes, 0)
    check_choice("score_activation", score_activation, (0, 1))
    check_choice("class_agnostic", class_agnostic, (0, 1))
    threshold = to_float32("iou_threshold", iou_threshold)
    images, _, classes = scores.shape
    if scores.numel() == 0 or max_output_boxes == 0:
        return _nothing(scores, max_output_boxes)
    values = scores.float()
    taken = values >= _least(score_threshold, bool(score_activation))
    if background_class >= 0:
        taken[..., background_class] = False
    index, found = _best(values.flatten(1), taken.flatten(1))
    place = torch.div(index, classes, rounding_mode="floor") if boxes.dim() == 3 else index
    rows = _gather(_corners(boxes.float(), box_coding).reshape(images, -1, 4), place)
    label = index % classes
    best = values.flatten(1).gather(1, index)
    low, high = torch.minimum(rows[..., :2], rows[..., 2:]), torch.maximum(rows[..., :2], rows[..., 2:])
    keep, counts = ops.nms_batch(
        torch.cat([low, high], -1),
        best,
        threshold,
        counts=found,
        idxs=None if class_agnostic else label,
        inclusive=True,
        max_output=max_output_boxes,
    )
    real, keep = keep >= 0, keep.clamp(min=0)
    kept = best.gather(1, keep)
    kept = torch.sigmoid(kept) if score_activation else kept
    return (
        counts.to(torch.int32)[:, None],
        torch.where(real[..., None], _gather(rows, keep), 0.0).to(boxes.dtype),
        torch.where(real, kept, 0.0).to(scores.dtype),
        torch.where(real, label.gather(1, keep), 0).to(torch.int32),
    )


def _nothing(scores: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = len(scores)
    return (
        scores.new_zeros(images, 1, dtype=torch.int32),
        scores.new_zeros(images, rows, 4),
        scores.new_zeros(images, rows),
        scores.new_zeros(images, rows, dtype=torch.int32),
    )


def _check(boxes: Tensor, scores: Tensor, box_coding: int, background_class: int) -> None:
    halves = (torch.float32, torch.float16)
    check_tensor("scores", scores, ("B", "N", "C"), halves)
    by_class = isinstance(boxes, Tensor) and boxes.dim() == 4
    shape = (*scores.shape[: 3 if by_class else 2], 4)
    check_tensor("boxes", boxes, shape, (scores.dtype,))
    if box_coding not in (0, 1):
        raise ValueError(f"box_coding must be 0 or 1, got {box_coding!r}")
    check_integer("background_class", background_class)
    if not -1 <= background_class < max(scores.shape[2], 1):
        raise ValueError(f"background_class must lie in [-1, {scores.shape[2]}), got {background_class}")


def _least(threshold: float, logits: bool) -> float:
    """What a score must reach, as float32."""
    if not logits:
        return float(np.float32(threshold))
    if threshold <= 0:
        return -math.inf
    return math.inf if threshold >= 1 else float(np.float32(math.log(threshold / (1 - threshold))))


def _best(values: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """values, taken: ``[B, M]`` -> the indices of the best that are taken ``[B, k]``, in index order, and
    their number ``[B]``."""
    images, count = values.shape
    k = min(_MOST_SCORES, count)
    lowest = torch.full_like(values, -math.inf)
    most = torch.full((images,), k, dtype=torch.int64, device=values.device)
    mask = ops.top_k_threshold(torch.where(taken, values, lowest), most).mask & taken
    place = torch.where(mask, mask.cumsum(1) - 1, k)
    index = torch.zeros(images, k + 1, dtype=torch.int64, device=values.device)
    index.scatter_(1, place, torch.arange(count, device=values.device).expand(images, count))
    return index[:, :k], mask.sum(1)


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """rows: ``[B, N, 4]``, index: ``[B, k]`` -> ``[B, k, 4]``."""
    return rows.gather(1, index[..., None].expand(-1, -1, 4))


def _corners(boxes: Tensor, box_coding: int) -> Tensor:
    if box_coding == 0:
        return boxes
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], -1)
