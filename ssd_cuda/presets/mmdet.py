"""open-mmlab/mmdetection: SSDHead."""

from __future__ import annotations

from ._sizes import COCO_300
from .torchvision import MAX_LOG_SCALE

MULTIBOX = {
    "mmdet": dict(
        match=dict(prior_format="xyxy", degenerate="keep"),
        mining=dict(cap="negatives"),
        normalizer="batch_min_one",
        background="last",
        zero_label="positive",
    )
}

DETECT = {
    "mmdet": dict(
        score_threshold=0.02,
        top_k=1000,
        background="last",
        prior_format="xyxy",
        max_log_scale=MAX_LOG_SCALE,
        symmetric_log_scale=True,
        clip="before",
        clip_size=(300.0, 300.0),
    )
}

PRIORS = {"mmdet": dict(**COCO_300, integer_sizes=True, format="xyxy", pixels=True)}
