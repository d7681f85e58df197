"""The same families in plain PyTorch, readable first: the oracle of tests and benchmarks."""

from . import (
    boxes,
    detect,
    diou_nms,
    focal,
    fusion,
    matching,
    matrix_nms,
    mining,
    multibox,
    nms,
    priors,
    soft_nms,
)

__all__ = [
    "boxes",
    "detect",
    "diou_nms",
    "focal",
    "fusion",
    "matching",
    "matrix_nms",
    "mining",
    "multibox",
    "nms",
    "priors",
    "soft_nms",
]
