"""qfgaohao/pytorch-ssd, and jetson-inference, which carries it."""

from __future__ import annotations

MULTIBOX = {
    "qfgaohao": dict(
        match=dict(iou_threshold=0.45, iou_eps=1e-5, degenerate="keep"),
        mining=dict(cap="all", key="background", rounding="ceil"),
        clamp_normalizer=False,
    )
}

DETECT = {"qfgaohao": dict(top_k=200, iou_eps=1e-5, detections_per_image=None)}

PRIORS = {"qfgaohao": dict(clip="cxcywh")}
