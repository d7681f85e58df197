"""The ops as graphs of standard ONNX operators: what ``torch.onnx.export`` puts in their place.

Each function takes the arguments of the op of its name (tensors are values of the graph, options are Python
values) and gives the values of its results. Shapes that the op fixes must be known: P, C and 4; the batch
may be anything. Everything is opset 18 without functions of its own, so that a runtime needs no extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._extras import require
from .greedy import check_matrix, greedy_by_matrix, greedy_by_operator, has_operator, needs_loop

__all__ = ["OPSET", "ONNXExportError", "box_decode", "detect", "nms"]

OPSET = 18
LOWEST = float(np.finfo(np.float32).min)
FLOAT, INT64, DOUBLE = 1, 7, 11  # onnx.TensorProto's numbers of element types


class ONNXExportError(ValueError):
    """What ONNX has no operator for, or a size that must be known; one sentence."""


def opset() -> Any:
    return require("onnxscript", "an ONNX export").opset18


def constant(values: Any, dtype: Any = np.float32) -> Any:
    """A constant of the graph."""
    ir = require("onnxscript", "an ONNX export").ir
    return opset().Constant(value=ir.tensor(np.asarray(values, dtype)))


def known(value: Any, axis: int, what: str) -> int:
    """The size of an axis, which has to be a number in the graph."""
    size = value.shape[axis] if value.shape is not None else None
    if not isinstance(size, int):
        raise ONNXExportError(f"{what} must have a fixed size in an ONNX graph, got {size}")
    return size


def _to_float(value: Any, what: str) -> Any:
    """float16 and bfloat16 become float32, as in the ops; float64 has no operator."""
    if value.dtype == DOUBLE:
        raise ONNXExportError(f"{what} must not be float64: ONNX's NonMaxSuppression takes float32 only")
    if value.dtype == FLOAT:
        return value
    cast = opset().Cast(value, to=FLOAT)
    cast.shape = value.shape  # which the operator does not tell of an open batch, and known() asks for
    return cast


def box_decode(
    loc, priors, variances=None, *, variance: Sequence[float], xyxy: bool, max_log: float, symmetric: bool
):  # fmt: skip
    """``ssd_cuda::box_decode``: centre-size offsets ``[..., P, 4]`` to corners, in its order of
    operations.
    """
    op = opset()
    parts = [op.Slice(priors, constant([k], np.int64), constant([k + 2], np.int64), constant([-1], np.int64))
             for k in (0, 2)]  # fmt: skip
    if xyxy:
        size = op.Sub(parts[1], parts[0])
        center = op.Add(parts[0], op.Mul(constant(0.5), size))
    else:
        center, size = parts
    scaled = op.Mul(loc, constant(variance) if variances is None else variances)
    shift, log = (
        op.Slice(scaled, constant([k], np.int64), constant([k + 2], np.int64), constant([-1], np.int64))
        for k in (0, 2)
    )
    if max_log < -LOWEST:
        log = op.Min(log, constant(max_log))
    if symmetric:
        log = op.Max(log, constant(-max_log))
    middle = op.Add(center, op.Mul(shift, size))
    half = op.Mul(constant(0.5), op.Mul(size, op.Exp(log)))
    return op.Concat(op.Sub(middle, half), op.Add(middle, half), axis=-1)


def nms(
    boxes, scores, idxs=None, *, iou_threshold: float, inclusive: bool, iou_eps: float, pixel_offset: float
):  # fmt: skip
    """``ssd_cuda::nms``: the kept indices, best first; their number depends on the data.

    With ``idxs`` the classes are those of NonMaxSuppression, in which a box of another class has no score.
    """
    op = opset()
    boxes, scores = _to_float(boxes, "boxes"), _to_float(scores, "scores")
    if not has_operator(inclusive, iou_eps, iou_threshold):
        raise ONNXExportError(
            f"ops.nms must be without iou_eps in an ONNX graph, where its number of boxes is not known, "
            f"got {iou_eps}; ops.detect takes it"
        )
    first, none = constant([0], np.int64), constant(LOWEST)
    columns = op.Unsqueeze(scores, first)
    if idxs is not None:
        low, high = op.ReduceMin(idxs, keepdims=0), op.ReduceMax(idxs, keepdims=0)
        classes = op.Range(low, op.Add(high, constant(1, np.int64)), constant(1, np.int64))
        own = op.Equal(op.Unsqueeze(classes, constant([1], np.int64)), op.Unsqueeze(idxs, first))
        columns = op.Where(own, columns, none)
    rows = op.Unsqueeze(_moved(boxes, pixel_offset), first)
    floor = None if idxs is None else LOWEST
    chosen = greedy_by_operator(
        rows, op.Unsqueeze(columns, first), floor, 2**31 - 1, iou_threshold, inclusive
    )
    chosen = op.Slice(chosen, *(constant([v], np.int64) for v in (2, 3, 1)))
    if idxs is None:
        return op.Squeeze(chosen, constant([1], np.int64))
    left = op.ScatterND(op.Expand(none, op.Shape(scores)), chosen, op.GatherND(scores, chosen))
    return op.TopK(left, op.Shape(chosen, start=0, end=1), axis=-1)[1]


def _moved(boxes: Any, pixel_offset: float) -> Any:
    """Boxes whose x2 - x1 is the x2 - x1 + 1 of the rule; only for measuring."""
    return opset().Add(boxes, constant([0, 0, pixel_offset, pixel_offset])) if pixel_offset else boxes


def _class_scores(conf: Any, scores: str, first: int, last: int) -> Any:
    """``[B, P, C]`` -> ``[B, L, P]``, the foreground columns as probabilities."""
    op = opset()
    if scores == "softmax":
        conf = op.Softmax(conf, axis=-1)
    elif scores == "sigmoid":
        conf = op.Sigmoid(conf)
    columns = op.Slice(conf, *(constant([v], np.int64) for v in (first, last, 2, 1)))
    return op.Transpose(columns, perm=[0, 2, 1])


def _clip(boxes: Any, clip_size: Sequence[float], clip_sizes: Any) -> Any:
    op = opset()
    if clip_sizes is None:
        limit = constant([*clip_size, *clip_size])
    else:
        sizes = _to_float(clip_sizes, "clip_sizes")
        limit = op.Unsqueeze(op.Concat(sizes, sizes, axis=-1), constant([1], np.int64))
    return op.Min(op.Max(boxes, constant(0.0)), limit)


def _rows_of(values: Any, indices: Any) -> Any:
    """values: [B, N, ...], indices: [B, K] -> [B, K, ...]."""
    op = opset()
    return op.GatherND(values, op.Unsqueeze(indices, constant([-1], np.int64)), batch_dims=1)


def detect(
    loc, conf, priors, clip_sizes=None, *, scores: str, score_threshold: Sequence[float], top_k: int,
    iou_threshold: Sequence[float], inclusive: bool, iou_eps: float, pixel_offset: float,
    soft_sigma: float, soft_linear: bool, class_agnostic: bool,
    first_label: int, last_label: int, rows: int, variance: Sequence[float], xyxy: bool, max_log: float,
    symmetric: bool, clip: str, clip_size: Sequence[float], channels_first: bool,
):  # fmt: skip
    """``ssd_cuda::detect``: scores, top-k of each class, decoding, clipping, NMS, the best rows of each
    image.

    A list (a class of an image, or an image when class-agnostic) has K candidates, best first; NMS sees
    the lists of the whole batch as images of one class, so that it looks at candidates only. TopK puts the
    lower index first among equal scores, which is the order of the op: label, then prior.
    """
    op = opset()
    if soft_sigma:
        found = "linear" if soft_linear else "gaussian"
        raise ONNXExportError(f"soft_nms must be None: ONNX has no operator for soft-NMS, got {found!r}")
    loc, conf, priors = (_to_float(v, n) for v, n in ((loc, "loc"), (conf, "conf"), (priors, "priors")))
    known(conf, 1 if channels_first else 2, "conf")  # or the labels are a value of the graph
    if channels_first:
        loc, conf = op.Transpose(loc, perm=[0, 2, 1]), op.Transpose(conf, perm=[0, 2, 1])
    num_priors, labels = known(priors, -2, "priors"), max(0, last_label - first_label)
    if num_priors * labels == 0:
        raise ONNXExportError(f"conf must have a prior and a class, got {num_priors} and {labels}")
    boxes = box_decode(loc, priors, variance=variance, xyxy=xyxy, max_log=max_log, symmetric=symmetric)
    if clip == "before":
        boxes = _clip(boxes, clip_size, clip_sizes)
    lists, length = (1, labels * num_priors) if class_agnostic else (labels, num_priors)
    kept = min(top_k, length)
    columns = _class_scores(conf, scores, first_label, last_label)
    lowest, limits = _limits(score_threshold, first_label, last_label)
    passing = op.Where(op.Greater(columns, constant(limits)), columns, constant(LOWEST))
    passing = op.Reshape(passing, constant([0, lists, length], np.int64))
    best, place = op.TopK(passing, constant([kept], np.int64), axis=-1)
    place = op.Reshape(place, constant([0, lists * kept], np.int64))
    prior = op.Mod(place, constant(num_priors, np.int64)) if class_agnostic else place
    label = op.Div(place if class_agnostic else op.Range(*(constant(v, np.int64) for v in (0, lists * kept,
                   1))), constant(num_priors if class_agnostic else kept, np.int64))  # fmt: skip
    candidates = _rows_of(boxes, prior)
    grid = op.Reshape(candidates, constant([-1, kept, 4], np.int64))
    values = op.Reshape(best, constant([-1, kept], np.int64))
    grid = _moved(grid, pixel_offset)
    if not needs_loop(inclusive, iou_eps, iou_threshold):
        left = _kept_by_operator(grid, values, lowest, kept, iou_threshold[0], inclusive)
    else:
        own = iou_threshold if len(iou_threshold) == 1 else iou_threshold[first_label:last_label]
        check_matrix(lists, kept, ONNXExportError)
        left = greedy_by_matrix(grid, values, lowest, kept, own, inclusive, iou_eps)
    left = op.Reshape(left, constant([-1, lists * kept], np.int64))
    if not class_agnostic:
        label = op.Expand(label, op.Shape(place))
    if clip == "after":
        candidates = _clip(candidates, clip_size, clip_sizes)
    return _best(left, candidates, op.Add(label, constant(first_label, np.int64)), prior, lists * kept, rows)


def _limits(thresholds: Sequence[float], first: int, last: int) -> tuple[float, Any]:
    """The least score threshold of the foreground, and all of them as ``[L, 1]`` (or the one they share)."""
    if len(thresholds) == 1:
        return thresholds[0], thresholds[0]
    own = thresholds[first:last]
    return min(own), [[threshold] for threshold in own]


def _kept_by_operator(grid, values, score_threshold, kept, iou_threshold, inclusive) -> Any:
    """[N, K, 4], [N, K] -> [N, K]: the score of a kept candidate, the lowest number of any other."""
    op = opset()
    columns = op.Unsqueeze(values, constant([1], np.int64))
    chosen = greedy_by_operator(grid, columns, score_threshold, kept, iou_threshold, inclusive)
    chosen = op.Gather(chosen, constant([0, 2], np.int64), axis=1)
    ground = op.Expand(constant(LOWEST), op.Shape(values))
    return op.ScatterND(ground, chosen, op.GatherND(values, chosen))


def _best(left, candidates, label, prior, count: int, rows: int) -> tuple[Any, Any, Any, Any, Any]:
    """The first ``rows`` of each image by (score descending, place ascending), padded."""
    op = opset()
    score, place = op.TopK(left, constant([min(rows, count)], np.int64), axis=-1)
    valid = op.Greater(score, constant(LOWEST))
    counts = op.ReduceSum(op.Cast(valid, to=INT64), constant([1], np.int64), keepdims=0)
    corner = op.Unsqueeze(valid, constant([-1], np.int64))
    results = [
        op.Where(corner, _rows_of(candidates, place), constant(0.0)),
        op.Where(valid, score, constant(0.0)),
        op.Where(valid, _rows_of(label, place), constant(-1, np.int64)),
        op.Where(valid, _rows_of(prior, place), constant(-1, np.int64)),
    ]
    if rows > count:
        for k, filling in enumerate((constant(0.0), constant(0.0), *[constant(-1, np.int64)] * 2)):
            ends = [0, rows - count, 0] if k == 0 else [0, rows - count]
            pads = constant([0] * len(ends) + ends, np.int64)
            results[k] = op.Pad(results[k], pads, filling)
    boxes, scores, labels, indices = results
    return boxes, scores, labels, indices, counts
