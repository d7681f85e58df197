"""The networks of qfgaohao/pytorch-ssd and jetson-inference: mb1-ssd, mb1-ssd-lite, mb2-ssd-lite,
vgg16-ssd.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from .blocks import Chain, InvertedResidual, PairHead, conv_bn, conv_depthwise, separable
from .detector import SSD
from .vgg import vgg_layers

__all__ = ["mb1_ssd", "mb1_ssd_lite", "mb2_ssd_lite", "mobilenet_v2", "vgg16_ssd"]

_MAPS = [512, 1024, 512, 256, 256, 256]
_EXTRAS = [(1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256)]  # in, between, out


def _mobilenet_v1() -> list[nn.Module]:
    steps = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    layers: list[nn.Module] = [conv_bn(3, 32, stride=2)]
    channels = 32
    for width, stride in steps:
        layers.append(conv_depthwise(channels, width, stride))
        channels = width
    return layers


def mobilenet_v2() -> list[nn.Module]:
    """The 19 layers of MobileNetV2 without its classifier."""
    layers: list[nn.Module] = [conv_bn(3, 32, stride=2, activation=nn.ReLU6)]
    channels = 32
    settings = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)]
    for expand, width, count, stride in [*settings, (6, 320, 1, 1)]:
        for number in range(count):
            layers.append(InvertedResidual(channels, width, 1 if number else stride, expand))
            channels = width
    return [*layers, conv_bn(channels, 1280, 1, activation=nn.ReLU6)]


def _extra(channels: int, between: int, width: int, stride: int = 2) -> nn.Sequential:
    second = nn.Conv2d(between, width, 3, stride, stride - 1)
    return nn.Sequential(nn.Conv2d(channels, between, 1), nn.ReLU(), second, nn.ReLU())


def _plain(channels: int, width: int) -> nn.Module:
    return nn.Conv2d(channels, width, 3, padding=1)


def _ssd(
    backbone: Chain,
    num_classes: int,
    head: Callable[[int, int], nn.Module],
    last: Callable[[int, int], nn.Module],
    preset: str = "qfgaohao_mobilenet",
    mean: tuple[float, ...] = (127.0, 127.0, 127.0),
    std: float = 128.0,
) -> SSD:
    """``last`` makes the convolutions of the smallest map, ``head`` those of the others."""
    spec = PriorSpec.preset(preset)
    heads = []
    for level, (width, boxes) in enumerate(zip(backbone.out_channels, spec.boxes_per_cell(), strict=True)):
        make = last if level == spec.num_levels - 1 else head
        heads.append(PairHead(make(width, 4 * boxes), make(width, num_classes * boxes), num_classes))
    return SSD(
        backbone,
        spec,
        num_classes,
        mean=[value / 255 for value in mean],
        std=[std / 255] * 3,
        loss_config=MultiBoxConfig.preset("qfgaohao"),
        detect_config=DetectConfig.preset("qfgaohao"),
        heads=heads,
    )


def mb1_ssd(num_classes: int = 21) -> SSD:
    """mb1-ssd: MobileNetV1, 300x300 images, 3000 priors.

    Example:
        >>> model = models.mb1_ssd(num_classes=3)
        >>> model.image_size, len(model.priors)
        ((300, 300), 3000)
    """
    extras = [_extra(*widths) for widths in _EXTRAS]
    return _ssd(Chain(_mobilenet_v1(), (12, 14), extras, _MAPS), num_classes, _plain, _plain)


def mb1_ssd_lite(num_classes: int = 21) -> SSD:
    """mb1-ssd-lite: the same with separable convolutions in the extra layers and heads.

    Example:
        >>> model = models.mb1_ssd_lite(num_classes=3)
        >>> model.image_size, len(model.priors)
        ((300, 300), 3000)
    """
    extras = [
        nn.Sequential(nn.Conv2d(channels, between, 1), nn.ReLU(), separable(between, width, 2))
        for channels, between, width in _EXTRAS
    ]
    backbone = Chain(_mobilenet_v1(), (12, 14), extras, _MAPS)
    return _ssd(backbone, num_classes, separable, lambda width, out: nn.Conv2d(width, out, 1))


def mb2_ssd_lite(num_classes: int = 21) -> SSD:
    """mb2-ssd-lite: MobileNetV2; the first map is inside of its fourteenth block, after the expansion.

    Example:
        >>> model = models.mb2_ssd_lite(num_classes=3)
        >>> model.image_size, len(model.priors)
        ((300, 300), 3000)
    """
    steps = [(1280, 512, 0.2), (512, 256, 0.25), (256, 256, 0.5), (256, 64, 0.25)]
    extras = [InvertedResidual(channels, width, 2, expand) for channels, width, expand in steps]
    backbone = Chain(mobilenet_v2(), (19,), extras, [576, 1280, 512, 256, 256, 64], inner=(14, 3))

    def head(width: int, out: int) -> nn.Module:
        return separable(width, out, activation=nn.ReLU6, norm=True)

    return _ssd(backbone, num_classes, head, lambda width, out: nn.Conv2d(width, out, 1))


def vgg16_ssd(num_classes: int = 21) -> SSD:
    """vgg16-ssd: VGG-16 with a batch norm, not an L2 norm, behind conv4_3; 8732 priors.

    Example:
        >>> with torch.device("meta"):
        ...     model = models.vgg16_ssd(num_classes=3)
        >>> model.image_size, len(model.priors)
        ((300, 300), 8732)
    """
    extras = [_extra(*widths, stride=2 if k < 2 else 1) for k, widths in enumerate(_EXTRAS)]
    layers = vgg_layers()
    backbone = Chain(layers, (23, len(layers)), extras, _MAPS, norm=nn.BatchNorm2d(512))
    return _ssd(backbone, num_classes, _plain, _plain, "qfgaohao", (123.0, 117.0, 104.0), 1.0)
