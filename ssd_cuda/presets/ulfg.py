"""Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB: qfgaohao's rule with other numbers, for faces.

Detection is that of ``detect_imgs.py``: a score above 0.6, 1500 candidates, of which half are kept at most.
"""

from __future__ import annotations

import math
from typing import Any

from . import qfgaohao

_LOSS: dict[str, Any] = dict(qfgaohao.MULTIBOX["qfgaohao"])
MULTIBOX = {"ulfg": {**_LOSS, "match": {**_LOSS["match"], "iou_threshold": 0.35}}}

DETECT = {
    "ulfg": dict(
        score_threshold=0.6,
        top_k=1500,
        iou_threshold=0.30000001192092896,  # float32(0.3): that code compares in float32
        iou_eps=1e-5,
        detections_per_image=750,
    )
}


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
