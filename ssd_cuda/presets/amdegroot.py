"""amdegroot/ssd.pytorch."""

from __future__ import annotations

from ._sizes import COCO_300

MULTIBOX = {
    "amdegroot": dict(
        match=dict(degenerate="keep"),
        mining=dict(cap="all_but_one", positive_fill="zero"),
        clamp_normalizer=False,
        label_offset=1,
    )
}

DETECT = {"amdegroot": dict(top_k=200, detections_per_image=None)}

PRIORS = {"amdegroot": dict(clip="cxcywh"), "amdegroot_coco": dict(**COCO_300, clip="cxcywh")}
