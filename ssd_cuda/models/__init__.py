"""SSD models whose loss and detections go through :mod:`ssd_cuda.ops`."""

from .detector import SSD
from .dssd import (
    DeconvolutionModule,
    PredictionModule,
    dssd321,
    dssd513,
    ssd321,
    ssd513,
)
from .layers import L2Norm, SSDExtraLayers, SSDHead
from .loading import Imported, import_weights, load
from .registry import MODELS, build_model
from .resnet import ResNet
from .small import ssd_small
from .vgg import ssd300_vgg16, ssd512_vgg16

__all__ = [
    "MODELS",
    "SSD",
    "DeconvolutionModule",
    "Imported",
    "L2Norm",
    "PredictionModule",
    "ResNet",
    "SSDExtraLayers",
    "SSDHead",
    "build_model",
    "dssd321",
    "dssd513",
    "import_weights",
    "load",
    "ssd300_vgg16",
    "ssd321",
    "ssd512_vgg16",
    "ssd513",
    "ssd_small",
]
