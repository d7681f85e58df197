"""SSD models whose loss and detections go through :mod:`ssd_cuda.ops`."""

from .detector import SSD
from .layers import L2Norm, SSDExtraLayers, SSDHead
from .small import ssd_small
from .vgg import ssd300_vgg16, ssd512_vgg16

__all__ = ["SSD", "L2Norm", "SSDExtraLayers", "SSDHead", "ssd300_vgg16", "ssd512_vgg16", "ssd_small"]
