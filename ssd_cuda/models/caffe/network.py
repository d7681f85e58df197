"""The network of a description: layers as Caffe computes them, heads, priors and rule."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import DetectConfig, MultiBoxConfig, PriorSpec
from ..blocks import PairHead, reversed_channels
from ..detector import SSD

__all__ = ["caffe_ssd"]


class _Scale(nn.Module):
    """Channels times weights of their own, plus a bias."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight.view(1, -1, 1, 1)
        return x if self.bias is None else x + self.bias.view(1, -1, 1, 1)


class _Normalize(nn.Module):
    """The channels of a position at length 1, times a weight: the sum of squares plus eps has its root
    taken.
    """

    def __init__(self, channels: int, shared: bool, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1 if shared else channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(1, keepdim=True) + self.eps).sqrt() * self.weight.view(1, -1, 1, 1)


class _Combine(nn.Module):
    """Eltwise: product, sum with factors, or maximum."""

    def __init__(self, operation: int, factors: list[float]) -> None:
        super().__init__()
        self.operation, self.factors = operation, factors

    def forward(self, *parts: Tensor) -> Tensor:
        if self.operation == 1 and self.factors:
            parts = tuple(part * factor for part, factor in zip(parts, self.factors, strict=True))
        total = parts[0]
        for part in parts[1:]:
            total = (total * part, total + part, torch.maximum(total, part))[self.operation]
        return total


class _Join(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


class _Everything(nn.Module):
    def __init__(self, average: bool) -> None:
        super().__init__()
        self.average = average

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1) if self.average else F.adaptive_max_pool2d(x, 1)


def _convolution(layer: dict[str, Any], channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels, layer["outputs"], layer["kernel"], layer["stride"], layer["pad"], layer["dilation"],
        layer["group"], layer["bias"],
    )  # fmt: skip


def _module(layer: dict[str, Any], channels: list[int]) -> tuple[nn.Module, int]:
    """The module of a layer, and the channels of what it makes."""
    kind, first = layer["type"], channels[0]
    if kind == "Convolution":
        return _convolution(layer, first), layer["outputs"]
    if kind == "BatchNorm":
        return nn.BatchNorm2d(first, layer["eps"], affine=False), first
    if kind == "Scale":
        return _Scale(first, layer["bias"]), first
    if kind == "Normalize":
        return _Normalize(first, layer["shared"], layer["eps"]), first
    if kind == "ReLU":
        return (nn.LeakyReLU(layer["slope"]) if layer["slope"] else nn.ReLU()), first
    if kind == "Eltwise":
        return _Combine(layer["operation"], layer["factors"]), first
    if kind == "Concat":
        return _Join(), sum(channels)
    if kind in ("Dropout", "Split"):
        return nn.Identity(), first
    if kind != "Pooling":
        raise ValueError(f"a layer of Caffe must be of a kind that is served, got {str(kind)[:40]}")
    if layer["everything"]:
        return _Everything(layer["average"]), first
    pool = nn.AvgPool2d if layer["average"] else nn.MaxPool2d
    return pool(layer["kernel"], layer["stride"], layer["pad"], ceil_mode=layer["ceil"]), first


class CaffeBackbone(nn.Module):
    """The layers in the order of the prototxt; the image comes as RGB and goes through them as BGR.

    Args:
        description: of :func:`ssd_cuda.models.caffe.description.describe`.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        self.input = description["input"]
        self.sources = [head["source"] for head in description["heads"]]
        self.steps = [(tuple(layer["bottom"]), tuple(layer["top"])) for layer in description["layers"]]
        self.layers = nn.ModuleList()
        channels = {self.input: 3}
        for layer, (bottom, top) in zip(description["layers"], self.steps, strict=True):
            module, width = _module(layer, [channels[name] for name in bottom])
            self.layers.append(module)
            channels.update(dict.fromkeys(top, width))
        self.out_channels = [channels[name] for name in self.sources]

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> one map per level."""
        blobs = {self.input: reversed_channels(x)}
        for layer, (bottom, top) in zip(self.layers, self.steps, strict=True):
            result = layer(*(blobs[name] for name in bottom))
            blobs.update(dict.fromkeys(top, result))
        return [blobs[name] for name in self.sources]


def caffe_ssd(num_classes: int, image_size: tuple[int, int], options: str = "") -> SSD:
    """The network of a description, with new weights.

    Args:
        num_classes: background included.
        image_size: (height, width).
        options: the description as JSON, as :func:`read_caffe` gives it.

    Raises:
        ValueError: a description that is none, or of other classes or another size.
    """
    if not options:
        raise ValueError("options must describe an SSD of Caffe, as ssd-cuda import writes it, got none")
    try:
        description = json.loads(options)
        return _build(description, num_classes, tuple(image_size))
    except (LookupError, TypeError, AttributeError, RuntimeError, json.JSONDecodeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise ValueError(f"options must describe an SSD of Caffe, got what fails with {reason}") from error


def _build(description: dict[str, Any], num_classes: int, image_size: tuple[int, ...]) -> SSD:
    wanted = description["num_classes"], tuple(description["image_size"])
    if wanted != (num_classes, image_size):
        raise ValueError(f"options must be of {num_classes} classes and images of {image_size}, got {wanted}")
    backbone = CaffeBackbone(description)
    with torch.no_grad():
        frame = torch.zeros(1, 3, *image_size, device=next(backbone.parameters()).device)
        training = backbone.training
        maps = [tuple(feature.shape[2:]) for feature in backbone.eval()(frame)]
        backbone.train(training)
    spec = PriorSpec(**{**description["priors"], "feature_maps": maps})
    rule = DetectConfig(**description["detect"])
    loss = MultiBoxConfig.preset("caffe", background=rule.background, variances=rule.variances)
    loss = MultiBoxConfig(**{**vars(loss), "match": {**vars(loss.match), "prior_format": "xyxy"}})
    mean, scale = description["mean"], description["scale"]
    heads = [
        PairHead(_convolution(head["loc"], width), _convolution(head["conf"], width), num_classes)
        for width, head in zip(backbone.out_channels, description["heads"], strict=True)
    ]
    return SSD(
        backbone, spec, num_classes, mean=[value / 255 for value in mean[::-1]], std=[1 / (255 * scale)] * 3,
        loss_config=loss, detect_config=rule, heads=heads,
    )  # fmt: skip
