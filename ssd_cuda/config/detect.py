"""The options of the post-process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .checks import BoxFormat, check_each, check_integer, check_range, check_variances, is_positive
from .options import HasPresets

__all__ = ["DetectConfig"]


@dataclass(frozen=True)
class DetectConfig(HasPresets, presets="DETECT"):
    """The whole post-process: scores, threshold, top-k, decode, NMS, top-n.

    Attributes:
        scores: ``"softmax"`` over the classes, ``"sigmoid"``, or ``"given"`` (already probabilities).
        score_threshold: a class of a prior is a candidate if its score is ``>`` this, rounded to float32. One
            number, or a tuple of one for each of the C columns of ``conf``, of which the background's is
            not looked at.
        top_k: candidates kept per class (per image when ``class_agnostic``) before NMS; None: all.
        iou_threshold: NMS threshold, compared in float64 with the float32 IoU; one number, or one a column.
        inclusive: False suppresses at IoU ``>`` threshold, True at ``>=`` (NVIDIA keeps ``<``).
        iou_eps: added to the union (qfgaohao 1e-5).
        pixel_offset: 1.0 measures boxes as ``x2 - x1 + 1`` in NMS (RetinaFace), else 0.0. The priors are
            then in pixels: boxes come out in the units of the priors.
        detections_per_image: best detections kept per image; None: every survivor (then the padded
            output has ``top_k`` rows, or as many as there are priors, per foreground class; ``top_k`` in
            all when ``class_agnostic``).
        class_agnostic: one NMS over all classes of an image; ``iou_threshold`` is one number then, and
            with ``soft_nms`` so is ``score_threshold``.
        background: index of the background column, ``"first"``, ``"last"`` or ``"none"``.
        variances: as in :class:`MultiBoxConfig`.
        max_log_scale: dw, dh are cut at this (torchvision: log(1000/16)); None: no cut.
        symmetric_log_scale: also cut below at the negative of it (mmdet).
        clip: box clipping ``"none"``, ``"before"`` or ``"after"`` NMS.
        clip_size: (width, height) of the clip window in the units of the boxes.
        soft_nms: ``None``, ``"gaussian"`` (qfgaohao's option, there with ``top_k=None``) or ``"linear"``:
            scores decay as in :func:`ssd_cuda.ops.soft_nms`, and those that fall to ``score_threshold`` are
            dropped. The gaussian does not use ``iou_threshold`` and ``inclusive``.
        soft_nms_sigma: width of the gaussian.
        layout: as in :class:`MultiBoxConfig`.
        prior_format: as in :class:`MatchConfig`.

    Example:
        >>> ssd_cuda.DetectConfig.preset("paper", detections_per_image=100).iou_threshold
        0.45
    """

    scores: Literal["softmax", "sigmoid", "given"] = "softmax"
    score_threshold: float | tuple[float, ...] = 0.01
    top_k: int | None = 400
    iou_threshold: float | tuple[float, ...] = 0.45
    inclusive: bool = False
    iou_eps: float = 0.0
    pixel_offset: float = 0.0
    detections_per_image: int | None = 200
    class_agnostic: bool = False
    background: Literal["first", "last", "none"] = "first"
    variances: tuple[float, ...] = (0.1, 0.2)
    max_log_scale: float | None = None
    symmetric_log_scale: bool = False
    clip: Literal["none", "before", "after"] = "none"
    clip_size: tuple[float, float] = (1.0, 1.0)
    soft_nms: Literal["gaussian", "linear"] | None = None
    soft_nms_sigma: float = 0.5
    layout: Literal["bpc", "bcp"] = "bpc"
    prior_format: BoxFormat = "cxcywh"

    def _check(self) -> None:
        check_each("score_threshold", self.score_threshold, -math.inf, finite=False)
        check_each("iou_threshold", self.iou_threshold, 0.0, 1.0)
        if self.class_agnostic:
            _check_shared("iou_threshold", self.iou_threshold, "class_agnostic")
            if self.soft_nms:
                _check_shared("score_threshold", self.score_threshold, "class_agnostic with soft_nms")
        check_range("iou_eps", self.iou_eps, 0.0)
        check_range("pixel_offset", self.pixel_offset, 0.0)
        check_range("soft_nms_sigma", self.soft_nms_sigma, 1e-12)
        for name in ("top_k", "detections_per_image"):
            value = getattr(self, name)
            if value is not None:
                check_integer(name, value, 1)
        if self.max_log_scale is not None:
            check_range("max_log_scale", self.max_log_scale, 0.0)
        if len(self.clip_size) != 2 or not all(map(is_positive, self.clip_size)):
            raise ValueError(f"clip_size must be two positive numbers, got {self.clip_size}")
        check_variances(self.variances)


def _check_shared(name: str, value: float | tuple[float, ...], where: str) -> None:
    if isinstance(value, tuple):
        raise ValueError(f"{name} must be one number for {where}, got {len(value)}")
