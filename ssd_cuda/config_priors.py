"""The former place of :class:`PriorSpec`: saved objects name their class by it."""

from .config import PriorSpec

__all__ = ["PriorSpec"]
