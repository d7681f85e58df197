"""A model of two maps that takes no time, without batch norms, whose statistics would be those of a part."""

from __future__ import annotations

from torch import nn

from ssd_cuda.config import DetectConfig, MultiBoxConfig, PriorSpec
from ssd_cuda.models import SSD


class Backbone(nn.Module):
    """Two maps, of 8 and 4 cells a side for images of 64 pixels."""

    out_channels = (8, 8)

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 2, 2), nn.ReLU())

    def forward(self, x):
        first = self.first(x)
        return [first, self.second(first)]


def tiny(num_classes, image_size=(64, 64), normalizer="batch"):
    spec = PriorSpec(
        image_size=image_size, feature_maps=(8, 4), sizes=(12, 30), larger_sizes=(30, 60),
        ratios=((2,), (2,)), steps=None,
    )  # fmt: skip
    return SSD(
        Backbone(), spec, num_classes, mean=(0.5,) * 3, std=(0.25,) * 3,
        loss_config=MultiBoxConfig(normalizer=normalizer), detect_config=DetectConfig(),
    )  # fmt: skip
