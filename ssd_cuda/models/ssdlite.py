"""torchvision's ssdlite320_mobilenet_v3_large: the same numbers from a model of this package."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from .blocks import PairHead
from .detector import SSD

__all__ = ["ssdlite320_mobilenet_v3"]

_norm = functools.partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)

# in, kernel, expanded, out, squeeze-and-excitation, hard swish, stride
_BLOCKS = [
    (16, 3, 16, 16, False, False, 1),
    (16, 3, 64, 24, False, False, 2),
    (24, 3, 72, 24, False, False, 1),
    (24, 5, 72, 40, True, False, 2),
    *[(40, 5, 120, 40, True, False, 1)] * 2,
    (40, 3, 240, 80, False, True, 2),
    (80, 3, 200, 80, False, True, 1),
    *[(80, 3, 184, 80, False, True, 1)] * 2,
    (80, 3, 480, 112, True, True, 1),
    (112, 3, 672, 112, True, True, 1),
    (112, 5, 672, 80, True, True, 2),  # the first map is inside of it, after the expansion
    *[(80, 5, 480, 80, True, True, 1)] * 2,
]


def _conv(
    channels: int,
    width: int,
    kernel: int = 1,
    stride: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU6,
    groups: int = 1,
) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, _norm(width), *([activation()] if activation else []))


class _Squeeze(nn.Module):
    """Squeeze and excitation, the width rounded to a multiple of 8 as MobileNetV3 does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        quarter = width // 4
        inner = max(8, int(quarter + 4) // 8 * 8)
        inner += 8 * (inner < 0.9 * quarter)
        self.fc1, self.fc2 = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu())
        return x * nn.functional.hardsigmoid(scale)


class _Block(nn.Module):
    def __init__(
        self, channels: int, kernel: int, hidden: int, width: int, squeeze: bool, swish: bool, stride: int
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if swish else nn.ReLU
        layers: list[nn.Module] = []
        if hidden != channels:
            layers.append(_conv(channels, hidden, activation=activation))
        layers.append(_conv(hidden, hidden, kernel, stride, activation, groups=hidden))
        if squeeze:
            layers.append(_Squeeze(hidden))
        self.block = nn.Sequential(*layers, _conv(hidden, width, activation=None))
        self.adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.adds else self.block(x)


class _Backbone(nn.Module):
    """Two runs of layers, cut inside of the thirteenth block, and four extra layers; one map each."""

    out_channels = (672, 480, 512, 256, 256, 128)

    def __init__(self) -> None:
        super().__init__()
        blocks = [_Block(*row) for row in _BLOCKS]
        cut = blocks[12].block
        first = [_conv(3, 16, 3, 2, nn.Hardswish), *blocks[:12], cut[0]]
        second = [cut[1:], *blocks[13:], _conv(80, 480, activation=nn.Hardswish)]
        self.features = nn.ModuleList([nn.Sequential(*first), nn.Sequential(*second)])
        widths = [480, 512, 256, 256, 128]
        self.extra = nn.ModuleList(
            nn.Sequential(
                _conv(channels, width // 2),
                _conv(width // 2, width // 2, 3, 2, groups=width // 2),
                _conv(width // 2, width),
            )
            for channels, width in pairwise(widths)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> one map per level."""
        maps = []
        for layer in [*self.features, *self.extra]:
            x = layer(x)
            maps.append(x)
        return maps


def ssdlite320_mobilenet_v3(num_classes: int = 91) -> SSD:
    """ssdlite320_mobilenet_v3_large with the reduced tail, as torchvision's trained weights have it.

    Example:
        >>> model = models.ssdlite320_mobilenet_v3(num_classes=91)
        >>> len(model.priors), sum(p.numel() for p in model.parameters())
        (3234, 3440060)
    """
    backbone, spec = _Backbone(), PriorSpec.preset("torchvision_ssdlite")

    def head(width: int, out: int) -> nn.Module:
        return nn.Sequential(_conv(width, width, 3, groups=width), nn.Conv2d(width, out, 1))

    heads = [
        PairHead(head(width, 4 * boxes), head(width, num_classes * boxes), num_classes)
        for width, boxes in zip(backbone.out_channels, spec.boxes_per_cell(), strict=True)
    ]
    rule = DetectConfig.preset(
        "torchvision",
        score_threshold=0.001,
        iou_threshold=0.55,
        top_k=300,
        detections_per_image=300,
        clip_size=(320.0, 320.0),
    )
    return SSD(
        backbone,
        spec,
        num_classes,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        loss_config=MultiBoxConfig.preset("torchvision"),
        detect_config=rule,
        heads=heads,
    )
