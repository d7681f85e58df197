"""ResNet as a detector's backbone (He et al. 2016), by torchvision's names of its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ADDED_EPS", "Bottleneck", "ResNet", "conv_norm", "from_classification", "is_classification"]

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
ADDED_EPS = 1e-3  # of the batch norms that DSSD's authors put on top; those of the backbone have 1e-5


def conv_norm(
    channels: int,
    width: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    *,
    relu: bool,
    eps: float = ADDED_EPS,
) -> nn.Sequential:
    """A convolution without bias, a batch norm, and a ReLU where asked for."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(width, eps=eps),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the sum with the input. The stride is on the first 1x1, as in Caffe's ResNets and the
    paper of 2016; torchvision's (v1.5) have it on the 3x3: their weights fit, and the maps differ a little.

    Args:
        channels: of the input.
        width: of the two inner convolutions; the output has four times as many channels.
        stride: of the block.
        dilation: of the 3x3 convolution.
        project: whether the input is projected by a 1x1 convolution before the sum.
    """

    def __init__(
        self, channels: int, width: int, stride: int = 1, dilation: int = 1, project: bool = False
    ) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(channels, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


class ResNet(nn.Module):
    """conv1 to res5; its maps are res3 (stride 8) and res5 (stride 16: the last stage is dilated instead).

    The pool has no padding, so an image of 321 gives maps of 40 and 20 cells a side, one of 513 maps of 64
    and 32.

    Args:
        depth: 50 or 101.
        width: channels of the stem; 64 is the published network.

    Raises:
        ValueError: another depth.

    Example:
        >>> maps = models.ResNet(50, width=4).eval()(torch.zeros(1, 3, 321, 321))
        >>> [tuple(m.shape) for m in maps]
        [(1, 32, 40, 40), (1, 128, 20, 20)]
    """

    def __init__(self, depth: int = 101, width: int = 64) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"depth must be 50 or 101, got {depth!r}")
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for number, count in enumerate(_BLOCKS[depth], 1):
            inner = width * 2 ** (number - 1)
            stride, dilation = (2 if number in (2, 3) else 1), (2 if number == 4 else 1)
            blocks = [Bottleneck(channels, inner, stride, dilation, project=True)]
            channels = 4 * inner
            blocks += [Bottleneck(channels, inner, 1, dilation) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.out_channels = [8 * width, 32 * width]

    def stages(self) -> list[list[nn.Module]]:
        """conv1 with its norm, then res2 to res5."""
        return [
            [self.conv1, self.bn1],
            *([layer] for name, layer in self.named_children() if name.startswith("layer")),
        ]

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> the two maps."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2)
        x = self.get_submodule("layer2")(self.get_submodule("layer1")(x))
        return [x, self.get_submodule("layer4")(self.get_submodule("layer3")(x))]


def is_classification(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of torchvision's ResNet-50 or ResNet-101, by their names."""
    return {"conv1.weight", "layer1.0.conv3.weight", "layer4.2.conv3.weight"} <= state.keys()


def from_classification(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those weights under the names of an SSD on :class:`ResNet`; the classifier is left out.

    torchvision has the stride of a stage on its first 3x3 convolution and pads the pool, here both are as in
    Caffe: the weights fit, and training takes up the difference.
    """
    return {f"backbone.resnet.{name}": value for name, value in state.items() if not name.startswith("fc.")}
