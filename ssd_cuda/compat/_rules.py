"""What several drop-ins share."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..config import MultiBoxConfig

__all__ = ["as_compared", "loss_config"]


def as_compared(threshold: float, dtype: torch.dtype = torch.float32) -> float:
    """The threshold that those codebases compare an IoU of ``dtype`` with.

    torch and numpy round a Python number to the dtype of the tensor; :func:`ssd_cuda.ops.nms` compares in
    double, as torchvision does. At 0.3 and 0.4, which round upwards, an IoU can fall between the two.
    """
    return torch.tensor(threshold, dtype=torch.float64 if dtype == torch.float64 else torch.float32).item()


def loss_config(
    codebase: str, *, ratio: float, iou_threshold: float | None = None, **changes: float
) -> MultiBoxConfig:
    """The preset of a codebase with the numbers that its constructor takes."""
    preset = MultiBoxConfig.preset(codebase, **changes)
    match = preset.match if iou_threshold is None else replace(preset.match, iou_threshold=iou_threshold)
    return replace(preset, match=match, mining=replace(preset.mining, ratio=float(ratio)))
