"""Blocks that the mobile networks share, numbered as their codebases number them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "Chain",
    "InvertedResidual",
    "PairHead",
    "conv_bn",
    "conv_depthwise",
    "reversed_channels",
    "separable",
]

Activation = Callable[[], nn.Module]


def conv_bn(
    channels: int, width: int, kernel: int = 3, stride: int = 1, activation: Activation | None = nn.ReLU
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, a batch norm, an activation if there is one."""
    layers = [nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


def conv_depthwise(
    channels: int, width: int, stride: int = 1, activation: Activation = nn.ReLU
) -> nn.Sequential:
    """MobileNet's block: a 3x3 of each channel on its own, then a 1x1, both normed."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        activation(),
        nn.Conv2d(channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        activation(),
    )


def separable(
    channels: int, width: int, stride: int = 1, activation: Activation = nn.ReLU, norm: bool = False
) -> nn.Sequential:
    """A 3x3 of each channel on its own and a 1x1, with biases and no norm at the end."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels),
        *([nn.BatchNorm2d(channels)] if norm else []),
        activation(),
        nn.Conv2d(channels, width, 1),
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's block; without its first 1x1 where nothing is expanded."""

    def __init__(self, channels: int, width: int, stride: int, expand: float) -> None:
        super().__init__()
        hidden = round(channels * expand)
        wider = [nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        self.conv = nn.Sequential(
            *(wider if expand != 1 else []),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class Chain(nn.Module):
    """Layers one after another, some of whose results are maps; then extra layers, each of which is one.

    Args:
        base: the layers.
        taps: how many layers are done where a map is taken.
        extras: what comes after them.
        out_channels: of the maps.
        norm: of the first map alone.
        inner: (number of a layer, parts of its ``conv``): the first map lies inside of that layer.
    """

    def __init__(
        self,
        base: Iterable[nn.Module],
        taps: Sequence[int],
        extras: Iterable[nn.Module],
        out_channels: Sequence[int],
        norm: nn.Module | None = None,
        inner: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.base, self.extras = nn.ModuleList(base), nn.ModuleList(extras)
        self.norm, self.taps, self.inner = norm, tuple(taps), inner
        self.out_channels = list(out_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> one map per level."""
        maps = []
        for number, layer in enumerate(self.base):
            if self.inner and number == self.inner[0]:
                parts: nn.Sequential = layer.conv  # type: ignore[assignment]
                maps.append(parts[: self.inner[1]](x))
                x = parts[self.inner[1] :](maps[-1])
                continue
            x = layer(x)
            if number + 1 in self.taps:
                maps.append(self.norm(x) if self.norm is not None and not maps else x)
        for layer in self.extras:
            x = layer(x)
            maps.append(x)
        return maps


class PairHead(nn.Module):
    """Offsets and logits of one map by whatever modules give ``boxes * 4`` and ``boxes * C`` channels.

    Args:
        loc_conv: the module for offsets.
        conf_conv: the module for logits.
        num_classes: background included.
        point_conv: a module for ``boxes * 10`` channels of landmarks.
    """

    def __init__(
        self,
        loc_conv: nn.Module,
        conf_conv: nn.Module,
        num_classes: int,
        point_conv: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.loc_conv, self.conf_conv, self.point_conv = loc_conv, conf_conv, point_conv
        self.num_classes = num_classes
        convolutions = [layer for layer in loc_conv.modules() if isinstance(layer, nn.Conv2d)]
        self.num_boxes = convolutions[-1].out_channels // 4

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``[B, channels, H, W]`` -> offsets ``[B, P, 4]``, logits ``[B, P, C]``, and landmarks ``[B, P,
        10]``.
        """
        parts = [(self.loc_conv, 4), (self.conf_conv, self.num_classes)]
        if self.point_conv is not None:
            parts.append((self.point_conv, 10))
        return tuple(
            module(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width)) for module, width in parts
        )


def reversed_channels(x: Tensor) -> Tensor:
    """RGB as BGR."""
    return torch.cat([x[:, k : k + 1] for k in (2, 1, 0)], 1)
