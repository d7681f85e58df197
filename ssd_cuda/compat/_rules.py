"""What several drop-ins share."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import MultiBoxConfig, check_integer, check_range, to_number

__all__ = ["as_compared", "loss_config", "to_float32", "to_whole"]


def _one(value: Any) -> Any:
    """What a tensor or array of one element holds, as operators take their numbers; else the value."""
    if isinstance(value, (Tensor, np.ndarray)) and value.reshape(-1).shape[0] == 1:
        return value.item()
    return to_number(value)


def to_float32(argument: str, value: Any, low: float = -math.inf) -> float:
    """A number, also in a tensor of one element on any device, as float32; raise for anything else."""
    value = _one(value)
    check_range(argument, value, low, finite=False)
    return float(np.float32(value))


def to_whole(argument: str, value: Any) -> int:
    """A whole number, also in a tensor of one element on any device; raise for anything else."""
    value = _one(value)
    check_integer(argument, int(value) if isinstance(value, float) and value.is_integer() else value)
    return int(value)


def as_compared(argument: str, threshold: Any, dtype: torch.dtype = torch.float32) -> float:
    """The threshold that those codebases compare an IoU of ``dtype`` with.

    torch and numpy round a Python number to the dtype of the tensor; :func:`ssd_cuda.ops.nms` compares in
    double, as torchvision does. At 0.3 and 0.4, which round upwards, an IoU can fall between the two.
    """
    narrow = to_float32(argument, threshold)
    return float(_one(threshold)) if dtype == torch.float64 else narrow


def loss_config(codebase: str, *, ratio: Any, iou_threshold: Any = None, **changes: float) -> MultiBoxConfig:
    """The preset of a codebase with the numbers that its constructor takes."""
    preset = MultiBoxConfig.preset(codebase, **changes)
    match = preset.match if iou_threshold is None else replace(preset.match, iou_threshold=iou_threshold)
    return replace(preset, match=match, mining=replace(preset.mining, ratio=ratio))
