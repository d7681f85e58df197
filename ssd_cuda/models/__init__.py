"""SSD models whose loss and detections go through :mod:`ssd_cuda.ops`."""

from .detector import SSD
from .layers import L2Norm, SSDExtraLayers, SSDHead
from .loading import Imported, import_weights, load
from .registry import MODELS, build_model
from .small import ssd_small
from .vgg import ssd300_vgg16, ssd512_vgg16

__all__ = [
    "MODELS",
    "SSD",
    "Imported",
    "L2Norm",
    "SSDExtraLayers",
    "SSDHead",
    "build_model",
    "import_weights",
    "load",
    "ssd300_vgg16",
    "ssd512_vgg16",
    "ssd_small",
]
