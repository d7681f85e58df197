"""Checks of the values of targets: labels, codes and ready classes. Each reads them: one sync on CUDA."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import FocalConfig, MultiBoxConfig, check_flag
from .ground_truth import GroundTruth, check_offsets, readable
from .matching import IGNORED


def _lowest(config: MultiBoxConfig | FocalConfig) -> int:
    """Of the classes: -1 is the background where it has no column."""
    return -1 if config.background == "none" else 0


def check_labels(
    gt: GroundTruth, config: MultiBoxConfig | FocalConfig, num_classes: int, op: str = "multibox_loss"
) -> None:
    """Raise for the first label that gives no class."""
    if isinstance(config, MultiBoxConfig) and config.single_class:
        return
    row = torch.arange(len(gt.labels), device=gt.labels.device)
    labels = gt.labels.long()  # as the op takes them: a uint8 has no label below 0, and wraps
    target, lowest = labels + config.label_offset, _lowest(config)
    bad = ((target < lowest) | (target >= num_classes)) & (row < gt.offsets[-1])
    if config.ignore_label is not None:
        bad &= labels != config.ignore_label
    if bad.any():
        index = int(bad.nonzero()[0, 0])
        offset = f" with label_offset {config.label_offset}" if config.label_offset else ""
        raise ValueError(
            f"gt.labels of {op} must give a class in [{lowest}, {num_classes}){offset}, got "
            f"{int(gt.labels[index])} as label {index}"
        )


def check_codes(codes: Tensor, gt: GroundTruth) -> None:
    """Raise for the first code that names no ground truth of its image."""
    check_offsets(gt)
    if codes.numel() == 0:
        return
    counts = gt.offsets.diff()
    low, high = codes.aminmax(dim=1)
    bad = (low < IGNORED) | (high >= counts)
    if bad.any():
        image = int(bad.nonzero()[0, 0])
        row, count = codes[image], int(counts[image])
        prior = int(((row < IGNORED) | (row >= count)).nonzero()[0, 0])
        raise ValueError(
            f"codes must lie in [{IGNORED}, {count}) where an image has {count} ground truths, got "
            f"{int(row[prior])} for prior {prior} of image {image}"
        )


def should_check(check: bool, tensor: Tensor) -> bool:
    """Values are looked at where that costs no wait: in eager mode on the CPU, else on demand."""
    if check is not False:
        check_flag("check", check)
    return check or readable(tensor)


def check_classes(conf_target: Tensor, config: MultiBoxConfig | FocalConfig, num_classes: int) -> None:
    """Raise for the first ready target that is no class. Reads the values: one sync on CUDA."""
    low, high = _lowest(config) - config.label_offset, num_classes - config.label_offset
    if conf_target.numel() == 0:
        return
    smallest, largest = conf_target.aminmax()  # one pass; nearly all batches end here
    if smallest >= low and largest < high:
        return
    bad = (conf_target < low) | (conf_target >= high)
    if config.ignore_label is not None:
        bad &= conf_target != config.ignore_label
    if bad.any():
        raise ValueError(f"conf_target must lie in [{low}, {high}), got {int(conf_target[bad][0])}")


def check_class_weights(weights: Tensor) -> None:
    """Raise for the first weight that is not finite or below 0. Reads the values: one sync on CUDA."""
    bad = ~(weights.isfinite() & (weights >= 0))
    if bad.any():
        index = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"class_weights must be finite and at least 0, got {float(weights[index])} for class {index}"
        )
