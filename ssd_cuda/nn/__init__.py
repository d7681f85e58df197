"""Modules over the ops."""

from .default_boxes import DefaultBoxGenerator
from .focal_loss import FocalLoss
from .multibox_loss import MultiBoxLoss
from .post_process import PostProcess
from .ssd_loss import SSDLoss

__all__ = ["DefaultBoxGenerator", "FocalLoss", "MultiBoxLoss", "PostProcess", "SSDLoss"]
