"""biubug6/Pytorch_Retinaface.

Detection is that of ``detect.py``; its evaluations (``test_widerface.py``, ``test_fddb.py``) have no limits:
``DetectConfig.preset("retinaface", top_k=None, detections_per_image=None)``. Relatives that call cv2's NMS
measure a box as x2 - x1: ``DetectConfig.preset("retinaface", pixel_offset=0.0)``.
"""

from __future__ import annotations

MULTIBOX = {
    "retinaface": dict(
        match=dict(iou_threshold=0.35, forced_min_iou=0.2, relabel_unforced=True, degenerate="keep"),
        mining=dict(ratio=7.0, cap="all_but_one", positive_fill="zero"),
        loc_weight=2.0,
        single_class=True,
    )
}

DETECT = {
    "retinaface": dict(
        score_threshold=0.02,
        top_k=5000,
        iou_threshold=0.4000000059604645,  # float32(0.4): that code compares in float32
        pixel_offset=1.0,
        detections_per_image=750,
    )
}

PRIORS = {
    "retinaface": dict(
        image_size=(640, 640),
        feature_maps=None,
        sizes=((16, 32), (64, 128), (256, 512)),
        larger_sizes=None,
        ratios=((), (), ()),
        steps=(8, 16, 32),
    )
}
