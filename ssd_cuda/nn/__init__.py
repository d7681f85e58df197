"""Modules over the ops."""

from .post_process import PostProcess

__all__ = ["PostProcess"]
