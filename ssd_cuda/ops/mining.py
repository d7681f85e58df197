"""Selection per row with a different k in every row: the hard negatives, and the k largest keys."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .._extension import register_fake, require
from ..config import MiningConfig
from ._checks import FLOATING, check_no_grad, check_tensor
from ._pytrees import register_named_tuple

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@register_named_tuple
class TopK(NamedTuple):
    """The k largest keys of every row, in the order (key descending, index ascending).

    Attributes:
        threshold: ``[B]`` the last selected key, in the dtype of the keys; +inf where nothing is selected.
        tie_index: int64 ``[B]`` its index; -1 where nothing is selected. Selected are the keys above the
            threshold, and those equal to it up to this index.
        count: int64 ``[B]`` ``min(max(k, 0), P)``.
        sum: ``[B]`` of the selected keys, added in double; float32, float64 for float64 keys.
        mask: bool ``[B, P]``.
    """

    threshold: Tensor
    tie_index: Tensor
    count: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    sum: Tensor
    mask: Tensor


def top_k_threshold(keys: Tensor, k: Tensor) -> TopK:
    """The ``k[b]`` largest keys of every row b, exactly, without reading ``k`` on the host.

    NaN is larger than +inf and equal to every other NaN; -0 equals +0; equal keys go to the lowest index.

    Args:
        keys: ``[B, P]`` float32, float64, float16 or bfloat16, any values.
        k: integer ``[B]`` on the device of the keys; below 0 means 0, above P means P.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes or devices; keys that require a gradient.

    Example:
        >>> best = ops.top_k_threshold(torch.tensor([[0.5, 2.0, 1.0, 2.0]]), torch.tensor([2]))
        >>> best.mask, best.threshold, best.tie_index
        (tensor([[False,  True, False,  True]]), tensor([2.]), tensor([3]))
    """
    check_tensor("keys", keys, ("B", "P"), FLOATING)
    check_tensor("k", k, (keys.shape[0],), INTEGERS)
    check_no_grad("keys", keys, "top_k_threshold has no backward")
    require("top_k_threshold", keys, k)
    return TopK(*torch.ops.ssd_cuda.top_k_threshold(keys, k.long()))


def select_hard_negatives(
    keys: Tensor,
    positive: Tensor,
    ratio: float = 3.0,
    *,
    candidates: Tensor | None = None,
    rounding: Literal["floor", "ceil"] = "floor",
    min_negatives: int = 0,
    cap: Literal["all", "all_but_one", "negatives"] = "negatives",
    positive_fill: Literal["zero", "-inf"] = "-inf",
    scope: Literal["image", "batch"] = "image",
) -> Tensor:
    """The hardest rows of every image, or of the batch: the ``k`` largest keys, ties to the lowest index.

    ``k = max(min_negatives, round(ratio * positives))`` per image, cut at the number of rows that ``cap``
    names; see :class:`ssd_cuda.MiningConfig` for the options. With ``scope="batch"`` the images are ranked as
    one of ``B * P`` rows. Nothing is read on the host.

    Args:
        keys: ``[B, P]`` hardness, usually the cross entropy; any floating dtype and values, NaN is hardest.
        positive: bool ``[B, P]``.
        ratio: negatives per positive.
        candidates: bool ``[B, P]``, the negatives that may be selected; None: every row that is not positive.

    Returns:
        bool ``[B, P]``. A positive takes part with the key 0 or -inf (``positive_fill``), so where the cap
        exceeds the number of candidates it may be selected too: codebases then take the union with the
        positives, or count it twice.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options.

    Example:
        >>> keys = torch.tensor([[9.0, 0.5, 2.0, 1.0, 2.0, 0.1]])
        >>> positive = torch.tensor([[True, False, False, False, False, False]])
        >>> ops.select_hard_negatives(keys, positive, ratio=2.0)  # two hardest of the others
        tensor([[False, False,  True, False,  True, False]])
    """
    rule = MiningConfig(
        ratio=ratio,
        rounding=rounding,
        min_negatives=min_negatives,
        cap=cap,
        positive_fill=positive_fill,
        scope=scope,
    )
    check_tensor("keys", keys, ("B", "P"), FLOATING)
    check_tensor("positive", positive, tuple(keys.shape), (torch.bool,))
    if candidates is not None:
        check_tensor("candidates", candidates, tuple(keys.shape), (torch.bool,))
    keys = keys.detach()
    require("select_hard_negatives", keys, positive, candidates)
    return torch.ops.ssd_cuda.select_hard_negatives(keys, positive, candidates, **op_options(rule))


def op_options(config: MiningConfig) -> dict[str, Any]:
    """The options of ``torch.ops.ssd_cuda.select_hard_negatives``: the table of csrc/mining/mining_rule.h."""
    return {
        "ratio": float(config.ratio),
        "round_up": config.rounding == "ceil",
        "min_negatives": int(config.min_negatives),
        "cap": config.cap,
        "scope": config.scope,
        "zero_fill": config.positive_fill == "zero",
    }


@register_fake("top_k_threshold")
def _(keys, k):
    batch, width = keys.shape
    wide = torch.float64 if keys.dtype == torch.float64 else torch.float32
    return (
        keys.new_empty(batch),
        keys.new_empty(batch, dtype=torch.int64),
        keys.new_empty(batch, dtype=torch.int64),
        keys.new_empty(batch, dtype=wide),
        keys.new_empty(batch, width, dtype=torch.bool),
    )


@register_fake("select_hard_negatives")
def _(keys, positive, *_, **__):
    return torch.empty_like(positive, memory_format=torch.contiguous_format)
