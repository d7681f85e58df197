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
from .nvidia import ssd300_resnet50
from .qfgaohao import mb1_ssd, mb1_ssd_lite, mb2_ssd_lite, vgg16_ssd
from .registry import MODELS, build_model
from .resnet import ResNet
from .retinaface import LandmarkSSD, retinaface_mobilenet
from .small import ssd_small
from .ssdlite import ssdlite320_mobilenet_v3
from .ulfg import ulfg_rfb, ulfg_slim
from .vgg import ssd300_vgg16, ssd512_vgg16

__all__ = [
    "MODELS",
    "SSD",
    "DeconvolutionModule",
    "Imported",
    "L2Norm",
    "LandmarkSSD",
    "PredictionModule",
    "ResNet",
    "SSDExtraLayers",
    "SSDHead",
    "build_model",
    "dssd321",
    "dssd513",
    "import_weights",
    "load",
    "mb1_ssd",
    "mb1_ssd_lite",
    "mb2_ssd_lite",
    "retinaface_mobilenet",
    "ssd300_resnet50",
    "ssd300_vgg16",
    "ssd321",
    "ssd512_vgg16",
    "ssd513",
    "ssd_small",
    "ssdlite320_mobilenet_v3",
    "ulfg_rfb",
    "ulfg_slim",
    "vgg16_ssd",
]
