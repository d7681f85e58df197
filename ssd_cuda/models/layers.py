"""Layers of an SSD: the extra feature layers, the prediction head, the L2 norm of conv4_3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["L2Norm", "SSD512ExtraLayers", "SSDExtraLayers", "SSDHead"]

Step = tuple[int, int, int, int, int]  # channels between, channels out, kernel, stride, padding


class _ExtraLayers(nn.Module):
    """Pairs of a 1x1 and a spatial convolution, ``conv8_1, conv8_2, conv9_1, ...``; one map a pair."""

    def __init__(self, in_channels: int, steps: Sequence[Step]) -> None:
        super().__init__()
        self.out_channels = [step[1] for step in steps]
        for number, (between, out, kernel, stride, padding) in enumerate(steps, 8):
            self.add_module(f"conv{number}_1", nn.Conv2d(in_channels, between, kernel_size=1))
            self.add_module(f"conv{number}_2", nn.Conv2d(between, out, kernel, stride, padding))
            in_channels = out

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for index, conv in enumerate(self.children()):
            x = F.relu(conv(x), inplace=True)
            if index % 2:
                features.append(x)
        return features


class SSDExtraLayers(_ExtraLayers):
    """conv8_1 .. conv11_2 of SSD300: from fc7 at 19x19 to maps of 10x10, 5x5, 3x3 and 1x1.

    Args:
        in_channels: channels of fc7.

    Example:
        >>> [tuple(f.shape[1:]) for f in models.SSDExtraLayers(64)(torch.zeros(1, 64, 19, 19))]
        [(512, 10, 10), (256, 5, 5), (256, 3, 3), (256, 1, 1)]
    """

    def __init__(self, in_channels: int = 1024) -> None:
        steps = [(256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0)]
        super().__init__(in_channels, steps)


class SSD512ExtraLayers(_ExtraLayers):
    """conv8_1 .. conv12_2 of SSD512: from fc7 at 32x32 to maps of 16, 8, 4, 2 and 1."""

    def __init__(self, in_channels: int = 1024) -> None:
        halving = [(128, 256, 3, 2, 1)] * 3
        super().__init__(in_channels, [(256, 512, 3, 2, 1), *halving, (128, 256, 4, 1, 1)])


class SSDHead(nn.Module):
    """The predictions of one feature map: a convolution for offsets, one for class logits.

    Args:
        in_channels: channels of the feature map.
        num_boxes: priors per cell.
        num_classes: classes, background included.
        kernel: side of both convolutions, odd.

    Example:
        >>> loc, conf = models.SSDHead(8, 4, 21)(torch.zeros(1, 8, 5, 5))
        >>> loc.shape, conf.shape  # 25 cells of four priors
        (torch.Size([1, 100, 4]), torch.Size([1, 100, 21]))
    """

    def __init__(self, in_channels: int, num_boxes: int, num_classes: int, kernel: int = 3) -> None:
        super().__init__()
        pad = kernel // 2
        self.loc_conv = nn.Conv2d(in_channels, num_boxes * 4, kernel, padding=pad)
        self.conf_conv = nn.Conv2d(in_channels, num_boxes * num_classes, kernel, padding=pad)
        self.num_classes = num_classes
        self.num_boxes = num_boxes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, in_channels, H, W]`` -> offsets ``[B, P, 4]``, logits ``[B, P, C]``; P = H * W * boxes."""
        batch = x.size(0)
        count = x.size(2) * x.size(3) * self.num_boxes
        for_loc, for_conf = self.features(x)
        loc = self.loc_conv(for_loc).permute(0, 2, 3, 1).reshape(batch, count, 4)
        conf = self.conf_conv(for_conf).permute(0, 2, 3, 1).reshape(batch, count, self.num_classes)
        return loc, conf

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the two convolutions see of the map; here the map itself."""
        return x, x


class L2Norm(nn.Module):
    """Each position's channel vector at length 1, times a learned scale per channel.

    conv4_3 has a larger scale of features than the deeper maps; the paper (section 3.1, after ParseNet)
    starts the scale at 20.

    Example:
        >>> models.L2Norm(2, 20.0)(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).flatten()
        tensor([12., 16.], grad_fn=<ViewBackward0>)
    """

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.view(1, -1, 1, 1) * F.normalize(x)
