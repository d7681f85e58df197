"""compat.tensorrt: the rule of EfficientNMS_TRT, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssd_cuda.compat.tensorrt import efficient_nms


def overlap(a, b):
    """Of boxes by two opposite corners; 0 where they do not overlap."""
    low = np.maximum(np.minimum(a[:2], a[2:]), np.minimum(b[:2], b[2:]))
    high = np.minimum(np.maximum(a[:2], a[2:]), np.maximum(b[:2], b[2:]))
    if (high <= low).any():
        return np.float32(0)
    inter = np.prod(high - low, dtype=np.float32)
    areas = [np.prod(np.abs(x[2:] - x[:2]), dtype=np.float32) for x in (a, b)]
    return inter / (areas[0] + areas[1] - inter)


def plugin(boxes, scores, *, score_threshold, iou_threshold, max_output_boxes, background_class=-1,
           score_activation=False, class_agnostic=False, box_coding=0):  # fmt: skip
    """One image: boxes [N, 4] or [N, C, 4], scores [N, C]."""
    logit = np.float32(np.log(score_threshold / (1 - score_threshold))) if score_activation else None
    least = logit if score_activation else np.float32(score_threshold)
    found = [
        (-scores[n, c], n, c)
        for n, c in np.ndindex(*scores.shape)
        if scores[n, c] >= least and c != background_class
    ]
    kept = []
    for score, n, c in sorted(found)[:4096]:
        box = boxes[n] if boxes.ndim == 2 else boxes[n, c]
        if box_coding:
            box = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
        gone = any(
            (class_agnostic or label == c) and overlap(other, box) >= np.float32(iou_threshold)
            for other, _, label in kept
        )
        if not gone and len(kept) < max_output_boxes:
            kept.append((box, 1 / (1 + np.exp(score)) if score_activation else -score, c))
    return kept


def scene(images=2, num=40, classes=3, by_class=False, coding=0, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (images, num, classes) if by_class else (images, num)
    corner = (20 * torch.rand(*shape, 2, generator=g)).round()
    size = 1 + (9 * torch.rand(*shape, 2, generator=g)).round()
    boxes = torch.cat([corner, size if coding else corner + size], -1)
    if not coding:
        swapped = torch.rand(shape, generator=g) < 0.3
        boxes[swapped] = boxes[swapped][:, [2, 1, 0, 3]]
    return boxes, (torch.rand(images, num, classes, generator=g) * 40).round() / 40


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"background_class": 0},
        {"class_agnostic": True, "iou_threshold": 0.3},
        {"box_coding": 1},
        {"by_class": True, "max_output_boxes": 7},
        {"score_activation": True, "score_threshold": 0.6},
        {"score_threshold": 0.1, "iou_threshold": 1.0, "max_output_boxes": 200},
        {"iou_threshold": 0.5, "score_threshold": 0.0},
    ],
    ids=str,
)
def test_is_the_plugins_rule(device, options):
    options = {"score_threshold": 0.3, "iou_threshold": 0.4, "max_output_boxes": 50, **options}
    by_class = options.pop("by_class", False)
    for seed in range(3):
        boxes, scores = scene(by_class=by_class, coding=options.get("box_coding", 0), seed=seed)
        scores = scores * 6 - 3 if options.get("score_activation") else scores
        counts, rows, best, labels = efficient_nms(boxes.to(device), scores.to(device), **options)
        assert counts.dtype == labels.dtype == torch.int32 and counts.shape == (2, 1)
        for b in range(2):
            expected = plugin(boxes[b].numpy(), scores[b].numpy(), **options)
            count = int(counts[b])
            assert count == len(expected)
            assert labels[b, :count].tolist() == [label for _, _, label in expected]
            assert np.array_equal(rows[b, :count].cpu().numpy(), np.array([box for box, _, _ in expected]))
            assert best[b, :count].tolist() == pytest.approx([score for _, score, _ in expected])
            assert (rows[b, count:] == 0).all() and (best[b, count:] == 0).all()


def test_only_the_best_4096_scores_take_part():
    scores = torch.linspace(0.9, 0.1, 5000)[None, :, None]
    boxes = torch.arange(5000.0)[:, None] * torch.tensor([2.0, 0, 2, 0]) + torch.tensor([0.0, 0, 1, 1])
    counts, *_ = efficient_nms(boxes[None], scores, score_threshold=0.05, max_output_boxes=5000)
    assert counts.item() == 4096


def test_half_and_nothing():
    boxes, scores = scene()
    half = efficient_nms(boxes.half(), scores.half())
    assert half[1].dtype == half[2].dtype == torch.float16 and half[0].min() > 0
    for shape in ((0, 3, 2), (2, 0, 2), (2, 3, 0)):
        found = efficient_nms(torch.zeros(*shape[:2], 4), torch.zeros(shape), max_output_boxes=5)
        assert found[0].tolist() == [[0]] * shape[0] and found[1].shape == (shape[0], 5, 4)
    assert efficient_nms(boxes, scores, max_output_boxes=0)[1].shape == (2, 0, 4)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"boxes": torch.rand(2, 5, 5)}, ValueError, "boxes must have shape"),
        ({"scores": torch.rand(2, 5)}, ValueError, "scores must have shape"),
        ({"boxes": torch.rand(2, 5, 4).half()}, TypeError, "boxes must be float32"),
        ({"box_coding": 2}, ValueError, "box_coding must be 0 or 1, got 2"),
        ({"background_class": 3}, ValueError, r"background_class must lie in \[-1, 3\), got 3"),
        ({"iou_threshold": 1.5}, ValueError, "iou_threshold must lie in"),
        ({"max_output_boxes": -1}, ValueError, "max_output_boxes must be at least 0, got -1"),
    ],
)
def test_errors(change, error, sentence):
    with pytest.raises(error, match=sentence):
        efficient_nms(**{"boxes": torch.rand(2, 5, 4), "scores": torch.rand(2, 5, 3), **change})
