"""Greedy NMS in an ONNX graph: by NonMaxSuppression, or by plain operators where its rule is another.

NonMaxSuppression removes at IoU > threshold, in float32, of boxes measured as x2 - x1. ``>=`` t is ``>``
the number below t. For boxes that are measured as x2 - x1 + 1 the right and lower sides are moved by 1
first. An epsilon in the union, or a threshold a class, takes the matrix of all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._extras import require

__all__ = [
    "at_least",
    "check_matrix",
    "greedy_by_matrix",
    "greedy_by_operator",
    "has_operator",
    "just_above",
    "needs_loop",
]

_MOST_PAIRS = 1 << 28  # a gigabyte of float32


def has_operator(inclusive: bool, iou_eps: float, iou_threshold: float) -> bool:
    """Whether NonMaxSuppression has this rule; ``>= 0``, which boxes that do not touch fulfil, it has not."""
    return not (iou_eps or (inclusive and iou_threshold == 0))


def needs_loop(inclusive: bool, iou_eps: float, iou_threshold: float | Sequence[float]) -> bool:
    """Whether the graph of a detection decides by the matrix of pairs, round by round."""
    if isinstance(iou_threshold, Sequence):
        if len(iou_threshold) != 1:
            return True
        (iou_threshold,) = iou_threshold
    return not has_operator(inclusive, iou_eps, iou_threshold)


def check_matrix(lists: int, kept: int, error: type[Exception]) -> None:
    if lists * kept * kept > _MOST_PAIRS:
        raise error(
            f"top_k must be at most {math.isqrt(_MOST_PAIRS // lists)} where the rule asks for the "
            f"IoU of all pairs of {lists} lists in an ONNX graph, got {kept}"
        )


def _bound(threshold: float, inclusive: bool) -> np.float32:
    """The float32 t such that v > t is the rule, for every float32 v: see csrc/common/math/nms_math.h.

    numpy rounds a Python number before it compares it with a float32, hence ``float``.
    """
    rounded = np.float32(threshold)
    if inclusive:
        up = np.nextafter(rounded, np.float32(np.inf)) if float(rounded) < threshold else rounded
        return np.nextafter(up, np.float32(-np.inf))
    return np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > threshold else rounded


def at_least(threshold: float, inclusive: bool) -> float:
    """The float32 t such that IoU >= t is the rule, which EfficientNMS_TRT has."""
    return just_above(_bound(threshold, inclusive))


def just_above(threshold: float | np.float32) -> float:
    """The float32 t such that v >= t is v > ``threshold``, which is rounded first."""
    return float(np.nextafter(np.float32(threshold), np.float32(np.inf)))


def greedy_by_operator(
    boxes: Any, scores: Any, score_threshold: float | None, most: int, iou_threshold: float, inclusive: bool
) -> Any:
    """[N, K, 4] and [N, 1, K] -> [kept, 3]: list, 0, candidate."""
    from .onnx_ops import constant, opset

    last = () if score_threshold is None else (constant([score_threshold]),)
    limits = constant([most], np.int64), constant([_bound(iou_threshold, inclusive)])
    return opset().NonMaxSuppression(boxes, scores, *limits, *last)


def greedy_by_matrix(
    boxes: Any, scores: Any, score_threshold: float, kept: int, iou_threshold: Sequence[float],
    inclusive: bool, iou_eps: float,
) -> Any:  # fmt: skip
    """[N, K, 4] and [N, K], best first -> [N, K]: the score of a kept candidate, the lowest number of any
    other. iou_threshold: one, or L: list n has number n mod L.

    ``over[j, i]`` says that candidate j, better than i, would remove i. What is kept is the one set with
    ``kept(i) = valid(i) and no j: kept(j) and over[j, i]``. Starting from all, each round settles at least
    one more candidate from the front, so that the loop ends, mostly after a few rounds; its answer is the
    greedy one.
    """
    from .onnx_ops import LOWEST, constant, opset

    op = opset()
    bounds = np.array([_bound(threshold, inclusive) for threshold in iou_threshold], np.float32)
    over = _over(boxes, kept, bounds, iou_eps)
    valid = op.Cast(op.Greater(scores, constant(score_threshold)), to=1)
    left = _loop(constant(kept + 1, np.int64), constant(True, np.bool_), valid, _round(over, valid))
    return op.Where(op.Greater(left, constant(0.0)), scores, constant(LOWEST))


def _over(boxes: Any, kept: int, bounds: np.ndarray, iou_eps: float) -> Any:
    """[N, K, 4] -> [N, K, K] float, 1 where the first would remove the second; operations in the ops'
    order. bounds: [1] or [L].
    """
    from .onnx_ops import constant, opset

    op = opset()
    row, column = constant([1], np.int64), constant([2], np.int64)
    lengths, overlaps = [], []
    for low, high in ((0, 2), (1, 3)):
        start, end = (op.Gather(boxes, constant(k, np.int64), axis=2) for k in (low, high))
        lengths.append(op.Sub(end, start))
        corner = op.Max(op.Unsqueeze(start, column), op.Unsqueeze(start, row))
        other = op.Min(op.Unsqueeze(end, column), op.Unsqueeze(end, row))
        overlaps.append(op.Max(op.Sub(other, corner), constant(0.0)))
    area = op.Mul(*lengths)
    inter = op.Mul(*overlaps)
    union = op.Sub(op.Add(op.Unsqueeze(area, column), op.Unsqueeze(area, row)), inter)
    overlap = op.Div(inter, op.Add(union, constant(iou_eps)))
    by_class = op.Reshape(overlap, constant([-1, len(bounds), kept, kept], np.int64))
    passes = op.Greater(by_class, constant(bounds.reshape(-1, 1, 1)))
    passes = op.Reshape(passes, constant([-1, kept, kept], np.int64))
    later = constant(np.triu(np.ones((kept, kept)), 1), np.bool_)
    return op.Cast(op.And(passes, later), to=1)


def _loop(most: Any, going_on: Any, start: Any, body: Any) -> Any:
    """A Loop of one value; the recorder's own call cannot tell the types of values that vary in number."""
    script = require("onnxscript", "an ONNX export")
    inputs, options = [most, going_on, start], {"body": body}
    node = script.ir.node("Loop", inputs, options, version=18)
    node.outputs[0].type, node.outputs[0].shape = body.outputs[1].type, body.outputs[1].shape
    script.evaluator.default().nodes.append(node)
    return node.outputs[0]


def _round(over: Any, valid: Any) -> Any:
    """The body of the loop: (round, condition, kept) -> (whether anything changed, kept)."""
    ir = require("onnxscript", "an ONNX export").ir
    nodes: list[Any] = []

    def add(operator: str, *inputs: Any, **attributes: Any) -> Any:
        nodes.append(ir.node(operator, list(inputs), attributes or None))
        return nodes[-1].outputs[0]

    def number(values: Any, dtype: Any) -> Any:
        return add("Constant", value=ir.tensor(np.asarray(values, dtype)))

    def value(name: str, dtype: Any, rank: int) -> Any:
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([None] * rank))

    index, condition = value("round", ir.DataType.INT64, 0), value("going_on", ir.DataType.BOOL, 0)
    before = value("kept_before", ir.DataType.FLOAT, 2)
    axis, zero = number([1], np.int64), number(0, np.float32)
    removed = add("Squeeze", add("MatMul", add("Unsqueeze", before, axis), over), axis)
    after = add("Where", add("Greater", removed, zero), zero, valid)
    change = add("ReduceMax", add("Abs", add("Sub", after, before)), keepdims=0)
    changed = add("Greater", change, zero)
    changed.type, changed.shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([])
    after.type, after.shape = ir.TensorType(ir.DataType.FLOAT), before.shape
    return ir.Graph([index, condition, before], [changed, after], nodes=nodes, name="settle")
