"""The weights of VGG-16 as a classification network, put into the backbone of an SSD.

``"vgg16"`` is torchvision's: ``features.<n>`` are the convolutions; fc6 and fc7 become convolutions of 1024
channels, by taking every fourth channel and, of fc6's 7x7, every third row and column (the "a trous"
reduction of Liu et al. 2016, section 3.1, after DeepLab). Its ``IMAGENET1K_V1`` was trained on images of
unit variance, its ``IMAGENET1K_FEATURES``, like Caffe's, on those of 0 to 255 without their mean, which
is what the backbone gets here. The latter file has nan for fc6 and fc7, which tells the two apart: where
fc6 is finite, the first convolution takes the difference in.

``"vgg16_reducedfc"`` is Caffe's with the reduction done: ``<n>`` for all layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["CLASSIFIERS", "from_classification"]

# layout -> the name of its first convolution
CLASSIFIERS = {"vgg16": "features.0.weight", "vgg16_reducedfc": "0.weight"}

_MEAN = (0.48235, 0.45882, 0.40784)  # of the backbone, in [0, 1]; it divides by 1 / 255
_V1_MEAN, _V1_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def from_classification(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """``state`` of a layout of ``CLASSIFIERS`` under the names of an SSD here.

    Returns:
        ``backbone.vgg.<n>.weight`` and ``bias`` of the 13 convolutions and, where they are known, of fc6
        and fc7.
    """
    if layout == "vgg16_reducedfc":
        return {f"backbone.vgg.{key}": value for key, value in state.items() if key[:1].isdigit()}
    found = {
        key.replace("features", "backbone.vgg", 1): value
        for key, value in state.items()
        if key.startswith("features.")
    }
    fc6, fc7 = state.get("classifier.0.weight"), state.get("classifier.3.weight")
    if fc6 is None or fc7 is None or not (torch.isfinite(fc6[0]).all() and torch.isfinite(fc7[0]).all()):
        return found
    found["backbone.vgg.31.weight"] = fc6.view(4096, 512, 7, 7)[::4, :, ::3, ::3].contiguous()
    found["backbone.vgg.31.bias"] = state["classifier.0.bias"][::4].contiguous()
    found["backbone.vgg.33.weight"] = fc7.view(4096, 4096, 1, 1)[::4, ::4].contiguous()
    found["backbone.vgg.33.bias"] = state["classifier.3.bias"][::4].contiguous()
    return {**found, **_without_unit_variance(found)}


def _without_unit_variance(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution for 255 (x - mean) where it was made for (x - mean') / std'."""
    weight, bias = found["backbone.vgg.0.weight"], found["backbone.vgg.0.bias"]
    mean, own, std = (weight.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _V1_MEAN, _V1_STD))
    return {
        "backbone.vgg.0.weight": weight / (255 * std),
        "backbone.vgg.0.bias": bias + (weight * (mean - own) / std).sum((1, 2, 3)),
    }
