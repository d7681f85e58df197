"""Matching in plain PyTorch: which ground truth each prior of each image belongs to.

The rules, once, for every implementation:

* IoU in the dtype of the boxes (float32 or float64), torchvision's order of operations, no contraction;
  where boxes and priors differ torch promotes: areas and corners are in the dtype of each, what comes
  after is float64. Thresholds are rounded to the dtype of the IoU, as torch compares with a number. A NaN IoU
  is larger than every number and equal to another NaN, as in ``torch.max``.
* A prior takes its best ground truth (ties: lowest index) if that IoU reaches ``iou_threshold``:
  ``not iou < threshold`` when inclusive, ``iou > threshold`` when not. So a NaN IoU matches an
  inclusive threshold (torchvision, amdegroot) and no strict one.
* ``forced="argmax"``: every ground truth then takes its best prior (ties: lowest index) whatever it was
  matched to, in the order of the ground truths: of several that claim one prior the last has it. A
  ground truth that overlaps nothing has prior 0 as its best. With ``forced_min_iou > 0`` only ground
  truths whose best IoU is ``>=`` it are forced.
* ``forced="bipartite"``: the largest IoU among the free priors and free ground truths makes a pair (ties:
  lowest prior, then lowest ground truth); repeat until no pair has an IoU ``> forced_min_iou``.
  The threshold then applies to the priors that are still free. A NaN IoU makes no pair.
* ``tie="last"``: highest prior and highest ground truth wherever the above says lowest.
* ``degenerate="ignore"``: a ground truth that is not finite or has no positive width and height overlaps
  nothing and is never forced, and a NaN IoU (from a bad prior) is below every number and threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .boxes import box_iou, to_xyxy

BACKGROUND = -1
IGNORED = -2


def is_valid(boxes: Tensor) -> Tensor:
    """[..., 4] x1, y1, x2, y2 -> [...]: finite, with positive width and height."""
    return boxes.isfinite().all(-1) & (boxes[..., 2:] > boxes[..., :2]).all(-1)


def _argmax(values: Tensor, dim: int, tie: str) -> tuple[Tensor, Tensor]:
    """Largest value and its index; NaN is largest; ties go to the first or the last index."""
    if tie == "first":
        return torch.max(values, dim)
    best, index = torch.max(values.flip(dim), dim)
    return best, values.shape[dim] - 1 - index


def _force_argmax(
    code: Tensor, iou: Tensor, eligible: Tensor, tie: str, min_iou: float, relabel: bool
) -> Tensor:
    """code: [P] int64, iou: [G, P], eligible: [G] -> code with the best prior of each ground truth."""
    best, prior = _argmax(iou, 1, tie)
    forced = eligible & (best >= min_iou) if min_iou > 0 else eligible
    truth = torch.arange(len(iou), device=iou.device)

    def last_claim(claims: Tensor) -> Tensor:
        none = torch.full_like(code, BACKGROUND)
        return none.scatter_reduce(0, prior[claims], truth[claims], "amax")

    claim = last_claim(forced)
    code = torch.where(claim >= 0, claim, code)
    if relabel:  # those that are not forced still rename a prior that is matched anyway
        claim = last_claim(eligible)
        code = torch.where((claim >= 0) & (code >= 0), claim, code)
    return code


def _force_bipartite(code: Tensor, iou: Tensor, tie: str, min_iou: float) -> Tensor:
    """Greedy global assignment: one pair a round, the best of those left."""
    left = iou.T.nan_to_num(nan=-1.0).clone()  # [P, G]: a flat arg-max is lowest prior, then lowest truth
    code = code.clone()
    for _ in range(min(left.shape)):
        best, index = _argmax(left.flatten(), 0, tie)
        if not best > min_iou:
            break
        prior, truth = divmod(int(index), left.shape[1])
        code[prior] = truth
        left[prior] = -1
        left[:, truth] = -1
    return code


def match(
    boxes: Tensor,
    offsets: Tensor,
    priors: Tensor,
    *,
    iou_threshold: float = 0.5,
    inclusive: bool = True,
    iou_eps: float = 0.0,
    forced: str = "argmax",
    forced_min_iou: float = 0.0,
    relabel_unforced: bool = False,
    tie: str = "first",
    candidate_max_iou: float | None = None,
    degenerate: str = "ignore",
    prior_format: str = "cxcywh",
) -> Tensor:
    """boxes: [G, 4] x1, y1, x2, y2; offsets: [B + 1]; priors: [P, 4] or [B, P, 4] -> codes [B, P] int32.

    A code is the index of a ground truth within its image, ``BACKGROUND`` (-1), or ``IGNORED`` (-2): no
    match, and no candidate for mining. The options are those of ``MatchConfig``.
    """
    rows = offsets.tolist()
    batch, num_priors = len(rows) - 1, priors.shape[-2]
    codes = torch.full((batch, num_priors), BACKGROUND, dtype=torch.int64, device=boxes.device)
    corners = to_xyxy(priors) if prior_format == "cxcywh" else priors
    for b in range(batch):
        truth = boxes[rows[b] : rows[b + 1]]
        if len(truth) == 0 or num_priors == 0:
            continue
        iou = box_iou(truth, corners[b] if priors.dim() == 3 else corners, iou_eps)  # [G, P]
        eligible = torch.ones_like(truth[:, 0], dtype=torch.bool)
        if degenerate == "ignore":
            eligible = is_valid(truth)
            iou = torch.where(eligible[:, None] & ~iou.isnan(), iou, -1.0)
        best, owner = _argmax(iou, 0, tie)
        matched = (~(best < iou_threshold) if inclusive else best > iou_threshold) & eligible[owner]
        code = torch.where(matched, owner, BACKGROUND)
        if forced == "argmax":
            code = _force_argmax(code, iou, eligible, tie, forced_min_iou, relabel_unforced)
        elif forced == "bipartite":
            pairs = _force_bipartite(torch.full_like(code, BACKGROUND), iou, tie, forced_min_iou)
            code = torch.where(pairs >= 0, pairs, code)
        if candidate_max_iou is not None:
            code = torch.where((code < 0) & ~(best < candidate_max_iou), IGNORED, code)
        codes[b] = code
    return codes.int()
