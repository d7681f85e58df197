"""Non-maximum suppression: one set of boxes, or per class, with or without a data-dependent size.

One rule on every device: boxes are taken in (score descending, index ascending) order, a NaN score first;
a box is removed if its IoU with a kept box is > ``iou_threshold``, where an fp32 IoU is compared with the
threshold as given, in double. That is torchvision's CPU kernel; its CUDA kernel rounds the threshold to
float32 first and so decides differently at an IoU of exactly float32(0.1), float32(0.3) and others.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .. import _extension
from .._extension import _has_op, register_fake, require
from ..config import check_flag, check_integer, check_range, to_number
from ._checks import FLOATING, check_tensor
from .ground_truth import readable

_FLOATING = frozenset(FLOATING)
_MOST_BOXES = 2**31 - 2  # the kernels number boxes with 32 bits
_CLASSES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, *FLOATING)
_nms: Any = torch.ops.ssd_cuda.nms.default if _has_op("nms") else None
_nms_padded: Any = torch.ops.ssd_cuda.nms_padded.default if _has_op("nms_padded") else None


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> Tensor:
    """Indices of the boxes that no better kept box overlaps by more than ``iou_threshold``.

    A drop-in for ``torchvision.ops.nms``. On CUDA it waits for the device once, because the size of its
    result depends on the data; :func:`nms_padded` does not. Memory is linear in N.

    Args:
        boxes: ``[N, 4]`` x1, y1, x2, y2; any floating dtype. IoU is computed in fp32 (fp64 for fp64).
        scores: ``[N]``, any floating dtype.
        iou_threshold: in [0, 1]; a Python or numpy number, or a tensor of no dimension, which is read.
        inclusive: remove at IoU ``>=`` the threshold (NVIDIA), not ``>``.
        iou_eps: added to the union (lufficc, qfgaohao: 1e-5).
        pixel_offset: 1.0 measures boxes as ``x2 - x1 + 1`` (RetinaFace).

    Returns:
        int64 ``[kept]``, scores descending, equal scores by index. A box with a NaN or infinite side, or
        without area, is kept and removes nothing.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.1, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> ops.nms(boxes, torch.tensor([0.8, 0.9, 0.1]), 0.5)
        tensor([1, 2])
    """
    _, iou_threshold = check_scored_boxes(
        boxes, scores, None, iou_threshold, inclusive, iou_eps, pixel_offset, "nms"
    )
    return _nms(
        boxes,
        scores,
        None,
        iou_threshold=iou_threshold,
        inclusive=inclusive,
        iou_eps=iou_eps,
        pixel_offset=pixel_offset,
    )


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    *,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> Tensor:
    """:func:`nms` of every class on its own: boxes of different ``idxs`` never remove one another.

    A drop-in for ``torchvision.ops.batched_nms``, without its coordinate offsets: the answer is that of
    separate calls in every dtype, for any coordinates. The cost does not grow with the number of classes.

    Args:
        idxs: ``[N]`` class of each box; any integers, bools or, as torchvision takes them, floats (in an
            ONNX graph whole numbers).
        boxes, scores, iou_threshold, inclusive, iou_eps, pixel_offset: as in :func:`nms`.

    Returns:
        int64 ``[kept]`` over all classes, scores descending, equal scores by index.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.1, 0.0, 2.0, 2.0]])
        >>> ops.batched_nms(boxes, torch.tensor([0.8, 0.9]), torch.tensor([0, 1]), 0.5)
        tensor([1, 0])
    """
    if idxs is None:
        if scores is None and isinstance(boxes, Tensor) and boxes.numel() == 0:
            return boxes.new_empty(0, dtype=torch.int64)  # torchvision looks no further either
        raise TypeError("idxs must be a tensor, got NoneType")
    classes, iou_threshold = check_scored_boxes(
        boxes, scores, idxs, iou_threshold, inclusive, iou_eps, pixel_offset, "batched_nms"
    )
    return _nms(
        boxes,
        scores,
        classes,
        iou_threshold=iou_threshold,
        inclusive=inclusive,
        iou_eps=iou_eps,
        pixel_offset=pixel_offset,
    )


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    max_output: int | None = None,
    idxs: Tensor | None = None,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """:func:`nms`, or with ``idxs`` :func:`batched_nms`, in a fixed size: no wait for the device.

    Args:
        max_output: rows of the result; None: N. The best ``max_output`` boxes are kept.
        boxes, scores, idxs, iou_threshold, inclusive, iou_eps, pixel_offset: as in :func:`batched_nms`.

    Returns:
        ``keep`` int64 ``[max_output]``, -1 after the kept indices, and ``count`` int64 ``[]``, their number.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.1, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> ops.nms_padded(boxes, torch.tensor([0.8, 0.9, 0.1]), 0.5)
        (tensor([ 1,  2, -1]), tensor(2))
    """
    idxs, iou_threshold = check_scored_boxes(
        boxes, scores, idxs, iou_threshold, inclusive, iou_eps, pixel_offset, "nms_padded"
    )
    max_output = check_max_output(max_output, boxes.shape[0])
    return _nms_padded(
        boxes,
        scores,
        idxs,
        iou_threshold=iou_threshold,
        inclusive=inclusive,
        iou_eps=iou_eps,
        pixel_offset=pixel_offset,
        max_output=max_output,
    )


def check_max_output(max_output: int | None, count: int) -> int:
    """Rows of a padded result: all ``count`` boxes where nobody says how many."""
    if max_output is None:
        return count
    if isinstance(max_output, torch.SymInt):  # of a program that is being exported
        return max_output
    if isinstance(max_output, bool) or not isinstance(max_output, Integral):
        raise TypeError(f"max_output must be an integer, got {type(max_output).__name__}")
    # A size that a traced program leaves open is a good number; what is compared with 2**63 is bound by it.
    if not (torch.compiler.is_compiling() and max_output >= 0):
        check_range("max_output", int(max_output), 0)
        check_integer("max_output", max_output)
    return int(max_output)


def _as_integers(classes: Tensor) -> Tensor:
    """int64, equal exactly where the classes are, which is all that a kernel asks. Floats are mostly whole
    numbers; others go by their bits, since 0.2 and 0.7 are two classes. An ONNX graph counts from the
    least class to the greatest: whole numbers there."""
    whole = classes.to(torch.int64)
    if not classes.is_floating_point() or torch.onnx.is_in_onnx_export():
        return whole
    if readable(classes) and torch.equal(whole.to(classes.dtype), classes):
        return whole
    return (classes.to(torch.float64) + 0.0).view(torch.int64)  # -0.0 is 0.0


def check_scored_boxes(
    boxes, scores, idxs, iou_threshold, inclusive, iou_eps, pixel_offset, op
) -> tuple[Tensor | None, float]:
    """Raise for anything the kernels do not take; returns idxs as int64 and the threshold as a float.

    The first condition is the whole check of a good call on the CPU, kept cheap: small sets are common.
    """
    if not (
        type(boxes) is Tensor
        and type(scores) is Tensor
        and boxes.layout is torch.strided
        and scores.layout is torch.strided
        and not boxes.is_nested
        and boxes.dtype in _FLOATING
        and scores.dtype in _FLOATING
        and boxes.dim() == 2
        and scores.dim() == 1
        and boxes.shape[1] == 4
        and boxes.shape[0] == scores.shape[0]
        and (torch.compiler.is_compiling() or boxes.shape[0] <= _MOST_BOXES)
        and boxes.is_cpu
        and scores.is_cpu
        and _nms is not None
        and not _extension._simd_problem
    ):
        check_tensor("boxes", boxes, ("N", 4), FLOATING)
        check_tensor("scores", scores, (boxes.shape[0],), FLOATING)
        if not torch.compiler.is_compiling() and boxes.shape[0] > _MOST_BOXES:
            raise ValueError(f"boxes must have at most 2**31 - 2 rows, got {boxes.shape[0]}")
        require(op, boxes, scores, idxs)
    if idxs is not None:
        check_tensor("idxs", idxs, (boxes.shape[0],), _CLASSES)
        if idxs.device != boxes.device:
            require(op, boxes, idxs)
        if idxs.dtype != torch.int64:
            idxs = _as_integers(idxs)
    if not isinstance(iou_threshold, float) or not 0 <= iou_threshold <= 1:
        iou_threshold = to_number(iou_threshold)
        check_range("iou_threshold", iou_threshold, 0.0, 1.0)
    if inclusive is not False:
        check_flag("inclusive", inclusive)
    if type(iou_eps) is not float or type(pixel_offset) is not float or iou_eps or pixel_offset:
        check_range("iou_eps", iou_eps, 0.0)
        check_range("pixel_offset", pixel_offset, 0.0)
    return idxs, iou_threshold


@register_fake("nms")
def _(boxes, scores, idxs, **_):
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count, dtype=torch.int64)


@register_fake("nms_padded")
def _(boxes, scores, idxs, *, max_output, **_):
    return boxes.new_empty(max_output, dtype=torch.int64), boxes.new_empty((), dtype=torch.int64)
