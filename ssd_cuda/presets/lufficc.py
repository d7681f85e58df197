"""lufficc/SSD."""

from __future__ import annotations

from ._sizes import SSD512, chain

MULTIBOX = {
    "lufficc": dict(
        match=dict(iou_eps=1e-5, degenerate="keep"),
        mining=dict(cap="all", key="background", rounding="ceil"),
        clamp_normalizer=False,
    )
}

DETECT = {"lufficc": dict(top_k=None, detections_per_image=100)}

PRIORS = {
    "lufficc": dict(clip="cxcywh"),
    "lufficc512": dict(
        **chain((20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)), **SSD512, clip="cxcywh"
    ),
}
