"""The post-process in plain PyTorch: scores, threshold, top-k, decode, clip, NMS, best of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .boxes import decode
from .exponential import sigmoid, softmax
from .nms import nms, order_by_score
from .soft_nms import soft_nms as soften


def class_scores(conf: Tensor, scores: str) -> Tensor:
    """conf: [..., C] logits (probabilities when ``scores`` is ``"given"``) -> [..., C] float32 or float64."""
    conf = conf if conf.dtype == torch.float64 else conf.float()
    if scores == "softmax":
        return softmax(conf)
    return sigmoid(conf) if scores == "sigmoid" else conf


def clip_boxes(boxes: Tensor, size: Sequence[float] | Tensor) -> Tensor:
    """[B, P, 4] -> the same, cut to 0 <= x <= width, 0 <= y <= height; size: two numbers, or [B, 2]."""
    sizes = size.to(boxes) if isinstance(size, Tensor) else boxes.new_tensor([size])
    return torch.minimum(boxes.clamp(min=0), torch.cat([sizes, sizes], 1)[:, None])


def _of_label(threshold: float | Sequence[float], label: int) -> float:
    return threshold[label] if isinstance(threshold, Sequence) else threshold


def _candidates(
    scores: Tensor, labels: Sequence[int], threshold: float | Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """scores: [P, C] -> (score, label, prior) of what passes, by (score desc, label asc, prior asc).

    The threshold (one, or one of each column) is rounded to the dtype of the scores and the test is ``>``:
    a NaN score never passes.
    """
    limits = scores.new_tensor([[_of_label(threshold, c)] for c in labels]).reshape(-1, 1)
    columns = scores[:, list(labels)].T  # [L, P]: flat order is label, then prior
    index, prior = (columns > limits).nonzero(as_tuple=True)
    score = columns[index, prior]
    label = torch.tensor(list(labels), dtype=torch.int64, device=scores.device)[index]
    order = order_by_score(score)
    return score[order], label[order], prior[order]


def detect(
    loc: Tensor,
    conf: Tensor,
    priors: Tensor,
    *,
    scores: str = "softmax",
    score_threshold: float | Sequence[float] = 0.01,
    top_k: int | None = 400,
    iou_threshold: float | Sequence[float] = 0.45,
    inclusive: bool = False,
    iou_eps: float = 0.0,
    pixel_offset: float = 0.0,
    detections_per_image: int | None = 200,
    class_agnostic: bool = False,
    background: str = "first",
    variances: Sequence[float] = (0.1, 0.2),
    max_log_scale: float | None = None,
    symmetric_log_scale: bool = False,
    clip: str = "none",
    clip_size: Sequence[float] | Tensor = (1.0, 1.0),
    soft_nms: str | None = None,
    soft_nms_sigma: float = 0.5,
    layout: str = "bpc",
    prior_format: str = "cxcywh",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loc: [B, P, 4], conf: [B, P, C] (or [B, 4, P], [B, C, P]), priors: [P, 4] or [B, P, 4] ->
    (boxes [B, K, 4], scores [B, K], labels [B, K], prior indices [B, K], counts [B]).

    Rows are ordered by (score desc, label asc, prior asc); rows past the count hold 0, 0, -1 and -1. Boxes
    and scores are float32 (float64 for float64 inputs), the rest int64. K is ``detections_per_image``; when
    that is None, ``top_k`` (None: P) times the number of foreground classes, or times 1 when class-agnostic
    with a ``top_k``. A label is the index of its column. The options are those of ``DetectConfig``;
    thresholds may be one a column.
    """
    if layout == "bcp":
        loc, conf = loc.transpose(1, 2), conf.transpose(1, 2)
    num_classes = conf.shape[2]
    first, last = int(background == "first"), num_classes - int(background == "last")
    foreground = range(first, max(first, last))
    probability = class_scores(conf, scores)
    decoded = decode(
        loc if loc.dtype == torch.float64 else loc.float(),
        priors,
        variances,
        prior_format,
        max_log_scale,
        symmetric_log_scale,
    )
    if clip == "before":
        decoded = clip_boxes(decoded, clip_size)

    groups = [foreground] if class_agnostic else [range(c, c + 1) for c in foreground]
    images = []
    for b in range(len(conf)):
        found = []
        for labels in groups:
            score, label, prior = (x[:top_k] for x in _candidates(probability[b], labels, score_threshold))
            keep, score = _suppress(
                decoded[b][prior],
                score,
                _of_label(score_threshold, max(labels, default=0)),
                _of_label(iou_threshold, max(labels, default=0)),
                {"method": soft_nms, "sigma": soft_nms_sigma} if soft_nms else None,
                inclusive=inclusive,
                iou_eps=iou_eps,
                pixel_offset=pixel_offset,
            )
            keep, score = keep[:detections_per_image], score[:detections_per_image]  # in the order of choice
            found.append((score, label[keep], prior[keep]))
        images.append(_best(found, detections_per_image, probability))
    rows = detections_per_image
    if rows is None:
        per_group = conf.shape[1] * (len(foreground) if class_agnostic else 1) if top_k is None else top_k
        rows = per_group * len(groups)
    if clip == "after":
        decoded = clip_boxes(decoded, clip_size)
    return _pad(images, decoded, rows, probability)


def _suppress(
    boxes: Tensor, score: Tensor, score_threshold: float, iou_threshold: float, soft: dict | None, **rule
) -> tuple[Tensor, Tensor]:
    """Indices and final scores of what survives among the candidates of one group."""
    if soft is None:
        keep = nms(boxes, score, iou_threshold, **rule)
        return keep, score[keep]
    return soften(boxes, score, score_threshold, iou_threshold=iou_threshold, **soft, **rule)


def _best(
    found: list[tuple[Tensor, Tensor, Tensor]], limit: int | None, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Join the groups of an image and keep the first ``limit`` by (score desc, label asc, prior asc).

    A decayed score can tie with that of a candidate chosen later, of a lower label: three stable sorts.
    """
    if not found:
        none = torch.zeros(0, dtype=torch.int64, device=like.device)
        return like.new_zeros(0), none, none
    score, label, prior = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = prior.argsort(stable=True)
    order = order[label[order].argsort(stable=True)]
    order = order[order_by_score(score[order])][:limit]
    return score[order], label[order], prior[order]


def _pad(
    images: list[tuple[Tensor, Tensor, Tensor]], decoded: Tensor, rows: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch = len(images)
    boxes = decoded.new_zeros(batch, rows, 4)
    scores = like.new_zeros(batch, rows)
    labels = torch.full((batch, rows), -1, dtype=torch.int64, device=like.device)
    indices = labels.clone()
    counts = torch.tensor([len(score) for score, _, _ in images], dtype=torch.int64, device=like.device)
    for b, (score, label, prior) in enumerate(images):
        boxes[b, : len(score)] = decoded[b][prior]
        scores[b, : len(score)] = score
        labels[b, : len(score)] = label
        indices[b, : len(score)] = prior
    return boxes, scores, labels, indices, counts
