"""Models by name, for checkpoints and the command line."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .caffe import caffe_ssd
from .detector import SSD
from .small import ssd_small
from .vgg import ssd300_amdegroot, ssd300_torchvision, ssd300_vgg16, ssd512_vgg16

__all__ = ["MODELS", "build_model"]

# name -> builder, and the only image size it takes (None: any)
MODELS: dict[str, tuple[Callable[..., SSD], tuple[int, int] | None]] = {
    "ssd_small": (ssd_small, None),
    "ssd300_vgg16": (ssd300_vgg16, (300, 300)),
    "ssd512_vgg16": (ssd512_vgg16, (512, 512)),
    "ssd300_vgg16_amdegroot": (ssd300_amdegroot, (300, 300)),
    "ssd300_vgg16_torchvision": (ssd300_torchvision, (300, 300)),
    "caffe": (caffe_ssd, None),
}


def build_model(name: str, num_classes: int, image_size: tuple[int, int], options: str = "") -> SSD:
    """The model ``name`` with new weights; those of ``ssd_small`` in channels_last memory, for training.

    Args:
        name: a key of ``MODELS``.
        num_classes: background included.
        image_size: (height, width); most models take one size only.
        options: what else a model needs, as JSON: ``"caffe"``, the description of its network.

    Raises:
        ValueError: an unknown name, a size the model does not take.

    Example:
        >>> models.build_model("ssd_small", num_classes=4, image_size=(64, 64)).num_classes
        4
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    builder, only = MODELS[name]
    if options or builder is caffe_ssd:
        return builder(num_classes, tuple(image_size), options)
    if only is None:
        return builder(num_classes, image_size).to(memory_format=torch.channels_last)
    if tuple(image_size) != only:
        raise ValueError(f"image_size of {name} must be {only}, got {tuple(image_size)}")
    return builder(num_classes)
