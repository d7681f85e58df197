"""SSD300 and SSD512 on VGG-16 (Liu et al. 2016, section 3)."""

from __future__ import annotations

from torch import Tensor, nn

from ..config import DetectConfig, MultiBoxConfig
from ._priors import boxes_per_cell, layered_priors
from .detector import SSD
from .layers import L2Norm, SSD512ExtraLayers, SSDExtraLayers

__all__ = ["VGGBackbone", "ssd300_vgg16", "ssd512_vgg16"]

# Channel means of ImageNet in [0, 1]; the network sees mean-free pixels in [0, 255], as Caffe's VGG did.
_MEAN = (0.48235, 0.45882, 0.40784)
_STD = (1 / 255,) * 3

_RATIOS_300 = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
_RATIOS_512 = [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]]


def _vgg_layers() -> nn.ModuleList:
    """VGG-16 with fc6 and fc7 as convolutions: fc6 dilated by 6 over a pool5 that keeps the size.

    Layer 22 is the ReLU of conv4_3, layer 34 that of fc7; the indices are those of torchvision's
    ``vgg16().features`` up to layer 29.
    """
    layers: list[nn.Module] = []
    channels = 3
    for stage, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        if stage:
            # The third pool rounds up: 75 -> 38, the size that the priors of SSD300 expect.
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=stage == 3))
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    layers += [
        nn.MaxPool2d(3, 1, padding=1),
        nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
        nn.ReLU(inplace=True),
        nn.Conv2d(1024, 1024, 1),
        nn.ReLU(inplace=True),
    ]
    return nn.ModuleList(layers)


class VGGBackbone(nn.Module):
    """VGG-16 up to fc7, then the extra layers; maps: conv4_3 (L2-normalised), fc7, conv8_2, ...

    Args:
        extras: :class:`SSDExtraLayers` or :class:`SSD512ExtraLayers`.
    """

    CONV4_3 = 22

    def __init__(self, extras: SSDExtraLayers | SSD512ExtraLayers) -> None:
        super().__init__()
        self.vgg = _vgg_layers()
        self.norm = L2Norm(512)
        self.extras = extras
        self.out_channels = [512, 1024, *extras.out_channels]

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> one map per level, ``[B, out_channels[k], rows, columns]``."""
        for layer in self.vgg[: self.CONV4_3 + 1]:
            x = layer(x)
        conv4_3 = self.norm(x)
        for layer in self.vgg[self.CONV4_3 + 1 :]:
            x = layer(x)
        return [conv4_3, x, *self.extras(x)]


def _initialise(model: SSD) -> None:
    """Xavier for every convolution, as the paper does for the new layers; without weights all are new."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def ssd300_vgg16(num_classes: int = 21) -> SSD:
    """SSD300: 300x300 images, six maps of 38, 19, 10, 5, 3 and 1 cells a side, 8732 priors.

    Args:
        num_classes: background included; 21 is Pascal VOC.
    """
    priors = layered_priors(
        (300, 300),
        [(n, n) for n in (38, 19, 10, 5, 3, 1)],
        (30, 60, 111, 162, 213, 264, 315),
        _RATIOS_300,
        steps=(8, 16, 32, 64, 100, 300),
        clip=True,
    )
    return _vgg_ssd(VGGBackbone(SSDExtraLayers()), priors, _RATIOS_300, num_classes, 300)


def ssd512_vgg16(num_classes: int = 21) -> SSD:
    """SSD512: 512x512 images, seven maps of 64, 32, 16, 8, 4, 2 and 1 cells a side, 24564 priors.

    Args:
        num_classes: background included; 21 is Pascal VOC.
    """
    priors = layered_priors(
        (512, 512),
        [(n, n) for n in (64, 32, 16, 8, 4, 2, 1)],
        (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6),
        _RATIOS_512,
        steps=(8, 16, 32, 64, 128, 256, 512),
        clip=True,
    )
    return _vgg_ssd(VGGBackbone(SSD512ExtraLayers()), priors, _RATIOS_512, num_classes, 512)


def _vgg_ssd(
    backbone: VGGBackbone, priors: Tensor, ratios: list[list[int]], num_classes: int, size: int
) -> SSD:
    model = SSD(
        backbone,
        priors,
        boxes_per_cell(ratios),
        num_classes,
        (size, size),
        mean=_MEAN,
        std=_STD,
        loss_config=MultiBoxConfig.preset("paper"),
        detect_config=DetectConfig.preset("paper"),
    )
    _initialise(model)
    return model
