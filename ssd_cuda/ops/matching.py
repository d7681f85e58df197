"""Matching of ragged ground truth with priors: one int32 code per prior."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._extension import register_fake, require
from ..config import MatchConfig
from ._checks import FLOATING, check_no_grad, check_tensor, config_or
from .ground_truth import GroundTruth, check_offsets, readable

BACKGROUND = -1
IGNORED = -2

_MAX_PRIORS = 2**31 - 1
_DEFAULT = MatchConfig()
_warned_of_units = False


def match(
    gt: GroundTruth,
    priors: Tensor,
    iou_threshold: float | None = None,
    *,
    config: MatchConfig | None = None,
    **options: Any,
) -> Tensor:
    """Which ground truth each prior of each image belongs to. Nothing is read on the host.

    The options are those of :class:`~ssd_cuda.MatchConfig`; IoU is computed in float32 with
    separately rounded operations, so CPU, CUDA and torch agree on every tie; in float64 if boxes or priors
    are, with the areas, and the corners of priors, in their own dtype before they meet, as torch promotes.
    A NaN IoU counts as larger than every number, as in ``torch.max``, unless
    ``degenerate="ignore"``.

    Args:
        gt: ground truth of B images; images without any are all background.
        priors: ``[P, 4]``, or ``[B, P, 4]`` for priors of their own in every image (RefineDet); any
            floating dtype, in the units of ``gt.boxes`` and in ``prior_format``.
        iou_threshold: as in ``MatchConfig``, whose default is 0.5; overrides ``config``.
        config: the options in one; default ``MatchConfig()``.
        options: single fields of ``MatchConfig``, which override ``config``.

    Returns:
        ``[B, P]`` int32: the index of the ground truth within its image, ``BACKGROUND`` (-1), or
        ``IGNORED`` (-2) for an unmatched prior above ``candidate_max_iou``. On the CPU, where nothing is
        matched because every box lies outside of what the priors cover, it warns, once.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; priors that require a gradient.

    Example:
        >>> gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.5]])], [torch.tensor([3])])
        >>> priors = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.3, 0.35, 0.4, 0.4], [0.8, 0.8, 0.2, 0.2]])
        >>> ops.match(gt, priors)  # the first two overlap ground truth 0 enough, the third is background
        tensor([[ 0,  0, -1]], dtype=torch.int32)
    """
    rule = config_or(_DEFAULT, config)
    if iou_threshold is not None:
        options["iou_threshold"] = iou_threshold
    if options:
        rule = replace(rule, **options)
    if not isinstance(gt, GroundTruth):
        raise TypeError(f"gt must be a GroundTruth (see GroundTruth.from_list), got {type(gt).__name__}")
    batch = gt.batch_size
    if isinstance(priors, Tensor) and priors.dim() == 3:
        check_tensor("priors", priors, (batch, "P", 4), FLOATING)
    else:
        check_tensor("priors", priors, ("P", 4), FLOATING)
    check_no_grad("priors", priors, "matching is not differentiable")
    require("match", gt.boxes, gt.offsets, priors)
    wide = arithmetic_of(gt, priors)
    check_problem(gt, priors)
    codes = torch.ops.ssd_cuda.match(
        gt.boxes.detach().to(wide),
        gt.offsets,
        priors.to(wide),
        **op_options(rule, gt.boxes.dtype, priors.dtype),
    )
    warn_of_units(gt, priors, rule.prior_format, codes, level=3)
    return codes


def check_problem(gt: GroundTruth, priors: Tensor) -> None:
    """Raise where there are more priors than a code has numbers for, and for offsets that cut no images."""
    if not torch.compiler.is_compiling() and priors.shape[-2] > _MAX_PRIORS:
        raise ValueError(f"priors must have at most {_MAX_PRIORS} rows, got {priors.shape[-2]}")
    if readable(gt.offsets):
        check_offsets(gt)


def arithmetic_of(gt: GroundTruth, priors: Tensor) -> torch.dtype:
    """What they are matched in."""
    return torch.float64 if torch.float64 in (gt.boxes.dtype, priors.dtype) else torch.float32


def warn_of_units(gt: GroundTruth, priors: Tensor, prior_format: str, codes: Tensor, level: int) -> None:
    """Warn, once, where nothing is matched since no box lies within what the priors cover together: pixels
    and fractions, mostly. Not where that would wait for a device. level: of the caller whose line is told."""
    global _warned_of_units
    if not (readable(gt.offsets) and readable(codes)) or _warned_of_units:
        return
    if not codes.numel() or not len(gt.boxes):
        return
    if codes.amax() >= 0:
        return
    priors = priors.detach()
    boxes = gt.boxes.detach()[: int(gt.offsets[-1])]
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]  # one without area says nothing of its units
    if len(boxes) == 0:
        return
    first, second = priors.reshape(-1, 4).split(2, 1)
    low, high = (first, second) if prior_format == "xyxy" else (first - second / 2, first + second / 2)
    low, high = low.amin(0), high.amax(0)
    if ((boxes[:, :2] >= high) | (boxes[:, 2:] <= low)).any(1).all():
        _warned_of_units = True
        box, cover = ([round(v, 4) for v in rows.tolist()] for rows in (boxes[0], torch.cat([low, high])))
        warnings.warn(
            f"no ground truth overlaps any prior: the boxes, such as {box}, lie outside of all that the "
            f"priors cover, {cover}; boxes and priors must be in the same units, pixels or fractions of the "
            "image, and prior_format must be that of the priors",
            stacklevel=level,
        )


def op_options(
    config: MatchConfig, boxes: torch.dtype = torch.float32, priors: torch.dtype = torch.float32
) -> dict[str, Any]:
    """The options of ``torch.ops.ssd_cuda.match``: the table of csrc/matching/matching_rule.h."""
    wide = torch.float64 in (boxes, priors)
    return {
        "threshold": config.iou_threshold,
        "inclusive": config.inclusive,
        "eps": config.iou_eps,
        "forced": config.forced,
        "forced_min": config.forced_min_iou,
        "relabel_unforced": config.relabel_unforced,
        "tie_last": config.tie == "last",
        "candidate_max": -1.0 if config.candidate_max_iou is None else config.candidate_max_iou,
        "ignore_degenerate": config.degenerate == "ignore",
        "xyxy": config.prior_format == "xyxy",
        "narrow_truths": wide and boxes != torch.float64,
        "narrow_priors": wide and priors != torch.float64,
    }


@register_fake("match")
def _(boxes, offsets, priors, **_):
    return offsets.new_empty(offsets.shape[0] - 1, priors.shape[-2], dtype=torch.int32)  # as in detect
