"""Modules over the ops."""

from .default_boxes import DefaultBoxGenerator
from .post_process import PostProcess

__all__ = ["DefaultBoxGenerator", "PostProcess"]
