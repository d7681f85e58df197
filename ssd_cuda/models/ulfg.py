"""The networks of Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB: slim and RFB."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from .blocks import Chain, PairHead, conv_bn, conv_depthwise, separable
from .detector import SSD

__all__ = ["ulfg_rfb", "ulfg_slim"]


class _Conv(nn.Module):
    def __init__(self, channels: int, width: int, kernel: int, dilation: int = 1, relu: bool = False) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(width, momentum=0.01)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x.relu() if self.relu else x


class _RFB(nn.Module):
    """Three branches of growing dilation (2, 3, 5) beside a shortcut, after RFBNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        part = width // 8
        for number, dilation in enumerate((2, 3)):
            branch = [_Conv(width, part, 1), _Conv(part, 2 * part, 3, relu=True)]
            self.add_module(f"branch{number}", nn.Sequential(*branch, _Conv(2 * part, 2 * part, 3, dilation)))
        middle = part // 2 * 3
        self.branch2 = nn.Sequential(
            _Conv(width, part, 1),
            _Conv(part, middle, 3, relu=True),
            _Conv(middle, 2 * part, 3, relu=True),
            _Conv(2 * part, 2 * part, 3, 5),
        )
        self.ConvLinear = _Conv(6 * part, width, 1)
        self.shortcut = _Conv(width, width, 1)

    def branches(self) -> list[nn.Module]:
        return [module for name, module in self.named_children() if name.startswith("branch")]

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([branch(x) for branch in self.branches()], 1)
        return (self.ConvLinear(joined) + self.shortcut(x)).relu()


def _ssd(num_classes: int, image_size: tuple[int, int], eighth: nn.Module) -> SSD:
    """``eighth``: the eighth layer, the only one in which the two networks differ."""
    steps = [(16, 32, 1), (32, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
    later = [(64, 128, 2), (128, 128, 1), (128, 128, 1), (128, 256, 2), (256, 256, 1)]
    base = [conv_bn(3, 16, stride=2), *(conv_depthwise(*step) for step in steps), eighth]
    base += [conv_depthwise(*step) for step in later]
    extra = nn.Sequential(nn.Conv2d(256, 64, 1), nn.ReLU(), separable(64, 256, 2), nn.ReLU())
    backbone = Chain(base, (8, 11, 13), [extra], [64, 128, 256, 256])
    spec = PriorSpec.preset("ulfg", image_size=tuple(image_size))
    heads = []
    for level, (width, boxes) in enumerate(zip(backbone.out_channels, spec.boxes_per_cell(), strict=True)):
        pair = [
            separable(width, out) if level < 3 else nn.Conv2d(width, out, 3, padding=1)
            for out in (4 * boxes, num_classes * boxes)
        ]
        heads.append(PairHead(pair[0], pair[1], num_classes))
    return SSD(
        backbone,
        spec,
        num_classes,
        mean=[127 / 255] * 3,
        std=[128 / 255] * 3,
        loss_config=MultiBoxConfig.preset("ulfg"),
        detect_config=DetectConfig.preset("ulfg"),
        heads=heads,
    )


def ulfg_slim(num_classes: int = 2, image_size: tuple[int, int] = (240, 320)) -> SSD:
    """The slim network: 240x320 images have 4420 priors; any other size is taken too.

    Example:
        >>> model = models.ulfg_slim()
        >>> len(model.priors), sum(p.numel() for p in model.parameters())
        (4420, 260188)
    """
    return _ssd(num_classes, image_size, conv_depthwise(64, 64))


def ulfg_rfb(num_classes: int = 2, image_size: tuple[int, int] = (240, 320)) -> SSD:
    """The network with a receptive field block.

    Example:
        >>> len(models.ulfg_rfb(image_size=(480, 640)).priors)
        17640
    """
    return _ssd(num_classes, image_size, _RFB(64))
