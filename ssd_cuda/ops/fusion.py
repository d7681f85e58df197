"""Weighted boxes fusion: the boxes of several models, of a padded batch of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .._extension import register_fake, require
from ..config import check_choice, check_flag, check_range, to_number
from ..config.checks import is_positive
from ._checks import FLOATING, check_no_grad, check_tensor
from ._pytrees import register_named_tuple
from .nms import check_max_output

_CONFIDENCES = ("avg", "max", "box_and_model_avg", "absent_model_aware_avg")


@register_named_tuple
class FusedBoxes(NamedTuple):
    """What :func:`weighted_boxes_fusion` gives, padded to K rows an image.

    Rows are ordered by (score descending, first box of the cluster ascending). Past ``counts`` they hold
    zeros and label -1.

    Attributes:
        boxes: ``[B, K, 4]`` x1, y1, x2, y2.
        scores: ``[B, K]``.
        labels: ``[B, K]`` int64.
        counts: ``[B]`` int64, filled rows of each image.
        clusters: ``[B, M, N]`` int64, the row that each box went into; -1 for a box that took no part, or
            whose row is beyond K.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor
    clusters: Tensor


def weighted_boxes_fusion(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    *,
    weights: Sequence[float] | None = None,
    iou_thr: float = 0.55,
    skip_box_thr: float = 0.0,
    conf_type: Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"] = "avg",
    allows_overflow: bool = False,
    clip_size: Sequence[float] | None = (1.0, 1.0),
    counts: Tensor | None = None,
    mask: Tensor | None = None,
    max_output: int | None = None,
) -> FusedBoxes:
    """The boxes of M models fused into weighted means, by image and label (Solovyev et al. 2021).

    The rule, its names and its numbers are those of ``weighted_boxes_fusion`` of the package ensemble-boxes:
    boxes come by weighted score; each joins the cluster of its label whose fused box it overlaps most, if by
    more than ``iou_thr``, or begins one; a fused box is the mean of its boxes by weighted score. Equal scores
    go by index, where the package leaves the order to its sort. Nothing waits for the device.

    Args:
        boxes: ``[B, M, N, 4]`` x1, y1, x2, y2; any floating dtype. Corners that are the wrong way round are
            exchanged; a box without an area, or with a side that is not finite, takes no part.
        scores: ``[B, M, N]``. A nan takes no part.
        labels: int64 ``[B, M, N]``; None: one label.
        weights: M numbers, at least 0 and not all 0; None: 1 each.
        iou_thr: in [0, 1], compared as in :func:`nms`.
        skip_box_thr: boxes with a score below it (not times the weight) take no part.
        conf_type: the score of a fused box. ``"avg"``: the mean, times min(M, boxes) over the sum of the
            weights; ``"max"``: the highest, over the highest weight; ``"box_and_model_avg"``: the mean by
            weight, times the weight of the models that found it over that of all;
            ``"absent_model_aware_avg"``: the sum over the weights of the boxes and of the models that found
            none.
        allows_overflow: of ``"avg"``: do not cut the number of boxes at M.
        clip_size: (width, height) that boxes are clipped to; None: not.
        counts: int64 or int32 ``[B, M]``: the first so many boxes of a model are real; None: all.
        mask: bool ``[B, M, N]``, True where a box is real; instead of ``counts``.
        max_output: K, the best rows of an image; None: M * N.

    Returns:
        :class:`FusedBoxes`, float32 (float64 for float64 boxes or scores). It carries no gradient.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; both ``counts`` and ``mask``; an
            input that requires a gradient.

    Example:
        >>> boxes = torch.tensor([[[[0.0, 0.0, 0.4, 0.4]], [[0.0, 0.0, 0.5, 0.4]]]])  # one image, two models
        >>> fused = ops.weighted_boxes_fusion(boxes, torch.tensor([[[0.9], [0.3]]]))
        >>> fused.boxes[0, 0], fused.scores[0, 0], fused.clusters[0].tolist()
        (tensor([0.0000, 0.0000, 0.4250, 0.4000]), tensor(0.6000), [[0], [0]])
    """
    check_tensor("boxes", boxes, ("B", "M", "N", 4), FLOATING)
    images, models, each = boxes.shape[:3]
    check_tensor("scores", scores, (images, models, each), FLOATING)
    if labels is None:
        labels = torch.zeros((images, models, each), dtype=torch.int64, device=boxes.device)
    check_tensor("labels", labels, (images, models, each), (torch.int64,))
    for name, value in (("boxes", boxes), ("scores", scores)):
        check_no_grad(name, value, "weighted_boxes_fusion has no backward")
    real = _real(counts, mask, boxes)
    options = op_options(weights, models, iou_thr, skip_box_thr, conf_type, allows_overflow, clip_size)
    rows = check_max_output(max_output, models * each)
    require("weighted_boxes_fusion", boxes, scores, labels, real)
    wide = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    flat = [t.flatten(1, 2) for t in (boxes.to(wide), scores.to(wide), labels)]
    real = None if real is None else real.flatten(1, 2)
    fused, fused_scores, fused_labels, found, clusters = torch.ops.ssd_cuda.weighted_boxes_fusion(
        *flat, real, **options, max_output=rows
    )
    return FusedBoxes(fused, fused_scores, fused_labels, found, clusters.unflatten(1, (models, each)))


def op_options(
    weights: Sequence[float] | None,
    models: int,
    iou_thr: float,
    skip_box_thr: float,
    conf_type: str,
    allows_overflow: bool,
    clip_size: Sequence[float] | None,
) -> dict[str, Any]:
    """The options of ``torch.ops.ssd_cuda.weighted_boxes_fusion`` but ``max_output``: the table of
    csrc/fusion/fusion_rule.h."""
    if models < 1:
        raise ValueError("boxes must be of at least one model, got none")
    own = [1.0] * models if weights is None else _numbers("weights", weights)
    if len(own) != models:
        raise ValueError(f"weights must hold a number for each of the {models} models, got {len(own)}")
    for model, weight in enumerate(own):
        check_range(f"weights[{model}]", weight, 0.0)
    if sum(own) <= 0:
        raise ValueError("weights must not all be 0")
    check_range("iou_thr", iou_thr, 0.0, 1.0)
    check_range("skip_box_thr", skip_box_thr, -math.inf, finite=False)
    check_choice("conf_type", conf_type, _CONFIDENCES)
    check_flag("allows_overflow", allows_overflow)
    size = [0.0, 0.0] if clip_size is None else _numbers("clip_size", clip_size)
    if clip_size is not None and (len(size) != 2 or not all(map(is_positive, size))):
        raise ValueError(f"clip_size must be two positive numbers, got {clip_size}")
    return {
        "weights": [float(weight) for weight in own],
        "iou_thr": float(iou_thr),
        "skip_box_thr": float(skip_box_thr),
        "conf_type": conf_type,
        "allows_overflow": allows_overflow,
        "clip_size": [float(side) for side in size],
    }


def _numbers(name: str, values: Any) -> list[Any]:
    if not hasattr(values, "__len__") or (isinstance(values, Tensor) and values.dim() != 1):
        raise TypeError(f"{name} must be a list of numbers, got {type(values).__name__}")
    return [to_number(value) for value in values]


def _real(counts: Tensor | None, mask: Tensor | None, boxes: Tensor) -> Tensor | None:
    """``[B, M, N]``: which boxes are no padding; None: all."""
    if counts is not None and mask is not None:
        raise ValueError("counts must be None where there is a mask, got both")
    if mask is not None:
        check_tensor("mask", mask, tuple(boxes.shape[:3]), (torch.bool,))
        return mask
    if counts is None:
        return None
    check_tensor("counts", counts, tuple(boxes.shape[:2]), (torch.int64, torch.int32))
    return torch.arange(boxes.shape[2], device=counts.device) < counts[..., None]


@register_fake("weighted_boxes_fusion")
def _(boxes, scores, labels, real, *, max_output, **_):
    images, width, long = boxes.shape[0], boxes.shape[1], torch.int64
    return (
        boxes.new_empty(images, max_output, 4),
        boxes.new_empty(images, max_output),
        boxes.new_empty(images, max_output, dtype=long),
        boxes.new_empty(images, dtype=long),
        boxes.new_empty(images, width, dtype=long),
    )
