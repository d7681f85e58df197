"""Hard negatives as eager code picks them: the codebases' two sorts; torch.topk with one k for all rows."""

from __future__ import annotations

import torch
from torch import Tensor


def two_sorts(keys: Tensor, positive: Tensor, ratio: float = 3.0) -> Tensor:
    """keys: [B, P], positive: [B, P] bool -> bool [B, P]: the rank of a row is the sort of its order.

    ``stable=True`` in the first sort is ours: equal keys then have one order, the lowest index first.
    """
    filled = keys.masked_fill(positive, -torch.inf)
    rank = filled.sort(dim=1, descending=True, stable=True)[1].sort(dim=1)[1]
    k = (positive.sum(1) * ratio).long().clamp(max=keys.shape[1])
    return (rank < k[:, None]) & ~positive


def top_k(keys: Tensor, positive: Tensor, k: int) -> Tensor:
    """The same with one k for every row; which of equal keys it takes, torch does not say."""
    filled = keys.masked_fill(positive, -torch.inf)
    return torch.zeros_like(positive).scatter_(1, filled.topk(k, 1)[1], True)
