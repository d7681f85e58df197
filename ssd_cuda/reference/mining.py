"""Selection per row in plain PyTorch: a different k in every row, one documented order.

The order is (key descending, index ascending). NaN is larger than +inf and equal to another NaN; -0 and
+0 are equal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _order(keys: Tensor) -> Tensor:
    """[B, P] -> [B, P] indices in the order of the selection."""
    keys = torch.where(
        keys.isnan(), math.nan, keys + 0.0
    )  # -0 + 0 is +0; CUDA sorts a NaN with a sign (inf - inf) last
    return torch.sort(keys, dim=1, descending=True, stable=True).indices


def top_k_per_row(keys: Tensor, k: Tensor) -> Tensor:
    """keys: [B, P], k: [B] integer -> bool [B, P], the first min(k, P) of each row in the order."""
    rank = torch.empty_like(keys, dtype=torch.int64)
    positions = torch.arange(keys.shape[1], device=keys.device).expand_as(rank)
    rank.scatter_(1, _order(keys), positions)
    return rank < k[:, None]


def threshold_per_row(keys: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same selection without a mask: (threshold [B], tie_index [B], count [B], sum [B]).

    With the order above, selected = key > threshold or (key == threshold and index <= tie_index). The
    threshold is the last selected key and tie_index its index; count = min(k, P); sum adds the selected
    keys. A row with k <= 0 (or P = 0) selects nothing: +inf, -1, 0, 0. threshold has the dtype of keys, sum
    is float32 (float64 for float64 keys), tie_index and count are int64.
    """
    batch, width = keys.shape
    wide = torch.float64 if keys.dtype == torch.float64 else torch.float32
    count = k.long().clamp(0, width)
    threshold = keys.new_full((batch,), math.inf)
    tie_index = torch.full_like(count, -1)
    total = torch.zeros(batch, dtype=wide, device=keys.device)
    order = _order(keys)
    for b, n in enumerate(count.tolist()):
        if n > 0:
            tie_index[b] = order[b, n - 1]
            threshold[b] = keys[b, tie_index[b]]
            total[b] = keys[b, order[b, :n]].double().sum().to(wide)
    return threshold, tie_index, count, total


def num_hard_negatives(
    num_positives: Tensor,
    num_candidates: Tensor,
    width: int,
    *,
    ratio: float,
    rounding: str,
    min_negatives: int,
    cap: str,
) -> Tensor:
    """k of each row. num_positives, num_candidates: [B] integer -> [B] int64.

    ``ratio * n`` is one float32 product, as torch multiplies an integer tensor by a Python number. An
    infinite ratio asks for every row of an image that has a positive.
    """
    wanted = torch.where(num_positives > 0, num_positives.float() * ratio, 0).clamp(max=width)
    k = (wanted.ceil() if rounding == "ceil" else wanted.floor()).long().clamp(min=int(min_negatives))
    if cap == "negatives":
        return torch.minimum(k, num_candidates)
    return k.clamp(max=width if cap == "all" else max(width - 1, 0))


def select_hard_negatives(
    keys: Tensor,
    positive: Tensor,
    *,
    candidates: Tensor | None = None,
    ratio: float = 3.0,
    rounding: str = "floor",
    min_negatives: int = 0,
    cap: str = "negatives",
    positive_fill: str = "-inf",
    scope: str = "image",
) -> Tensor:
    """keys: [B, P] float, positive: [B, P] bool -> bool [B, P], the k hardest rows of each image.

    candidates: [B, P] bool, the negatives that may be selected; None: all that are not positive. A positive
    takes part in the order with the key 0 or -inf (``positive_fill``), so with a cap above the
    number of candidates it may be selected: the codebases then take the union with the positives, or
    count it twice. A row that is neither positive nor candidate is never selected. scope: ``"batch"`` ranks
    the rows of all images together, as those of one image.
    """
    if scope == "batch" and len(keys) != 1:
        mask = select_hard_negatives(
            keys.reshape(1, -1),
            positive.reshape(1, -1),
            candidates=None if candidates is None else candidates.reshape(1, -1),
            ratio=ratio,
            rounding=rounding,
            min_negatives=min_negatives,
            cap=cap,
            positive_fill=positive_fill,
        )
        return mask.view_as(positive)
    candidates = ~positive if candidates is None else candidates & ~positive
    k = num_hard_negatives(
        positive.sum(1),
        candidates.sum(1),
        keys.shape[1],
        ratio=ratio,
        rounding=rounding,
        min_negatives=min_negatives,
        cap=cap,
    )
    filled = torch.where(positive, 0.0 if positive_fill == "zero" else -math.inf, keys)
    takes_part = positive | candidates
    # The excluded rows go behind all others, even behind -inf: sort them apart.
    order = _order(filled)
    present = takes_part.gather(1, order)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, present.cumsum(1) - 1)
    return takes_part & (rank < k[:, None])
