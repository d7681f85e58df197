"""RetinaFace on a quarter of MobileNet (biubug6/Pytorch_Retinaface), with its five landmarks."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from .blocks import PairHead, conv_bn, conv_depthwise, reversed_channels
from .detector import SSD

__all__ = ["LandmarkSSD", "retinaface_mobilenet"]

_leaky = functools.partial(nn.LeakyReLU, 0.1)


class LandmarkSSD(SSD):
    """An SSD whose heads give landmarks too; ``loss`` is that of boxes and classes alone.

    Example:
        >>> model = models.retinaface_mobilenet(image_size=(64, 64)).eval()
        >>> model.detect(torch.rand(1, 3, 64, 64)).extra.shape  # five points x, y in fractions of the image
        torch.Size([1, 750, 10])
    """

    def post_process(self, outputs: tuple[Tensor, ...], config: DetectConfig | None = None) -> ops.Detections:
        """As :meth:`SSD.post_process`; ``extra`` has the landmarks, in fractions of the image."""
        loc, conf, codes = outputs
        return self.with_landmarks(
            ops.detect(loc, conf, self.priors, config or self.detect_config, extra=codes)
        )

    def with_landmarks(self, found: ops.Detections) -> ops.Detections:
        """Detections in the units of the priors with codes as ``extra`` -> fractions, and points."""
        points = ops.decode_landmarks(found, self.priors, 0.1)
        boxes = found.boxes
        if self.spec.pixels:
            boxes, points = boxes / self._pixels(boxes), points / self._pixels(points)[:2].repeat(5)
        return ops.Detections(boxes, *found[1:5], extra=points)


class _SSH(nn.Module):
    """Contexts of 3x3, 5x5 and 7x7, the larger ones by 3x3 after 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        quarter = width // 4
        self.conv3X3 = conv_bn(width, width // 2, activation=None)
        self.conv5X5_1 = conv_bn(width, quarter, activation=_leaky)
        self.conv5X5_2 = conv_bn(quarter, quarter, activation=None)
        self.conv7X7_2 = conv_bn(quarter, quarter, activation=_leaky)
        self.conv7x7_3 = conv_bn(quarter, quarter, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        half = self.conv5X5_1(x)
        parts = [self.conv3X3(x), self.conv5X5_2(half), self.conv7x7_3(self.conv7X7_2(half))]
        return torch.cat(parts, 1).relu()


class _Pyramid(nn.Module):
    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        for number, own in enumerate(channels, 1):
            self.add_module(f"output{number}", conv_bn(own, width, 1, activation=_leaky))
        self.merge1 = conv_bn(width, width, activation=_leaky)
        self.merge2 = conv_bn(width, width, activation=_leaky)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        large, middle, small = (getattr(self, f"output{k}")(x) for k, x in enumerate(maps, 1))
        middle = self.merge2(middle + F.interpolate(small, size=middle.shape[2:], mode="nearest"))
        return [
            self.merge1(large + F.interpolate(middle, size=large.shape[2:], mode="nearest")),
            middle,
            small,
        ]


class _Backbone(nn.Module):
    """The image comes as RGB and goes through as BGR."""

    out_channels = (64, 64, 64)

    def __init__(self) -> None:
        super().__init__()
        blocks = functools.partial(conv_depthwise, activation=_leaky)
        first = [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
        self.body = nn.ModuleDict(
            {
                "stage1": nn.Sequential(
                    conv_bn(3, 8, stride=2, activation=_leaky), *(blocks(*s) for s in first)
                ),
                "stage2": nn.Sequential(blocks(64, 128, 2), *(blocks(128, 128) for _ in range(5))),
                "stage3": nn.Sequential(blocks(128, 256, 2), blocks(256, 256)),
            }
        )
        self.fpn = _Pyramid((64, 128, 256), 64)
        self.ssh = nn.ModuleList(_SSH(64) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> maps of 8, 16 and 32 pixels a cell."""
        x, maps = reversed_channels(x), []
        for stage in self.body.values():
            x = stage(x)
            maps.append(x)
        return [context(x) for context, x in zip(self.ssh, self.fpn(maps), strict=True)]


def retinaface_mobilenet(num_classes: int = 2, image_size: tuple[int, int] = (640, 640)) -> LandmarkSSD:
    """RetinaFace mobilenet0.25: two square priors a cell, 16800 at 640x640; any size is taken.

    Example:
        >>> model = models.retinaface_mobilenet(image_size=(320, 256))
        >>> len(model.priors), sum(p.numel() for p in model.parameters())
        (3360, 426608)
    """
    spec = PriorSpec.preset("retinaface", image_size=tuple(image_size), pixels=True)
    heads = [
        PairHead(nn.Conv2d(64, 8, 1), nn.Conv2d(64, 2 * num_classes, 1), num_classes, nn.Conv2d(64, 20, 1))
        for _ in range(3)
    ]
    return LandmarkSSD(
        _Backbone(),
        spec,
        num_classes,
        mean=[123 / 255, 117 / 255, 104 / 255],
        std=[1 / 255] * 3,
        loss_config=MultiBoxConfig.preset("retinaface"),
        detect_config=DetectConfig.preset("retinaface"),
        heads=heads,
    )
