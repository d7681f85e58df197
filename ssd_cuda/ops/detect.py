"""The fused post-process: from raw offsets and logits to the detections of every image."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._extension import register_fake, require
from ..config import DetectConfig
from ._checks import FLOATING, check_no_grad, check_tensor, config_or, finite, first_rows, four_variances
from ._pytrees import register_named_tuple

_DEFAULT = DetectConfig()
_NO_LIMIT = 2**63 - 1
_LARGEST = torch.finfo(torch.float64).max  # stands for an infinite threshold: a score may lie above float32's
_MOST_SOFT_KEYS = 2**31 - 32  # of a list of soft-NMS on CUDA: a power of two above fits in 32 bits


@register_named_tuple
class Detections(NamedTuple):
    """What :func:`detect` found, padded to K rows an image so that no size depends on the data.

    Rows are ordered by (score descending, label ascending, prior ascending). Past ``counts`` they hold
    zeros, label -1 and prior index -1.

    Attributes:
        boxes: ``[B, K, 4]`` x1, y1, x2, y2 in the units of the priors.
        scores: ``[B, K]``.
        labels: ``[B, K]`` int64, the index of the class column.
        prior_indices: ``[B, K]`` int64, the prior that each row was decoded from.
        counts: ``[B]`` int64, filled rows of each image.
        extra: ``[B, K, E]``, the rows of ``extra`` that belong to the detections, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    prior_indices: Tensor
    counts: Tensor
    extra: Tensor | None = None

    def to_list(self) -> list[dict[str, Tensor]]:
        """torchvision's form: per image a dict of ``boxes``, ``scores`` and ``labels`` without padding (and
        ``extra`` if there is one). Reads ``counts`` on the host: one synchronisation."""
        names = (
            ("boxes", "scores", "labels") if self.extra is None else ("boxes", "scores", "labels", "extra")
        )
        counts: Any = self.counts.unbind() if torch.jit.is_tracing() else self.counts.tolist()
        found = []
        for image, count in enumerate(counts):
            rows = first_rows(count, *(getattr(self, name)[image] for name in names))
            found.append(dict(zip(names, rows, strict=True)))
        return found


def detect(
    loc: Tensor,
    conf: Tensor,
    priors: Tensor,
    config: DetectConfig | None = None,
    *,
    extra: Tensor | None = None,
    clip_sizes: Tensor | None = None,
) -> Detections:
    """Scores, threshold, top-k, decoding, clipping, NMS and the best rows of each image, in one call.

    The logits are read once; boxes are decoded only for candidates. Nothing waits for the device, and
    every shape follows from the shapes of the inputs and the options. There is no limit on candidates:
    when every class of every prior passes, the result is still the exact one.

    Numerics: scores are fp32 for every logit dtype but float64, with the same bits on every processor:
    ``exp(x - max)`` over the sum of 32 partial sums, column c in sum ``c mod 32``, which are added upper half
    to lower half; ``exp`` is that of :mod:`ssd_cuda.reference.exponential`, written out there. They differ
    from ``torch.softmax`` by a few units in the last place, so the order of near-equal scores can. A score
    passes when it is ``>`` the threshold rounded to the dtype of the scores. NMS compares an fp32 IoU with
    the threshold as torchvision's CPU kernel does; an IoU that is nan suppresses nothing. A row of logits
    with a nan or +inf has nan softmax scores, which never pass.

    Args:
        loc: ``[B, P, 4]`` box offsets (``[B, 4, P]`` for layout ``"bcp"``); float32, float64, float16,
            bfloat16. Any strides.
        conf: ``[B, P, C]`` logits, or probabilities for ``scores="given"`` (``[B, C, P]``).
        priors: ``[P, 4]``, or ``[B, P, 4]`` for priors that differ by image.
        config: every option, see :class:`ssd_cuda.DetectConfig`; None is ``DetectConfig()``. Thresholds may
            be one a class: ``DetectConfig(score_threshold=(0.0, 0.5, 0.2))`` for two classes after the
            background.
        clip_sizes: ``[B, 2]`` (width, height) of the clip window of each image, any floating dtype, on the
            device of ``conf``; instead of ``config.clip_size``, where images of a batch differ in size.
        extra: ``[B, P, E]`` columns that travel with their prior (landmarks), any dtype.

    Returns:
        :class:`Detections` with K = ``config.detections_per_image`` rows; when that is None, ``top_k`` (None:
        P) rows per class, or per image when class-agnostic. Boxes and scores are float32 (float64 for
        float64 inputs). The result carries no gradient.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, devices or options; an input that requires a
            gradient; P * C of 2**32 or more; soft-NMS on CUDA of lists that would keep about 2**30.

    Example:
        >>> priors = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.8, 0.8, 0.2, 0.2]])
        >>> conf = torch.tensor([[[0.0, 4.0], [9.0, 0.0]]])  # the second prior is background
        >>> found = ops.detect(torch.zeros(1, 2, 4), conf, priors)
        >>> found.counts, found.to_list()[0]["labels"], found.boxes.shape
        (tensor([1]), tensor([1]), torch.Size([1, 200, 4]))
    """
    config = config_or(_DEFAULT, config)
    loc, conf, priors = _check(loc, conf, priors, config, extra)
    if clip_sizes is not None:
        clip_sizes = _checked_clip_sizes(clip_sizes, config, loc, priors.dtype)
    require("detect", loc, conf, priors, extra, clip_sizes)
    class_dim = 1 if config.layout == "bcp" else 2
    options = op_options(config, conf.shape[3 - class_dim], conf.shape[class_dim])
    boxes, scores, labels, prior_indices, counts = torch.ops.ssd_cuda.detect(
        loc, conf, priors, clip_sizes, **options
    )
    carried = None if extra is None else _carry(extra, prior_indices)
    # At once: torch.compile of torch 2.11 cannot trace NamedTuple._replace.
    return Detections(boxes, scores, labels, prior_indices, counts, carried)


def _check(
    loc: Tensor, conf: Tensor, priors: Tensor, config: DetectConfig, extra: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs validated: loc and conf in one dtype, priors in the dtype of the arithmetic."""
    check_tensor("conf", conf, ("B", "C", "P") if config.layout == "bcp" else ("B", "P", "C"), FLOATING)
    batch, num_priors, num_classes = conf.shape
    if config.layout == "bcp":
        num_priors, num_classes = num_classes, num_priors
    loc_shape = (batch, 4, num_priors) if config.layout == "bcp" else (batch, num_priors, 4)
    check_tensor("loc", loc, loc_shape, FLOATING)
    if not isinstance(priors, Tensor) or priors.dim() != 3:
        check_tensor("priors", priors, (num_priors, 4), FLOATING)
    else:
        check_tensor("priors", priors, (batch, num_priors, 4), FLOATING)
    if extra is not None:
        if not isinstance(extra, Tensor):
            raise TypeError(f"extra must be a tensor, got {type(extra).__name__}")
        check_tensor("extra", extra, (batch, num_priors, "E"), (extra.dtype,))
        if extra.is_quantized:
            raise TypeError(
                f"extra must not be quantised, got {extra.dtype}; use .dequantize() or .int_repr()"
            )
    if not torch.compiler.is_compiling() and num_priors * num_classes >= 2**32:
        raise ValueError(
            f"conf must have fewer than 2**32 scores an image, got P * C = {num_priors * num_classes}"
        )
    if config.soft_nms and not conf.is_cpu:
        _check_soft_list(config, num_priors, num_classes)
    for name, value in (("loc", loc), ("conf", conf), ("priors", priors), ("extra", extra)):
        check_no_grad(name, value, "detect has no backward")
    wide = torch.float64 if torch.float64 in (loc.dtype, conf.dtype) else torch.float32
    if loc.dtype != conf.dtype:
        loc, conf = loc.to(wide), conf.to(wide)
    return loc, conf, priors.to(wide)


def _checked_clip_sizes(sizes: Tensor, config: DetectConfig, loc: Tensor, dtype: torch.dtype) -> Tensor:
    """The sizes in the dtype of the arithmetic. Their values are not looked at: 0 leaves nothing of a box."""
    check_tensor("clip_sizes", sizes, (loc.shape[0], 2), FLOATING)
    if config.clip == "none":
        raise ValueError("clip_sizes needs clip='before' or 'after', got clip='none'")
    return sizes.detach().to(dtype)


def _check_soft_list(config: DetectConfig, num_priors: int, num_classes: int) -> None:
    """A list of soft-NMS on CUDA lies in memory as keys: twice what it keeps, at most all its candidates."""
    labels = max(0, num_classes - (config.background != "none"))
    candidates = num_priors * (labels if config.class_agnostic else 1)
    kept = candidates if config.top_k is None else config.top_k
    if min(candidates, 2 * kept) > _MOST_SOFT_KEYS:
        raise ValueError(
            f"top_k must be below 2**30 for soft-NMS of {candidates} scores in a list on CUDA, "
            f"got {config.top_k}"
        )


def op_options(config: DetectConfig, num_priors: int, num_classes: int) -> dict[str, Any]:
    """The options of ``torch.ops.ssd_cuda.detect``: the table of csrc/detect/detect_rule.h."""
    first = int(config.background == "first")
    last = max(first, num_classes - int(config.background == "last"))
    return {
        "scores": config.scores,
        "score_threshold": _thresholds("score_threshold", config.score_threshold, num_classes),
        "top_k": _NO_LIMIT if config.top_k is None else config.top_k,
        "iou_threshold": _thresholds("iou_threshold", config.iou_threshold, num_classes),
        "inclusive": config.inclusive,
        "iou_eps": config.iou_eps,
        "pixel_offset": config.pixel_offset,
        "soft_sigma": config.soft_nms_sigma if config.soft_nms else 0.0,
        "soft_linear": config.soft_nms == "linear",
        "class_agnostic": config.class_agnostic,
        "first_label": first,
        "last_label": last,
        "rows": _output_rows(config, num_priors, last - first),
        "variance": four_variances(config.variances),
        "max_log": finite(config.max_log_scale),
        "symmetric": config.symmetric_log_scale,
        "xyxy": config.prior_format == "xyxy",
        "clip": config.clip,
        "clip_size": [float(side) for side in config.clip_size],
        "channels_first": config.layout == "bcp",
    }


def _thresholds(name: str, value: float | tuple[float, ...], num_classes: int) -> list[float]:
    """One number for all columns, or one a column."""
    if not isinstance(value, tuple):
        return [finite(value, _LARGEST)]
    if len(value) != num_classes:
        raise ValueError(
            f"{name} must be one number or one for each of the {num_classes} columns of conf, "
            f"got {len(value)}"
        )
    return [finite(part, _LARGEST) for part in value]


def _output_rows(config: DetectConfig, num_priors: int, labels: int) -> int:
    if config.detections_per_image is not None:
        return config.detections_per_image
    if config.class_agnostic:
        return num_priors * labels if config.top_k is None else config.top_k
    return (num_priors if config.top_k is None else config.top_k) * labels


# What torch gathers; of any other, float8 and the like, the bytes are carried as integers.
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_GATHERED = (*FLOATING, *_INTEGERS, torch.complex64, torch.complex128)
_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _carry(extra: Tensor, prior_indices: Tensor) -> Tensor:
    """extra: [B, P, E], prior_indices: [B, K] -> [B, K, E], zeros where the index is -1."""
    if extra.dtype not in _GATHERED:
        return _carry(extra.view(_BYTES[extra.element_size()]), prior_indices).view(extra.dtype)
    batch, num_priors, width = extra.shape
    if num_priors == 0:
        return extra.new_zeros(batch, prior_indices.shape[1], width)
    index = prior_indices[..., None]
    rows = torch.gather(extra, 1, index.clamp(min=0).expand(-1, -1, width))
    return torch.where(index >= 0, rows, torch.zeros_like(rows))


@register_fake("detect")
def _(loc, conf, priors, clip_sizes=None, *, rows, **_):
    batch, long = conf.shape[0], torch.int64
    # Of conf, an activation: AOTInductor passes priors that are a constant as they are, and what is made of
    # those is real memory, whose garbage it took for the number of detections.
    return (
        conf.new_empty(batch, rows, 4, dtype=priors.dtype),
        conf.new_empty(batch, rows, dtype=priors.dtype),
        conf.new_empty(batch, rows, dtype=long),
        conf.new_empty(batch, rows, dtype=long),
        conf.new_empty(batch, dtype=long),
    )
