"""Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB."""

from __future__ import annotations

import math
from typing import Any


def _priors(image_size: tuple[int, int] = (240, 320)) -> dict[str, Any]:
    """Centres are (j + .5) / map, with map = ceil(image / stride)."""
    height, width = image_size
    return dict(
        image_size=image_size,
        feature_maps=tuple((math.ceil(height / s), math.ceil(width / s)) for s in (8, 16, 32, 64)),
        sizes=((10, 16, 24), (32, 48), (64, 96), (128, 192, 256)),
        larger_sizes=None,
        ratios=((), (), (), ()),
        steps=None,
        clip="cxcywh",
    )


PRIORS = {"ulfg": _priors}
