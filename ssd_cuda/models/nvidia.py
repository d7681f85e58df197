"""NVIDIA's SSD300 on ResNet-50 (DeepLearningExamples, PyTorch/Detection/SSD)."""

from __future__ import annotations

from torch import Tensor, nn

from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from .blocks import conv_bn
from .detector import SSD
from .layers import SSDHead
from .resnet import Bottleneck

__all__ = ["ssd300_resnet50"]


def _stage(channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """The stride is on the 3x3, as in torchvision's ResNet-50."""
    first = Bottleneck(channels, width, stride, project=True)
    first.conv1.stride, first.conv2.stride = (1, 1), (stride, stride)
    return nn.Sequential(first, *(Bottleneck(4 * width, width) for _ in range(depth - 1)))


class _Backbone(nn.Module):
    """ResNet-50 up to its fourth stage, which keeps the size here, and five extra layers."""

    out_channels = (1024, 512, 512, 256, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        stages = [_stage(64, 64, 3, 1), _stage(256, 128, 4, 2), _stage(512, 256, 6, 1)]
        self.feature_extractor = nn.Sequential(*stem, *stages)
        between = (256, 256, 128, 128, 128)
        self.additional_blocks = nn.ModuleList()
        for level, middle in enumerate(between):
            channels, width = self.out_channels[level : level + 2]
            stride = 2 if level < 3 else 1
            spatial = nn.Conv2d(middle, width, 3, stride, stride - 1, bias=False)
            block = nn.Sequential(*conv_bn(channels, middle, 1), spatial, nn.BatchNorm2d(width), nn.ReLU())
            self.additional_blocks.append(block)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> one map per level."""
        maps = [self.feature_extractor(x)]
        for block in self.additional_blocks:
            maps.append(block(maps[-1]))
        return maps


class _BoxMajorHead(SSDHead):
    """The boxes of a kind are neighbours: channel ``coordinate * boxes + box``."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, conf = self.loc_conv(x).flatten(1), self.conf_conv(x).flatten(1)
        return loc.unflatten(1, (4, -1)).mT, conf.unflatten(1, (self.num_classes, -1)).mT


def ssd300_resnet50(num_classes: int = 81) -> SSD:
    """SSD300 on ResNet-50 by NVIDIA: 8732 priors, box-major.

    Example:
        >>> with torch.device("meta"):
        ...     model = models.ssd300_resnet50()
        >>> model.image_size, len(model.priors), model.spec.layout
        ((300, 300), 8732, 'box_major')
    """
    backbone, spec = _Backbone(), PriorSpec.preset("nvidia")
    heads = [
        _BoxMajorHead(width, boxes, num_classes)
        for width, boxes in zip(backbone.out_channels, spec.boxes_per_cell(), strict=True)
    ]
    return SSD(
        backbone,
        spec,
        num_classes,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        loss_config=MultiBoxConfig.preset("nvidia", layout="bpc"),
        detect_config=DetectConfig.preset("nvidia", layout="bpc"),
        heads=heads,
    )
