"""Augmentation, through torchvision.transforms.v2.

======= =========================================================================================
preset  what an image goes through
======= =========================================================================================
none    resize
flip    resize, horizontal flip
flips   resize, horizontal and vertical flip: objects without an upside, as under a microscope
ssd     the paper's: zoom-out (half of the images), IoU crop, resize, photometric distortion, flip
caffe   the same, resized as caffe does: by one of five interpolations of OpenCV, drawn for each image
ssdlite torchvision's of that name: IoU crop, resize, flip
nvidia  IoU crop, resize, colour jitter, flip
======= =========================================================================================

``prepare`` brings images to twice the size before a crop, to the size itself where there is none, whether
they are kept in memory or read anew. All end by cutting boxes at the image and removing the ones of which
nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._extras import require
from ..config import check_choice

Transform = Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]
PRESETS = ("none", "flip", "flips", "ssd", "caffe", "ssdlite", "nvidia")
CROPS = ("ssd", "caffe", "ssdlite", "nvidia")  # enlarge a part of the image
# interp_mode of ssd_pascal.py (weiliu89/caffe, branch ssd), each as likely as another.
_INTERPOLATIONS = ("LINEAR", "AREA", "NEAREST", "CUBIC", "LANCZOS4")

# The mean colour of ImageNet's photographs, what the space around a zoomed-out image is filled with.
_FILL = (124, 116, 104)


def _per_box(inputs: tuple[Tensor, dict[str, Any]]) -> tuple[Tensor, ...]:
    """The entries of the target that go when their box goes."""
    target = inputs[1]
    return tuple(target[key] for key in ("labels", "difficult", "crowd", "area"))


class OpenCVResize:
    """Image and boxes to ``size`` (height, width), by ``INTER_<rule>`` of OpenCV.

    torchvision has no AREA and no LANCZOS4, and both are in what caffe draws from.
    """

    def __init__(self, size: tuple[int, int], rule: str) -> None:
        self.size, self.rule = size, rule

    def __call__(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        cv2 = require("cv2", "augmentation as caffe's")
        functional = require("torchvision.transforms.v2.functional", "augmentation")
        pixels = image.permute(1, 2, 0).numpy()
        sized = cv2.resize(pixels, self.size[::-1], interpolation=getattr(cv2, f"INTER_{self.rule}"))
        found = torch.from_numpy(sized.reshape(*self.size, -1)).permute(2, 0, 1).contiguous()
        found = require("torchvision.tv_tensors", "augmentation").wrap(found, like=image)
        return found, {**target, "boxes": functional.resize(target["boxes"], list(self.size))}


def make_transform(preset: str, size: tuple[int, int] | None) -> Transform:
    """The callable ``(image, target) -> (image, target)`` of a preset.

    Args:
        preset: a row of the table above.
        size: (height, width) to resize to, in pixels, without keeping the aspect ratio, as SSD does;
            None leaves the size alone (images that are resized already).

    The random ones draw from torch's global generator: ``torch.manual_seed`` makes them repeat.

    Raises:
        ValueError: another preset, or one that crops without a size. ImportError: torchvision is missing, or
            OpenCV for ``"caffe"``.

    Example:
        >>> image, target = data.make_transform("flip", (64, 64))(*data.ShapesDataset("train", length=1)[0])
        >>> image.shape
        torch.Size([3, 64, 64])
    """
    check_choice("preset", preset, PRESETS)
    v2 = require("torchvision.transforms.v2", "augmentation")
    steps: list[Any] = []
    # Geometry first, so that the costly photometric steps see the small image.
    if preset in ("ssd", "caffe"):
        steps.append(v2.RandomZoomOut(fill=_FILL, side_range=(1.0, 4.0), p=0.5))
    if preset in CROPS:
        steps.append(v2.RandomIoUCrop())
    if size is not None or preset in CROPS:
        if size is None:
            raise ValueError(
                f"size must be given for the preset {preset!r}, whose crops differ in size, got None"
            )
        if preset == "caffe":
            require("cv2", "augmentation as caffe's")  # said now, not in a worker
            steps.append(v2.RandomChoice([OpenCVResize(size, rule) for rule in _INTERPOLATIONS]))
        else:
            steps.append(v2.Resize(list(size), antialias=True))
    if preset in ("ssd", "caffe"):
        steps.append(v2.RandomPhotometricDistort(p=0.5))
    if preset == "nvidia":
        steps.append(v2.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05))
    if preset != "none":
        steps.append(v2.RandomHorizontalFlip())
    if preset == "flips":
        steps.append(v2.RandomVerticalFlip())
    steps += [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1, labels_getter=_per_box)]
    return v2.Compose(steps)
