"""Boxes that say how they are written: torchvision's ``tv_tensors.BoundingBoxes``."""

from __future__ import annotations

from torch import Tensor


def _format(boxes: Tensor) -> str | None:
    """``XYXY``, ``XYWH``, ``CXCYWH`` and others; None for a tensor that does not say."""
    return getattr(getattr(boxes, "format", None), "name", None)


def check_corners(name: str, boxes: Tensor) -> None:
    """Raise for boxes that say they are something else than x1, y1, x2, y2."""
    found = _format(boxes)
    if found not in (None, "XYXY"):
        raise ValueError(
            f"{name} must hold x1, y1, x2, y2 (XYXY), got BoundingBoxes of the format {found}; "
            "see torchvision.transforms.v2.ConvertBoundingBoxFormat"
        )


def to_corners(name: str, boxes: Tensor) -> Tensor:
    """The boxes as x1, y1, x2, y2 where they say that they are x, y, w, h or cx, cy, w, h; the same else."""
    if _format(boxes) in ("XYWH", "CXCYWH"):
        from torchvision.transforms.v2.functional import convert_bounding_box_format

        boxes = convert_bounding_box_format(boxes, new_format="XYXY")
    check_corners(name, boxes)
    return boxes
