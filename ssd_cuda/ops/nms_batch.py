"""NMS of a padded batch of images: one call, no loop over images, no wait for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._extension import _has_op
from ._checks import FLOATING, check_tensor
from .nms import check_max_output, check_scored_boxes

_nms_padded: Any = torch.ops.ssd_cuda.nms_padded.default if _has_op("nms_padded") else None


def nms_batch(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    counts: Tensor | None = None,
    mask: Tensor | None = None,
    idxs: Tensor | None = None,
    max_output: int | None = None,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """:func:`nms` of every image of a padded batch, or with ``idxs`` :func:`batched_nms` of every image.

    All images go through one call of the kernels as groups that never meet, so the cost is that of one NMS
    over B * N boxes. Nothing waits for the device, and every shape follows from the shapes of the inputs.

    Args:
        boxes: ``[B, N, 4]`` x1, y1, x2, y2; any floating dtype. B * N is below 2**31 - 1.
        scores: ``[B, N]``, any floating dtype.
        iou_threshold, inclusive, iou_eps, pixel_offset: as in :func:`nms`.
        counts: int64 or int32 ``[B]``: the first so many boxes of an image are real; None: all.
        mask: bool ``[B, N]``, True where a box is real; instead of ``counts``.
        idxs: ``[B, N]`` class of each box, as in :func:`batched_nms`.
        max_output: rows of an image in the result, its best boxes; None: N.

    Returns:
        ``keep`` int64 ``[B, max_output]``, indices in [0, N) by (score descending, index ascending), -1 after
        them, and ``counts`` int64 ``[B]``, how many there are. What padding holds does not matter.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; both ``counts`` and ``mask``.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.1, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> scores = torch.tensor([[0.8, 0.9, 0.1], [0.8, 0.9, 0.1]])
        >>> ops.nms_batch(boxes.expand(2, 3, 4), scores, 0.5, counts=torch.tensor([3, 1]))
        (tensor([[ 1,  2, -1],
                [ 0, -1, -1]]), tensor([2, 1]))
    """
    check_tensor("boxes", boxes, ("B", "N", 4), FLOATING)
    images, width = boxes.shape[:2]
    check_tensor("scores", scores, (images, width), FLOATING)
    real = _real(counts, mask, boxes)
    flat = None if idxs is None else _flat(idxs, images, width)
    rule = (iou_threshold, inclusive, iou_eps, pixel_offset)
    flat, iou_threshold = check_scored_boxes(boxes.flatten(0, 1), scores.flatten(), flat, *rule, "nms_batch")
    rows = check_max_output(max_output, width)
    if images * width == 0:
        return boxes.new_full((images, rows), -1, dtype=torch.int64), boxes.new_zeros(
            images, dtype=torch.int64
        )
    image = torch.arange(images, device=boxes.device)[:, None].expand(images, width).flatten()
    groups = image if flat is None else _ranks(flat) * images + image
    if real is not None:
        real = real.flatten()
        groups = torch.where(real, groups, -1)
    keep, _ = _nms_padded(
        boxes.flatten(0, 1),
        scores.flatten(),
        groups,
        iou_threshold=iou_threshold,
        inclusive=inclusive,
        iou_eps=iou_eps,
        pixel_offset=pixel_offset,
        max_output=images * width,
    )
    return _by_image(keep, real, images, width, rows)


def _real(counts: Tensor | None, mask: Tensor | None, boxes: Tensor) -> Tensor | None:
    """``[B, N]``: which boxes are no padding; None: all."""
    images, width = boxes.shape[:2]
    if counts is not None and mask is not None:
        raise ValueError("counts must be None where there is a mask, got both")
    if mask is not None:
        check_tensor("mask", mask, (images, width), (torch.bool,))
        real = mask
    elif counts is not None:
        check_tensor("counts", counts, (images,), (torch.int64, torch.int32))
        real = torch.arange(width, device=counts.device) < counts[:, None]
    else:
        return None
    if real.device != boxes.device:
        name = "mask" if counts is None else "counts"
        raise ValueError(f"{name} must be on the device of boxes, {boxes.device}, got {real.device}")
    return real


def _flat(idxs: Tensor, images: int, width: int) -> Tensor:
    if not isinstance(idxs, Tensor):
        raise TypeError(f"idxs must be a tensor, got {type(idxs).__name__}")
    check_tensor("idxs", idxs, (images, width), (idxs.dtype,))
    return idxs.flatten()


def _ranks(classes: Tensor) -> Tensor:
    """Classes, any int64, as the ranks of their values: below N, so that an image fits beside them."""
    values, order = classes.sort()
    steps = torch.cat([values.new_zeros(1), (values[1:] != values[:-1]).long()])
    return torch.empty_like(order).scatter_(0, order, steps.cumsum(0))


def _by_image(keep: Tensor, real: Tensor | None, images: int, width: int, rows: int) -> tuple[Tensor, Tensor]:
    """keep: ``[B * N]`` of all images in score order, -1 after them -> ``[B, rows]``, ``[B]``."""
    found = keep >= 0
    box = keep.clamp(min=0)
    if real is not None:
        found = found & real[box]
    image, order = torch.where(found, box // width, images).sort(stable=True)
    starts = torch.searchsorted(image, torch.arange(images + 1, device=keep.device))
    counts = starts.diff().clamp(max=rows)
    row = torch.arange(rows, device=keep.device)
    place = (starts[:-1, None] + row).clamp(max=images * width - 1)
    return torch.where(row < counts[:, None], box[order[place]] % width, -1), counts
