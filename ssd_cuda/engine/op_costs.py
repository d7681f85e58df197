"""What the ops cost beside the reference and torchvision, on the tensors of a real model and batch.

Every row is checked before it is timed. The three are called in turns, so that whatever else the machine
does hits all of them; the medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import ops, reference

if TYPE_CHECKING:
    from ..models import SSD
    from ..ops import GroundTruth

__all__ = ["costs_table", "measure_op_costs"]

Timed = Mapping[str, Callable[[], Any]]


def measure_op_costs(
    model: SSD, images: Tensor, gt: GroundTruth, repeats: int = 9, limit: float = 15.0
) -> list[dict[str, Any]]:
    """Milliseconds of loss with backward, and of detection, for one batch.

    Args:
        model: in ``eval()`` mode; its raw predictions are the input of all.
        images: as the model takes them.
        gt: their ground truth.
        repeats: calls of each; the median counts.
        limit: seconds after which an operation is not called again.

    Returns:
        One dict per operation: ``op``, ``shape``, and milliseconds under ``ssd_cuda``, ``reference`` and,
        where torchvision is installed, ``torchvision``.

    Raises:
        AssertionError: the op and the reference disagree.
    """
    with torch.no_grad():
        loc, conf = model(images)
    loc, conf = loc.contiguous(), conf.contiguous()
    shape = f"B={conf.shape[0]} P={conf.shape[1]} C={conf.shape[2]} G={int(gt.offsets[-1])}"
    rows = []
    for name, make in (("matching + loss + backward", _losses), ("detect", _detections)):
        calls = make(model, loc, conf, gt)
        rows.append({"op": name, "shape": shape, **_medians(calls, repeats, limit, loc.device)})
    return rows


def costs_table(rows: list[dict[str, Any]]) -> str:
    """The rows as a markdown table."""
    names = ["reference", "torchvision", "ssd_cuda"]
    head = ["operation", "shape", *(f"{name}, ms" for name in names), "vs reference", "vs torchvision"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        times = [f"{row[name]:.2f}" if name in row else "-" for name in names]
        gains = [f"{row[name] / row['ssd_cuda']:.1f}x" if name in row else "-" for name in names[:2]]
        lines.append("| " + " | ".join([row["op"], row["shape"], *times, *gains]) + " |")
    return "\n".join(lines)


def _medians(calls: Timed, repeats: int, limit: float, device: torch.device) -> dict[str, float]:
    """Median milliseconds per call, after one call of each to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + limit
    for turn in range(repeats + 1):
        if turn > 1 and time.perf_counter() > end:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def _losses(model: SSD, loc: Tensor, conf: Tensor, gt: GroundTruth) -> Timed:
    config = model.loss_config
    options = asdict(config)

    def backward(loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        leaves = [loc.detach().requires_grad_(), conf.detach().requires_grad_()]
        localization, classification = loss(*leaves)
        gradients = torch.autograd.grad(localization + classification, leaves)
        return (localization.detach(), classification.detach(), *gradients)

    def fused(loc: Tensor, conf: Tensor) -> tuple[Tensor, Tensor]:
        losses = ops.multibox_loss(loc, conf, gt, model.priors, config)
        return losses.localization, losses.classification

    def plain(loc: Tensor, conf: Tensor) -> tuple[Tensor, Tensor]:
        rows = (gt.boxes, gt.labels, gt.offsets)
        return reference.multibox.multibox_loss(loc, conf, *rows, model.priors, **options)[:2]

    for ours, theirs in zip(backward(fused), backward(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    calls = {"reference": lambda: backward(plain), "ssd_cuda": lambda: backward(fused)}
    other = _torchvision_loss(model, gt)
    return calls if other is None else {**calls, "torchvision": lambda: backward(other)}


def _detections(model: SSD, loc: Tensor, conf: Tensor, gt: GroundTruth) -> Timed:
    config = model.detect_config
    options = asdict(config)

    @torch.no_grad()
    def plain() -> Any:
        return reference.detect.detect(loc, conf, model.priors, **options)

    @torch.no_grad()
    def fused() -> Any:
        return ops.detect(loc, conf, model.priors, config)

    _check_same_detections(tuple(fused())[:5], plain())
    calls = {"reference": plain, "ssd_cuda": fused}
    other = _torchvision_detect(model, loc, conf)
    return calls if other is None else {**calls, "torchvision": other}


def _check_same_detections(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise unless both found the same: (boxes, scores, labels, prior indices, counts), padded.

    Scores differ in their last bits (two ways to sum a softmax), and where two are that close their
    order may too, and with it what NMS keeps: one row in a hundred may be found by one side only.
    """
    sides = []
    for boxes, scores, labels, priors, counts in (found, expected):
        rows = {}
        for image, count in enumerate(counts.tolist()):
            values = torch.cat([boxes[image, :count], scores[image, :count, None]], 1)
            for label, prior, value in zip(
                labels[image, :count].tolist(), priors[image, :count].tolist(), values, strict=True
            ):
                rows[image, label, prior] = value
        sides.append(rows)
    ours, theirs = sides
    common = ours.keys() & theirs.keys()
    alone = len(ours.keys() ^ theirs.keys())
    if alone > 0.02 * (len(ours) + len(theirs)) / 2:
        raise AssertionError(f"detect and its reference must agree, got {alone} rows that one side lacks")
    for key in common:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5)


def _torchvision_parts() -> tuple[Any, Any] | None:
    """torchvision's SSD and its helpers, or None where it is not installed."""
    try:
        from torchvision.models.detection import _utils, ssd
    except ImportError:
        return None
    return ssd, _utils


def _pixel_anchors(model: SSD) -> Tensor:
    """[P, 4] x1, y1, x2, y2 in pixels."""
    height, width = model.image_size
    scale = model.priors.new_tensor([width, height, width, height])
    centre, half = model.priors[:, :2], model.priors[:, 2:] / 2
    return torch.cat([centre - half, centre + half], 1) * scale


def _torchvision_loss(model: SSD, gt: GroundTruth) -> Callable[..., Any] | None:
    parts = _torchvision_parts()
    if parts is None:
        return None
    ssd, helpers = parts
    owner = SimpleNamespace(box_coder=helpers.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3.0)
    matcher = helpers.SSDMatcher(0.5)
    anchors = _pixel_anchors(model)
    height, width = model.image_size
    scale = gt.boxes.new_tensor([width, height, width, height])
    bounds = gt.offsets.tolist()
    targets = [
        {"boxes": gt.boxes[low:high] * scale, "labels": gt.labels[low:high]} for low, high in pairwise(bounds)
    ]

    def loss(loc: Tensor, conf: Tensor) -> tuple[Tensor, Tensor]:
        matched = [
            matcher(ssd.box_ops.box_iou(target["boxes"], anchors))
            if len(target["boxes"])
            else torch.full((len(anchors),), -1, device=anchors.device)
            for target in targets
        ]
        outputs = {"bbox_regression": loc, "cls_logits": conf}
        losses = ssd.SSD.compute_loss(owner, targets, outputs, [anchors] * len(targets), matched)
        return losses["bbox_regression"], losses["classification"]

    return loss


def _torchvision_detect(model: SSD, loc: Tensor, conf: Tensor) -> Callable[[], Any] | None:
    parts = _torchvision_parts()
    if parts is None:
        return None
    ssd, helpers = parts
    rule = model.detect_config
    if isinstance(rule.score_threshold, tuple) or isinstance(rule.iou_threshold, tuple):
        return None  # torchvision has one of each for all classes
    owner = SimpleNamespace(
        box_coder=helpers.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        score_thresh=rule.score_threshold,
        topk_candidates=rule.top_k,
        nms_thresh=rule.iou_threshold,
        detections_per_img=rule.detections_per_image,
    )
    anchors = _pixel_anchors(model)
    outputs = {"bbox_regression": loc, "cls_logits": conf}

    @torch.no_grad()
    def detect() -> Any:
        count = len(conf)
        sizes = [model.image_size] * count
        return ssd.SSD.postprocess_detections(owner, outputs, [anchors] * count, sizes)

    return detect
