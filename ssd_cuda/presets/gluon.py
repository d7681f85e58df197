"""dmlc/gluon-cv: SSDMultiBoxLoss and the SSD anchors."""

from __future__ import annotations

from ._sizes import chain

MULTIBOX = {
    "gluon": dict(
        match=dict(forced="bipartite", forced_min_iou=1e-12),
        mining=dict(cap="all", positive_fill="zero", rounding="ceil"),
        normalizer="global",
    )
}

PRIORS = {
    "gluon": dict(
        **chain((30, 60, 111, 162, 213, 264, 315)),
        ratios=((1, 2, 0.5), *((1, 2, 0.5, 3, 1 / 3),) * 3, (1, 2, 0.5), (1, 2, 0.5)),
        ratio_order="listed",
        pixels=True,
    )
}
