"""The same families in plain PyTorch, readable first: the oracle of tests and benchmarks."""

from . import boxes, detect, matching, mining, multibox, nms, priors, soft_nms

__all__ = ["boxes", "detect", "matching", "mining", "multibox", "nms", "priors", "soft_nms"]
