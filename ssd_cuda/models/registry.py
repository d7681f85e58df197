"""Models by name, for checkpoints and the command line."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .._names import name_list
from .caffe import caffe_ssd
from .detector import SSD
from .dssd import dssd321, dssd513, ssd321, ssd513
from .lufficc import ssd300_lufficc, ssd320_mobilenet_v2_lufficc, ssd512_lufficc
from .nvidia import ssd300_resnet50
from .own_boxes import with_boxes
from .qfgaohao import mb1_ssd, mb1_ssd_lite, mb2_ssd_lite, vgg16_ssd
from .retinaface import retinaface_mobilenet
from .small import ssd_small
from .ssdlite import ssdlite320_mobilenet_v3
from .ulfg import ulfg_rfb, ulfg_slim
from .vgg import ssd300_amdegroot, ssd300_torchvision, ssd300_vgg16, ssd512_vgg16

__all__ = ["MODELS", "build_model", "check_model"]

# name -> builder, and the only image size it takes (None: any)
MODELS: dict[str, tuple[Callable[..., SSD], tuple[int, int] | None]] = {
    "ssd_small": (ssd_small, None),
    "ssd300_vgg16": (ssd300_vgg16, (300, 300)),
    "ssd512_vgg16": (ssd512_vgg16, (512, 512)),
    "ssd300_vgg16_amdegroot": (ssd300_amdegroot, (300, 300)),
    "ssd300_vgg16_torchvision": (ssd300_torchvision, (300, 300)),
    "ssd300_vgg16_lufficc": (ssd300_lufficc, (300, 300)),
    "ssd512_vgg16_lufficc": (ssd512_lufficc, (512, 512)),
    "ssd320_mobilenet_v2_lufficc": (ssd320_mobilenet_v2_lufficc, (320, 320)),
    "ssdlite320_mobilenet_v3": (ssdlite320_mobilenet_v3, (320, 320)),
    "ssd300_resnet50": (ssd300_resnet50, (300, 300)),
    "mb1_ssd": (mb1_ssd, (300, 300)),
    "mb1_ssd_lite": (mb1_ssd_lite, (300, 300)),
    "mb2_ssd_lite": (mb2_ssd_lite, (300, 300)),
    "vgg16_ssd": (vgg16_ssd, (300, 300)),
    "ulfg_slim": (ulfg_slim, None),
    "ulfg_rfb": (ulfg_rfb, None),
    "retinaface_mobilenet": (retinaface_mobilenet, None),
    "caffe": (caffe_ssd, None),
    "ssd321": (ssd321, (321, 321)),
    "ssd513": (ssd513, (513, 513)),
    "dssd321": (dssd321, (321, 321)),
    "dssd513": (dssd513, (513, 513)),
}


def check_model(argument: str, name: object) -> None:
    """Raise ``ValueError`` unless ``name`` is a key of ``MODELS``."""
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(
            f"{argument} must be one of {name_list(list(MODELS), 6)} (`ssd-cuda models` lists them), "
            f"got {str(name)[:40]!r}"
        )


def build_model(name: str, num_classes: int, image_size: tuple[int, int], options: str = "") -> SSD:
    """The model ``name`` with new weights; those of ``ssd_small`` in channels_last memory, for training.

    Args:
        name: a key of ``MODELS``.
        num_classes: background included.
        image_size: (height, width); most models take one size only.
        options: what else a model needs, as JSON: ``"caffe"``, the description of its network; any other,
            the boxes of its priors (:func:`ssd_cuda.models.own_boxes.box_options`).

    Raises:
        ValueError: an unknown name, a size the model does not take.

    Example:
        >>> models.build_model("ssd_small", num_classes=4, image_size=(64, 64)).num_classes
        4
    """
    check_model("model", name)
    builder, only = MODELS[name]
    if builder is caffe_ssd:
        return builder(num_classes, tuple(image_size), options)
    if options:
        return with_boxes(build_model(name, num_classes, image_size), options)
    if only is None:
        return builder(num_classes, image_size).to(memory_format=torch.channels_last)
    if tuple(image_size) != only:
        raise ValueError(f"image_size of {name} must be {only}, got {tuple(image_size)}")
    return builder(num_classes)
