"""The same families in plain PyTorch, readable first: the oracle of tests and benchmarks."""

from . import boxes

__all__ = ["boxes"]
