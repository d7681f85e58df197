"""nms_batch: every image of a padded batch as if it were alone, whatever the padding holds."""

from __future__ import annotations

import pytest
import torch

from ssd_cuda import ops, reference


def batch(images, width, classes=3):
    corner, size = torch.rand(images, width, 2) * 60, 5 + 20 * torch.rand(images, width, 2)
    scores = (torch.rand(images, width) * 30).round() / 30
    idxs = torch.randint(-1, classes - 1, (images, width)) * 2**61
    return torch.cat([corner, corner + size], -1), scores, idxs


def same(boxes, scores, threshold, real, idxs=None, *, rows=None, **options):
    expected = reference.nms.nms_batch(
        boxes,
        scores,
        threshold,
        real,
        idxs,
        **{k: v for k, v in options.items() if k not in ("mask", "counts")},
    )
    keep, counts = ops.nms_batch(boxes, scores, threshold, idxs=idxs, max_output=rows, **options)
    rows = boxes.shape[1] if rows is None else rows
    assert keep.shape == (len(boxes), rows) and counts.shape == (len(boxes),)
    assert keep.dtype == counts.dtype == torch.int64
    for found, count, wanted in zip(keep, counts.tolist(), expected, strict=True):
        assert count == min(rows, len(wanted)) and torch.equal(found[:count], wanted[:rows])
        assert bool((found[count:] == -1).all())


@pytest.mark.parametrize("images, width", [(1, 1), (1, 40), (5, 60), (3, 0), (0, 7)])
def test_is_the_reference_of_each_image(device, images, width):
    boxes, scores, idxs = (t.to(device) for t in batch(images, width))
    real = torch.ones(images, width, dtype=torch.bool, device=device)
    for rows in (None, 0, 3, width + 4):
        same(boxes, scores, 0.3, real, rows=rows)
        same(boxes, scores, 0.3, real, idxs, rows=rows)
        same(boxes.half(), scores, 0.3, real, idxs, rows=rows)
    same(boxes, scores, 0.4, real, inclusive=True, iou_eps=1e-5, pixel_offset=1.0)


@pytest.mark.parametrize("padding", [0.0, float("nan"), 1e9, -1.0])
def test_padding_does_not_matter(device, padding):
    boxes, scores, idxs = (t.to(device) for t in batch(6, 50))
    counts = torch.tensor([0, 1, 17, 50, 49, 3], device=device)
    real = torch.arange(50, device=device) < counts[:, None]
    boxes[~real], scores[~real] = padding, padding
    for classes in (None, idxs):
        same(boxes, scores, 0.3, real, classes, counts=counts)
        same(boxes, scores, 0.3, real, classes, counts=counts.int(), rows=5)
    mask = torch.rand(6, 50, device=device) < 0.5
    same(boxes, scores, 0.3, mask, idxs, mask=mask)


def test_more_counts_than_boxes_are_all(device):
    boxes, scores, _ = (t.to(device) for t in batch(2, 9))
    real = torch.ones(2, 9, dtype=torch.bool, device=device)
    same(boxes, scores, 0.3, real, counts=torch.tensor([9, 2**40], device=device))


def test_by_hand(device):
    boxes = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]]] * 2, device=device)
    scores = torch.tensor([[0.5, 0.9, 0.1], [0.5, 0.5, 0.7]], device=device)
    keep, counts = ops.nms_batch(boxes, scores, 0.5)
    assert keep.tolist() == [[1, 2, -1], [2, 0, -1]] and counts.tolist() == [2, 2]
    idxs = torch.tensor([[0, 1, 1], [0, 0, 0]], device=device)
    keep, counts = ops.nms_batch(boxes, scores, 0.5, idxs=idxs, max_output=2)
    assert keep.tolist() == [[1, 0], [2, 0]] and counts.tolist() == [2, 2]


def test_compiles_without_a_break():
    boxes, scores, idxs = batch(3, 30)
    counts = torch.tensor([3, 30, 11])

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(boxes, scores, idxs, counts):
        return ops.nms_batch(boxes, scores, 0.5, counts=counts, idxs=idxs, max_output=20)

    for got, wanted in zip(
        step(boxes, scores, idxs, counts),
        ops.nms_batch(boxes, scores, 0.5, counts=counts, idxs=idxs, max_output=20),
        strict=True,
    ):
        assert torch.equal(got, wanted)


BOXES, SCORES = torch.zeros(2, 3, 4), torch.zeros(2, 3)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"counts": torch.tensor([1])}, ValueError, r"counts must have shape \[2\], got \[1\]"),
        ({"counts": torch.tensor([1.0, 2.0])}, TypeError, "counts must be int64, int32, got float32"),
        ({"mask": torch.ones(2, 3)}, TypeError, "mask must be bool, got float32"),
        (
            {"mask": SCORES > 0, "counts": torch.tensor([1, 2])},
            ValueError,
            "counts must be None where there is a mask, got both",
        ),
        ({"mask": (SCORES > 0).to("meta")}, ValueError, "mask must be on the device of boxes, cpu, got meta"),
        ({"idxs": torch.zeros(3)}, ValueError, r"idxs must have shape \[2, 3\], got \[3\]"),
        ({"max_output": -1}, ValueError, r"max_output must lie in \[0, inf\], got -1"),
    ],
)
def test_errors_name_argument_expectation_finding(options, error, words):
    with pytest.raises(error, match=words):
        ops.nms_batch(BOXES, SCORES, 0.5, **options)


def test_boxes_of_one_image_are_refused():
    with pytest.raises(ValueError, match=r"boxes must have shape \[B, N, 4\], got \[3, 4\]"):
        ops.nms_batch(BOXES[0], SCORES[0], 0.5)
