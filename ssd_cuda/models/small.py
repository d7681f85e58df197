"""A small SSD, about a million parameters, that learns on two CPU cores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from .detector import SSD

__all__ = ["SmallBackbone", "ssd_small"]


def _conv(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class SmallBackbone(nn.Module):
    """Six stages that halve the image; the last four, at strides 8, 16, 32 and 64, are the maps.

    Plain 3x3 convolutions: on a CPU they run several times closer to the arithmetic peak than
    depthwise ones, and at this size a million parameters are enough without separable tricks.

    Args:
        widths: channels of the six stages.
        blocks: residual blocks after the strided convolution of each stage.
    """

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 96, 128, 128, 128),
        blocks: Sequence[int] = (0, 0, 1, 1, 1, 0),
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        channels = 3
        for width, count in zip(widths, blocks, strict=True):
            self.stages.append(nn.Sequential(_conv(channels, width, 2), *map(_Residual, [width] * count)))
            channels = width
        self.out_channels = list(widths[2:])

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> four maps; a stage makes ``ceil(n / 2)`` cells of n."""
        features = []
        x = x.contiguous(memory_format=torch.channels_last)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index >= 2:
                features.append(x)
        return features

    @staticmethod
    def map_sizes(image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(rows, columns) of the four maps of an image of this (height, width)."""
        return [(-(-image_size[0] // stride), -(-image_size[1] // stride)) for stride in (8, 16, 32, 64)]


def ssd_small(
    num_classes: int,
    image_size: tuple[int, int] = (240, 320),
    sizes: Sequence[float] = (0.09, 0.21, 0.42, 0.7, 1.0),
) -> SSD:
    """A small SSD for images of any one size.

    Four priors a cell: two squares, one lying and one standing box of ratio 2. Images are put into
    channels_last memory, in which oneDNN's and cuDNN's convolutions are faster. The weights are not: FSDP2
    takes contiguous ones only. Where it is not used, ``model.to(memory_format=torch.channels_last)`` spares
    training a copy of each.

    Args:
        num_classes: background included.
        image_size: (height, width).
        sizes: side of the small square of each of the four maps, and one more, as fractions of the
            shorter image side; strictly ascending.

    Raises:
        ValueError: fewer than two classes, an image side below 1, sizes that do not ascend from above 0.

    Example:
        >>> model = models.ssd_small(num_classes=4, image_size=(64, 64)).eval()
        >>> loc, conf = model(torch.zeros(1, 3, 64, 64))
        >>> loc.shape, conf.shape
        (torch.Size([1, 340, 4]), torch.Size([1, 340, 4]))
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size must be (height, width), both at least 1, got {tuple(image_size)}")
    ascending = all(low < high for low, high in pairwise(sizes))
    if len(sizes) != 5 or sizes[0] <= 0 or not ascending:
        raise ValueError(f"sizes must be five ascending positive numbers, got {tuple(sizes)}")
    pixels = [min(image_size) * size for size in sizes]
    spec = PriorSpec(
        image_size=image_size,
        feature_maps=tuple(SmallBackbone.map_sizes(image_size)),
        sizes=tuple(pixels[:-1]),
        larger_sizes=tuple(pixels[1:]),
        ratios=((2,),) * 4,
        steps=None,
    )
    model = SSD(
        SmallBackbone(),
        spec,
        num_classes,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        loss_config=MultiBoxConfig(),
        detect_config=DetectConfig(clip="before"),
    )
    for conv in model.heads.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return model
