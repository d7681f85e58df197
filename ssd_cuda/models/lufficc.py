"""The networks of lufficc/SSD: VGG-16 at 300 and 512 pixels, MobileNetV2 at 320."""

from __future__ import annotations

from torch import nn

from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from .blocks import Chain, InvertedResidual, PairHead, separable
from .detector import SSD
from .layers import SSD512ExtraLayers, SSDExtraLayers
from .qfgaohao import mobilenet_v2
from .vgg import VGGBackbone, vgg_ssd

__all__ = ["ssd300_lufficc", "ssd320_mobilenet_v2_lufficc", "ssd512_lufficc"]


_COCO = 81  # its configurations of COCO have other sizes than those of VOC
_VOC_512 = (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.65)


def ssd300_lufficc(num_classes: int = 21) -> SSD:
    """SSD300 by lufficc's rules; with 81 classes the sizes of its priors are those for COCO.

    Example:
        >>> with torch.device("meta"):
        ...     model = models.lufficc.ssd300_lufficc()
        >>> len(model.priors)
        8732
    """
    spec = PriorSpec.preset("amdegroot_coco" if num_classes == _COCO else "lufficc")
    return vgg_ssd(VGGBackbone(SSDExtraLayers()), spec, num_classes, "lufficc")


def ssd512_lufficc(num_classes: int = 21) -> SSD:
    """SSD512 by lufficc's rules; with 81 classes the sizes of its priors are those for COCO."""
    spec = PriorSpec.preset("lufficc512")
    if num_classes != _COCO:
        spec = spec.replace(sizes=_VOC_512[:-1], larger_sizes=_VOC_512[1:])
    return vgg_ssd(VGGBackbone(SSD512ExtraLayers()), spec, num_classes, "lufficc")


def ssd320_mobilenet_v2_lufficc(num_classes: int = 21) -> SSD:
    """MobileNetV2 with separable heads at 320 pixels; its fourth step is 107 pixels, as in its
    configuration.
    """
    sizes = (60, 105, 150, 195, 240, 285, 330)
    spec = PriorSpec.preset(
        "lufficc",
        image_size=(320, 320),
        feature_maps=(20, 10, 5, 3, 2, 1),
        steps=(16, 32, 64, 107, 160, 320),
        sizes=sizes[:-1],
        larger_sizes=sizes[1:],
        ratios=((2, 3),) * 6,
    )
    steps = [(1280, 512, 0.2), (512, 256, 0.25), (256, 256, 0.5), (256, 64, 0.25)]
    extras = [InvertedResidual(channels, width, 2, expand) for channels, width, expand in steps]
    backbone = Chain(mobilenet_v2(), (14, 19), extras, [96, 1280, 512, 256, 256, 64])
    heads = []
    for level, width in enumerate(backbone.out_channels):
        loc, conf = (
            separable(width, out, activation=nn.ReLU6, norm=True) if level < 5 else nn.Conv2d(width, out, 1)
            for out in (24, 6 * num_classes)
        )
        heads.append(PairHead(loc, conf, num_classes))
    return SSD(
        backbone,
        spec,
        num_classes,
        mean=[123 / 255, 117 / 255, 104 / 255],
        std=[1 / 255] * 3,
        loss_config=MultiBoxConfig.preset("lufficc"),
        detect_config=DetectConfig.preset("lufficc"),
        heads=heads,
    )
