"""torchvision.models.detection.ssd: ssd300_vgg16 and ssdlite320_mobilenet_v3_large."""

from __future__ import annotations

import math
from typing import Any

from ._sizes import chain, linear_scales

MAX_LOG_SCALE = math.log(1000.0 / 16)

MULTIBOX = {
    "torchvision": dict(
        match=dict(prior_format="xyxy", degenerate="keep"),
        mining=dict(rounding="ceil", cap="all", count_positives_twice=True),
        zero_label="localize",
    )
}

DETECT = {
    "torchvision": dict(
        prior_format="xyxy", max_log_scale=MAX_LOG_SCALE, clip="before", clip_size=(300.0, 300.0)
    )
}

_COMMON: dict[str, Any] = dict(units="fraction", clip="wh", format="xyxy", pixels=True, arithmetic="float32")
PRIORS = {
    "torchvision": dict(**chain((0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)), **_COMMON),
    "torchvision_ssdlite": dict(
        **chain(linear_scales(0.2, 0.95, 6)),
        **_COMMON,
        image_size=(320, 320),
        feature_maps=(20, 10, 5, 3, 2, 1),
        ratios=((2, 3),) * 6,
        steps=None,
    ),
}
