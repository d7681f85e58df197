"""qfgaohao/pytorch-ssd, and jetson-inference, which carries it.

Its configuration files hold 0.45: that is the NMS of the predictor. ``train_ssd.py`` matches at 0.5.
"""

from __future__ import annotations

from ._sizes import chain

MULTIBOX = {
    "qfgaohao": dict(
        match=dict(iou_eps=1e-5, degenerate="keep"),
        mining=dict(cap="all", key="background", rounding="ceil"),
        clamp_normalizer=False,
    )
}

DETECT = {"qfgaohao": dict(top_k=200, iou_eps=1e-5, detections_per_image=None)}

PRIORS = {
    "qfgaohao": dict(clip="cxcywh"),
    "qfgaohao_mobilenet": dict(
        **chain((60, 105, 150, 195, 240, 285, 330)),
        feature_maps=(19, 10, 5, 3, 2, 1),
        ratios=((2, 3),) * 6,
        steps=(16, 32, 64, 100, 150, 300),
        clip="cxcywh",
    ),
}
