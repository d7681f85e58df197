"""The signature of OpenVINO's NonMaxSuppression-9, for code that was written around that operation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import ops
from ..config import check_choice, check_flag
from ..ops._checks import check_tensor
from ._rules import to_float32, to_whole
from .onnx import corners

__all__ = ["non_max_suppression"]


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: int | Tensor = 0,
    iou_threshold: float | Tensor = 0.0,
    score_threshold: float | Tensor = 0.0,
    soft_nms_sigma: float | Tensor = 0.0,
    *,
    box_encoding: Literal["corner", "center"] = "corner",
    sort_result_descending: bool = True,
    output_type: Literal["i64", "i32"] = "i64",
) -> tuple[Tensor, Tensor, Tensor]:
    """What OpenVINO's ``NonMaxSuppression-9`` selects, in the order of its CPU plugin.

    Args:
        boxes: float32 ``[B, N, 4]``: ``"corner"`` y, x, y, x of two opposite corners in any order;
            ``"center"`` x, y, width, height.
        scores: float32 ``[B, C, N]``.
        max_output_boxes_per_class: at most so many of each image and class; 0, the default, selects nothing.
        iou_threshold: in [0, 1], taken as float32: a box goes whose IoU with a better one reaches it. Not
            used with ``soft_nms_sigma``.
        score_threshold: at least 0; only scores above it take part, and stay.
        soft_nms_sigma: 0: hard NMS; else scores decay by ``exp(-IoU^2 / (2 sigma))``.
        box_encoding: the format of boxes.
        sort_result_descending: order all that is selected by score, over images and classes; False: by image,
            class, then score.
        output_type: of the indices.

    Returns:
        ``selected_indices`` ``[selected, 3]``: image, class, box; ``selected_scores`` float32
        ``[selected, 3]``: image, class, score; ``valid_outputs`` ``[1]``, their number. Equal scores come by
        image, class, index. On CUDA it waits for the device: the size of the result depends on the data.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options.

    Example:
        >>> from ssd_cuda.compat.openvino import non_max_suppression
        >>> boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.1, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]]])
        >>> selected, _, count = non_max_suppression(boxes, torch.tensor([[[0.8, 0.9, 0.1]]]), 3, 0.5)
        >>> selected.tolist(), count.item()
        ([[0, 0, 1], [0, 0, 2]], 2)

    Source: the operation's page, and where they differ the CPU plugin of 2026.4: the page keeps a score that
    equals its threshold, and a box whose IoU does; the plugin keeps neither.
    """
    check_tensor("boxes", boxes, ("B", "N", 4), (torch.float32,))
    images, width = boxes.shape[:2]
    check_tensor("scores", scores, (images, "C", width), (torch.float32,))
    check_choice("box_encoding", box_encoding, ("corner", "center"))
    check_choice("output_type", output_type, ("i64", "i32"))
    check_flag("sort_result_descending", sort_result_descending)
    lists = images * scores.shape[1]
    most = to_whole("max_output_boxes_per_class", max_output_boxes_per_class)
    sigma = to_float32("soft_nms_sigma", soft_nms_sigma, 0.0)
    threshold = to_float32("score_threshold", score_threshold, 0.0)
    iou_threshold = to_float32("iou_threshold", iou_threshold)
    if most <= 0 or lists * width == 0:
        empty = boxes.new_empty(0, 3)
        return _result(empty.long(), empty, output_type)
    rows = corners(boxes, int(box_encoding == "center"))
    rows = rows[:, None].expand(images, scores.shape[1], width, 4).reshape(-1, 4)
    group = torch.arange(lists, device=boxes.device).repeat_interleave(width)
    if sigma > 0:
        keep, kept = ops.batched_soft_nms(
            rows, scores.flatten(), group, method="gaussian", sigma=2 * sigma, score_threshold=threshold
        )
    else:
        mask = scores.flatten(0, 1) > threshold
        found, counts = ops.nms_batch(
            rows.unflatten(0, (lists, width)),
            scores.flatten(0, 1),
            iou_threshold,
            mask=mask,
            inclusive=True,
        )
        of_list, place = (torch.arange(width, device=boxes.device) < counts[:, None]).nonzero(as_tuple=True)
        keep = of_list * width + found[of_list, place]
        kept = scores.flatten()[keep]
    keep, kept = _ordered(keep, kept, width, most, sort_result_descending)
    index = torch.stack([keep // width // scores.shape[1], keep // width % scores.shape[1], keep % width], 1)
    return _result(index, torch.cat([index[:, :2].float(), kept[:, None]], 1), output_type)


def _ordered(keep: Tensor, kept: Tensor, width: int, most: int, by_score: bool) -> tuple[Tensor, Tensor]:
    """At most ``most`` of each list of ``width`` boxes, its best; all by score, or list after list."""
    order = keep.sort().indices
    order = order[kept[order].sort(descending=True, stable=True).indices]
    order = order[(keep[order] // width).sort(stable=True).indices]  # list, score, index
    lists = keep[order] // width
    rank = torch.arange(len(order), device=keep.device) - torch.searchsorted(lists, lists)
    order = order[rank < most]
    if by_score:
        order = order[kept[order].sort(descending=True, stable=True).indices]
    return keep[order], kept[order]


def _result(index: Tensor, values: Tensor, output_type: str) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.int64 if output_type == "i64" else torch.int32
    return index.to(dtype), values, torch.full((1,), len(index), dtype=dtype, device=index.device)
