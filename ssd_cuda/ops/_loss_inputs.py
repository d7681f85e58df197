"""What the losses on priors are given: predictions, and ground truth to match or ready targets."""

from __future__ import annotations

import torch
from torch import Tensor

from .._extension import require
from .._names import counted
from ..config import FocalConfig, MultiBoxConfig
from ._checks import FLOATING, check_no_grad, check_no_tangent, check_tensor
from ._target_checks import check_codes, should_check
from .ground_truth import GroundTruth
from .matching import match

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
# codes or classes, boxes or codes of boxes, labels, offsets, priors, variances: the ops' arguments.
Targets = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def arithmetic_of(conf: Tensor) -> torch.dtype:
    """What the losses of such logits are computed in."""
    return torch.float64 if conf.dtype == torch.float64 else torch.float32


def predictions_of(loc: Tensor, conf: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """loc, conf in one dtype as [B, P, 4] and [B, P, C], whatever lies in memory."""
    shape = ("B", "P", "C") if layout == "bpc" else ("B", "C", "P")
    check_tensor("conf", conf, shape, FLOATING)
    if layout == "bcp":
        check_tensor("loc", loc, (conf.shape[0], 4, conf.shape[2]), FLOATING)
        loc, conf = loc.transpose(1, 2), conf.transpose(1, 2)
    else:
        check_tensor("loc", loc, (conf.shape[0], conf.shape[1], 4), FLOATING)
    if conf.shape[2] < 1:
        raise ValueError(f"conf must have at least one class, got {conf.shape[2]}")
    for name, value in (("loc", loc), ("conf", conf)):
        check_no_tangent(name, value)
    if loc.dtype != conf.dtype:
        dtype = torch.promote_types(loc.dtype, conf.dtype)
        loc, conf = loc.to(dtype), conf.to(dtype)
    return loc, conf


def check_targets(
    conf: Tensor, gt: GroundTruth, priors: Tensor, variances: Tensor | None, codes: Tensor | None
) -> None:
    """Raise unless ground truth and priors are those of conf, ``[B, P, C]``."""
    if not isinstance(gt, GroundTruth):
        raise TypeError(f"gt must be a GroundTruth (see GroundTruth.from_list), got {type(gt).__name__}")
    batch, width, _ = conf.shape
    if gt.batch_size != batch:
        raise ValueError(f"gt must hold {counted(batch, 'image')} like conf, got {gt.batch_size}")
    own = isinstance(priors, Tensor) and priors.dim() == 3
    check_tensor("priors", priors, (batch, width, 4) if own else (width, 4), FLOATING)
    check_no_grad("priors", priors, "only loc and conf are differentiated")
    if variances is not None:
        check_tensor("variances", variances, tuple(priors.shape), FLOATING)
        check_no_grad("variances", variances, "only loc and conf are differentiated")
    if codes is not None:
        check_tensor("codes", codes, (batch, width), (torch.int32,))


def matched_targets(
    conf: Tensor,
    gt: GroundTruth,
    priors: Tensor,
    variances: Tensor | None,
    codes: Tensor | None,
    config: MultiBoxConfig | FocalConfig,
    check: bool,
) -> Targets:
    """The targets of ground truth that check_targets has let through; codes None: it is matched here."""
    if codes is None:
        codes = match(gt, priors, config=config.match)
    elif should_check(check, codes):
        check_codes(codes, gt)
    return (codes, *truths_of(conf, gt, priors, variances))


def truths_of(
    conf: Tensor, gt: GroundTruth, priors: Tensor, variances: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """What codes are codes into, as the ops take it."""
    wide = arithmetic_of(conf)
    return (
        gt.boxes.detach().to(wide),
        gt.labels.long(),
        gt.offsets,
        priors.to(wide),
        None if variances is None else variances.to(wide),
    )


def ready_targets(
    op: str, loc: Tensor, conf: Tensor, loc_target: Tensor, conf_target: Tensor, layout: str
) -> Targets:
    """The targets of codes and classes, checked but for the classes' range. loc, conf: ``[B, P, ...]``."""
    batch, width, _ = conf.shape
    if layout == "bcp":
        check_tensor("loc_target", loc_target, (batch, 4, width), FLOATING)
        loc_target = loc_target.transpose(1, 2)
    else:
        check_tensor("loc_target", loc_target, (batch, width, 4), FLOATING)
    check_tensor("conf_target", conf_target, (batch, width), _INTEGERS)
    conf_target = conf_target.long()  # a uint8 could not be told from an ignore_label below 0
    check_no_grad("loc_target", loc_target, "only the predictions are differentiated")
    require(op, loc, conf, loc_target, conf_target)
    return conf_target, loc_target.contiguous().to(arithmetic_of(conf)), None, None, None, None
