"""NVIDIA DeepLearningExamples, PyTorch/Detection/SSD."""

from __future__ import annotations

from ._sizes import COCO_300

MULTIBOX = {
    "nvidia": dict(
        match=dict(inclusive=False, degenerate="keep"),
        mining=dict(cap="all", positive_fill="zero"),
        normalizer="per_image",
        layout="bcp",
    )
}

DETECT = {"nvidia": dict(score_threshold=0.05, top_k=200, iou_threshold=0.5, inclusive=True, layout="bcp")}

PRIORS = {"nvidia": dict(**COCO_300, clip="cxcywh", layout="box_major")}
