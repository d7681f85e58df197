"""Models by name, for checkpoints and the command line."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .detector import SSD
from .small import ssd_small
from .vgg import ssd300_vgg16, ssd512_vgg16

__all__ = ["MODELS", "build_model"]

# name -> builder, and the only image size it takes (None: any)
MODELS: dict[str, tuple[Callable[..., SSD], tuple[int, int] | None]] = {
    "ssd_small": (ssd_small, None),
    "ssd300_vgg16": (ssd300_vgg16, (300, 300)),
    "ssd512_vgg16": (ssd512_vgg16, (512, 512)),
}


def build_model(name: str, num_classes: int, image_size: tuple[int, int]) -> SSD:
    """The model ``name`` with new weights; those of ``ssd_small`` in channels_last memory, for training.

    Args:
        name: a key of ``MODELS``.
        num_classes: background included.
        image_size: (height, width); the VGG models take one size only.

    Raises:
        ValueError: an unknown name, a size the model does not take.

    Example:
        >>> models.build_model("ssd_small", num_classes=4, image_size=(64, 64)).num_classes
        4
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    builder, only = MODELS[name]
    if only is None:
        return builder(num_classes, image_size).to(memory_format=torch.channels_last)
    if tuple(image_size) != only:
        raise ValueError(f"image_size of {name} must be {only}, got {tuple(image_size)}")
    return builder(num_classes)
