"""ssd_cuda: the detection core of SSD as fused, deterministic CUDA and CPU kernels for PyTorch."""

from torch import serialization

from . import models, nn, ops, reference
from ._extension import build_info, is_available, set_simd_level, simd_level
from .compat import accelerate, restore
from .config import DetectConfig, FocalConfig, MatchConfig, MiningConfig, MultiBoxConfig, PriorSpec

__version__ = "0.1.0"

__all__ = [
    "DetectConfig",
    "FocalConfig",
    "MatchConfig",
    "MiningConfig",
    "MultiBoxConfig",
    "PriorSpec",
    "accelerate",
    "build_info",
    "is_available",
    "models",
    "nn",
    "ops",
    "reference",
    "restore",
    "set_simd_level",
    "simd_level",
]

# torch.load(weights_only=True) takes these: plain data, whose constructors look at what they are given.
serialization.add_safe_globals(
    [
        *(MatchConfig, MiningConfig, MultiBoxConfig, FocalConfig, DetectConfig, PriorSpec),
        *(ops.Detections, ops.FusedBoxes, ops.GroundTruth, ops.MultiBoxLosses, ops.TopK),
    ]
)
