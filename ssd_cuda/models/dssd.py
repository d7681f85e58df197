"""SSD and DSSD on ResNet (Fu et al. 2017, "DSSD: Deconvolutional Single Shot Detector").

As the authors' scripts have them (chengyangfu/caffe, branch dssd: ssd_pascal_resnet_321, its _deconv_ and
_deconv_ft_, and ssd_coco_resnet_deconv_513), which differ from the text of the paper here and there: the
prediction module (c) stands on every map of SSD321 too, and the ratios are 1.6, 2, 3 on every level.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from .detector import SSD
from .layers import SSDHead
from .resnet import ResNet, conv_norm

__all__ = [
    "DSSDBackbone",
    "DeconvolutionModule",
    "PredictionModule",
    "ResNetBackbone",
    "dssd321",
    "dssd513",
    "ssd321",
    "ssd513",
]

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# (kernel, stride) of what makes each map from the one before, and of the deconvolutions the other way.
_EXTRAS = {321: ((2, 2), (2, 2), (3, 1), (3, 1)), 513: ((2, 2),) * 5}
_DECONVOLUTIONS = {321: ((3, 1), (3, 1), (2, 2), (2, 2), (2, 2)), 513: ((2, 1), *((2, 2),) * 5)}


class _Residual(nn.Module):
    """Two branches, added, then a ReLU: 1x1, 3x3 and 1x1 against one projection, each with its batch norm."""

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_norm(channels, width, kernel, stride, relu=True),
            conv_norm(width, width, 3, padding=1, relu=True),
            conv_norm(width, 4 * width, 1, relu=False),
        )
        self.shortcut = conv_norm(channels, 4 * width, kernel, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x), inplace=True)


class PredictionModule(_Residual):
    """Prediction module (c) of figure 2: a residual block between a map and its predictions.

    Args:
        channels: of the map.
        width: of the inner convolutions, 256 in the paper; the output has four times as many channels.

    Example:
        >>> models.PredictionModule(16, 4)(torch.zeros(2, 16, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    def __init__(self, channels: int, width: int = 256) -> None:
        super().__init__(channels, width)


class DeconvolutionModule(nn.Module):
    """Figure 3: a map of SSD times a coarser map of DSSD made as large, element by element.

    Args:
        channels: of the map of SSD.
        coarse_channels: of the coarser map.
        kernel: of the deconvolution.
        stride: of the deconvolution.
        width: channels of the result, 512 in the paper.

    Example:
        >>> module = models.DeconvolutionModule(16, 8, 2, 2, width=8)
        >>> module(torch.zeros(1, 16, 10, 10), torch.zeros(1, 8, 5, 5)).shape
        torch.Size([1, 8, 10, 10])
    """

    def __init__(
        self, channels: int, coarse_channels: int, kernel: int, stride: int, width: int = 512
    ) -> None:
        super().__init__()
        self.lateral = nn.Sequential(
            conv_norm(channels, width, 3, padding=1, relu=True),
            conv_norm(width, width, 3, padding=1, relu=False),
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(coarse_channels, width, kernel, stride),
            conv_norm(width, width, 3, padding=1, relu=False),
        )

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        """``[B, channels, H, W]`` and the coarser map -> ``[B, width, H, W]``."""
        return F.relu(self.lateral(x) * self.up(coarse), inplace=True)


class ResNetBackbone(nn.Module):
    """ResNet and the extra maps, residual blocks of width 256: the maps of SSD321 and SSD513.

    Args:
        image_size: 321 or 513.
        depth: 50 or 101.
        width: channels of ResNet's stem, 64 as published; everything else follows in proportion.
    """

    def __init__(self, image_size: int, depth: int = 101, width: int = 64) -> None:
        super().__init__()
        self.resnet = ResNet(depth, width)
        channels, inner = self.resnet.out_channels[-1], 4 * width
        self.extras = nn.ModuleList()
        for kernel, stride in _EXTRAS[image_size]:
            self.extras.append(_Residual(channels, inner, kernel, stride))
            channels = 4 * inner
        self.out_channels = [*self.resnet.out_channels, *[channels] * len(self.extras)]

    def stages(self) -> list[list[nn.Module]]:
        """Those of ResNet: what weights of a classification network fill."""
        return self.resnet.stages()

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> one map a level, the finest first."""
        maps = self.resnet(x)
        for block in self.extras:
            maps.append(block(maps[-1]))
        return maps


class DSSDBackbone(ResNetBackbone):
    """The same with a deconvolution module a level but the coarsest, from the coarsest on."""

    def __init__(self, image_size: int, depth: int = 101, width: int = 64) -> None:
        super().__init__(image_size, depth, width)
        self.deconvolutions = nn.ModuleList()
        coarse, out = self.out_channels[-1], 8 * width
        fine = reversed(self.out_channels[:-1])
        for channels, (kernel, stride) in zip(fine, _DECONVOLUTIONS[image_size], strict=True):
            self.deconvolutions.append(DeconvolutionModule(channels, coarse, kernel, stride, out))
            coarse = out
        self.out_channels = [*[out] * len(self.deconvolutions), self.out_channels[-1]]

    def stages(self) -> list[list[nn.Module]]:
        """Those of ResNet, and the extra maps: all that SSD has trained before."""
        return [*self.resnet.stages(), list(self.extras)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> one map a level, the finest first."""
        maps = super().forward(x)
        made = [maps.pop()]
        for module in self.deconvolutions:
            made.append(module(maps.pop(), made[-1]))
        return made[::-1]


class _Head(SSDHead):
    """A prediction module, then the two convolutions; those of 513 each after one of their own."""

    def __init__(
        self, channels: int, boxes: int, num_classes: int, *, width: int, kernel: int, between: int
    ) -> None:
        super().__init__(between or 16 * width, boxes, num_classes, kernel)
        self.prediction = PredictionModule(channels, 4 * width)

        def inter() -> nn.Module:
            return conv_norm(16 * width, between, 3, padding=1, relu=True) if between else nn.Identity()

        self.loc_inter, self.conf_inter = inter(), inter()

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.prediction(x)
        return self.loc_inter(x), self.conf_inter(x)


def _build(image_size: int, backbone: type[ResNetBackbone], num_classes: int, depth: int, width: int) -> SSD:
    spec = PriorSpec.preset(f"dssd{image_size}")

    maps = backbone(image_size, depth, width)
    between = 8 * width if image_size == 513 else 0
    heads = [
        _Head(channels, boxes, num_classes, width=width, kernel=5 if level < 2 else 3, between=between)
        for level, (channels, boxes) in enumerate(zip(maps.out_channels, spec.boxes_per_cell(), strict=True))
    ]
    model = SSD(
        maps,
        spec,
        num_classes,
        mean=_MEAN,
        std=_STD,
        loss_config=MultiBoxConfig.preset("dssd", label_offset=0),
        detect_config=DetectConfig.preset("dssd"),
        heads=heads,
    )
    _initialise(model)
    return model


def _initialise(model: SSD) -> None:
    """ResNet as He et al. have it, all that is new by Xavier, as the authors' layers."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            if ".resnet." in name:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def ssd321(num_classes: int = 21, *, depth: int = 101, width: int = 64) -> SSD:
    """SSD321: 321x321 images, maps of 40, 20, 10, 5, 3 and 1 cells a side, 8 boxes a cell, 17,080 priors.

    Args:
        num_classes: background included; 21 is Pascal VOC.
        depth: of ResNet, 101 as published, or 50.
        width: channels of ResNet's stem: 64 as published; less makes everything narrower in proportion.

    Published: 77.1 mAP on VOC2007, 28.0 AP on COCO.

    Example:
        >>> with torch.device("meta"):
        ...     model = models.ssd321()
        >>> model.image_size, len(model.priors)
        ((321, 321), 17080)
    """
    return _build(321, ResNetBackbone, num_classes, depth, width)


def ssd513(num_classes: int = 21, *, depth: int = 101, width: int = 64) -> SSD:
    """SSD513: 513x513 images, maps of 64, 32, 16, 8, 4, 2 and 1 cells a side, 43,688 priors; see
    :func:`ssd321`. Published: 31.2 AP on COCO.

    Example:
        >>> with torch.device("meta"):
        ...     model = models.ssd513(num_classes=81, depth=50)
        >>> len(model.priors)
        43688
    """
    return _build(513, ResNetBackbone, num_classes, depth, width)


def dssd321(num_classes: int = 21, *, depth: int = 101, width: int = 64) -> SSD:
    """DSSD321: :func:`ssd321` with deconvolution modules. Published: 78.6 mAP on VOC2007, 28.0 AP on COCO.

    Example:
        >>> model = models.dssd321(num_classes=4, depth=50, width=4).eval()
        >>> loc, conf = model(torch.zeros(1, 3, 321, 321))
        >>> loc.shape, conf.shape
        (torch.Size([1, 17080, 4]), torch.Size([1, 17080, 4]))
    """
    return _build(321, DSSDBackbone, num_classes, depth, width)


def dssd513(num_classes: int = 21, *, depth: int = 101, width: int = 64) -> SSD:
    """DSSD513: :func:`ssd513` with deconvolution modules. Published: 81.5 mAP on VOC2007, 33.2 AP on COCO.

    Example:
        >>> with torch.device("meta"):
        ...     model = models.dssd513()
        >>> model.image_size, len(model.priors)
        ((513, 513), 43688)
    """
    return _build(513, DSSDBackbone, num_classes, depth, width)
