"""What each form cannot express, and what some runtime does with one that is expressed."""

from __future__ import annotations

from ..config import DetectConfig
from .greedy import needs_loop
from .onnx_ops import ONNXExportError

__all__ = ["check_rule", "remarks"]


def remarks(form: str, config: DetectConfig) -> list[str]:
    """Sentences on what a runtime does otherwise than the rule; mostly none.

    EfficientNMS_TRT sorts the candidates of an image over all classes and looks at the best 4,096 of them
    (NVIDIA/TensorRT, plugin/efficientNMSPlugin; 5,000 where TensorRT replaces it by its own layer).

    Example:
        >>> export.remarks("nms", DetectConfig(iou_eps=1e-5))[0][:25]
        'iou_eps makes a Loop, whi'
    """
    if form == "tensorrt":
        return [
            "EfficientNMS_TRT looks at the best 4,096 candidates of an image over all classes (5,000 in some "
            "releases), and knows no top-k of a class"
        ]
    if form != "nms" or not needs_loop(config.inclusive, config.iou_eps, config.iou_threshold):
        return []
    if config.iou_eps:
        reason = "iou_eps"
    else:
        reason = "an iou_threshold a class" if isinstance(config.iou_threshold, tuple) else "IoU >= 0"
    return [
        f"{reason} makes a Loop, which OpenCV 5 leaves after one round: run the file in onnxruntime or "
        "OpenVINO, or give OpenCV the form raw"
    ]


def check_rule(form: str, config: DetectConfig) -> None:
    """Raise for what the form cannot express, before minutes of export."""
    if form == "raw":
        return
    if config.soft_nms:
        raise ONNXExportError(
            f"soft_nms must be None: ONNX has no operator for soft-NMS, got {config.soft_nms!r}"
        )
    if form != "tensorrt":
        return
    for name in ("score_threshold", "iou_threshold"):
        if isinstance(getattr(config, name), tuple):
            raise ONNXExportError(
                f"{name} must be one number for EfficientNMS_TRT, got one for each class; "
                "form='nms' takes them"
            )
    for name in ("iou_eps", "pixel_offset"):
        if getattr(config, name):
            raise ONNXExportError(
                f"{name} must be 0.0 for EfficientNMS_TRT, which has no such rule, got "
                f"{getattr(config, name)}; form='nms' builds it from standard operators"
            )
    if config.inclusive and config.iou_threshold == 0:
        raise ONNXExportError("iou_threshold must be above 0 for EfficientNMS_TRT with inclusive, got 0")
    if config.clip == "after" or config.detections_per_image is None:
        name = "clip" if config.clip == "after" else "detections_per_image"
        wanted = "'none' or 'before'" if name == "clip" else "a number"
        raise ONNXExportError(f"{name} must be {wanted} for EfficientNMS_TRT, got {getattr(config, name)!r}")
