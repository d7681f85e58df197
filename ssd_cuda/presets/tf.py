"""tensorflow/models, object_detection: the anchors of SSD with a reduced first level."""

from __future__ import annotations

import math

from ._sizes import linear_scales


def _boxes() -> tuple[tuple[tuple[float, float], ...], ...]:
    """Three boxes in the first level, s' last in the others."""
    scales = linear_scales(0.2, 0.95, 6)

    def shape(scale: float, ratio: float) -> tuple[float, float]:
        return scale * math.sqrt(ratio), scale / math.sqrt(ratio)

    first = (shape(0.1, 1), shape(scales[0], 2), shape(scales[0], 0.5))
    rest = []
    for k in range(1, 6):
        row = [shape(scales[k], ratio) for ratio in (1, 2, 0.5, 3, 1 / 3)]
        rest.append((*row, shape(math.sqrt(scales[k] * scales[k + 1]), 1)))
    return (first, *rest)


PRIORS = {
    # create_ssd_anchors says that it clips to the unit square, and gives no window to clip to.
    "tf": dict(feature_maps=(19, 10, 5, 3, 2, 1), boxes=_boxes(), steps=None, format="xyxy")
}
