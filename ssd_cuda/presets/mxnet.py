"""apache/mxnet: the operator MultiBoxTarget."""

from __future__ import annotations

MULTIBOX = {
    "mxnet": dict(
        match=dict(inclusive=False, forced="bipartite", forced_min_iou=1e-6, candidate_max_iou=0.5),
        mining=dict(cap="negatives"),
        normalizer="selected",
        label_offset=1,
    )
}
