"""GroundTruth from lists, dicts and padded tensors: values, refusals, and that the host reads nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import random_boxes
from emulator.harness import fuzz_examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_cuda.ops import GroundTruth

BOX = [0.1, 0.2, 0.3, 0.4]


def images(gt: GroundTruth) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rows = gt.offsets.tolist()
    return [(gt.boxes[a:b], gt.labels[a:b]) for a, b in itertools.pairwise(rows)]


def lists(counts, device="cpu", dtype=torch.float32):
    boxes = [random_boxes(n, dtype=dtype).to(device) for n in counts]
    labels = [torch.randint(0, 9, (n,), device=device) for n in counts]
    return boxes, labels


@pytest.mark.parametrize("counts", [[], [0], [3], [2, 0, 5], [0, 0, 1]], ids=str)
def test_from_list(device, counts):
    boxes, labels = lists(counts, device)
    gt = GroundTruth.from_list(boxes, labels)
    assert gt.batch_size == len(counts) and gt.boxes.shape == (sum(counts), 4)
    assert gt.offsets.dtype == torch.int32 and gt.labels.dtype == torch.int64
    if counts:
        assert gt.device == gt.offsets.device == boxes[0].device
    for (b, n), expected, names in zip(images(gt), boxes, labels, strict=True):
        assert torch.equal(b, expected) and torch.equal(n, names)


def test_dtypes_and_gradients():
    half = GroundTruth.from_list([torch.tensor([BOX]).half()], [torch.tensor([1], dtype=torch.uint8)])
    assert half.boxes.dtype == torch.float32 and half.labels.dtype == torch.int64
    mixed = GroundTruth.from_list(
        [torch.tensor([BOX]), torch.tensor([BOX]).double()], [torch.tensor([1]), torch.tensor([2])]
    )
    assert mixed.boxes.dtype == torch.float64
    tracked = GroundTruth.from_list([torch.tensor([BOX], requires_grad=True)], [torch.tensor([1])])
    assert not tracked.boxes.requires_grad


def test_images_without_objects_in_any_spelling():
    boxes = [torch.empty(0, 4), torch.tensor([]), torch.tensor([BOX])]
    labels = [torch.empty(0, dtype=torch.int64), torch.tensor([]), torch.tensor([7])]
    gt = GroundTruth.from_list(boxes, labels)
    assert gt.offsets.tolist() == [0, 0, 0, 1] and gt.labels.tolist() == [7]


def test_from_dicts_is_torchvisions_target(device):
    boxes, labels = lists([2, 0], device)
    extra = {"image_id": torch.tensor(3)}
    targets = [{"boxes": b, "labels": n, **extra} for b, n in zip(boxes, labels, strict=True)]
    gt, expected = GroundTruth.from_dicts(targets), GroundTruth.from_list(boxes, labels)
    assert torch.equal(gt.boxes, expected.boxes) and torch.equal(gt.offsets, expected.offsets)


@settings(max_examples=fuzz_examples(40), deadline=None)
@given(counts=st.lists(st.integers(-2, 6), max_size=5), width=st.integers(0, 5))
def test_fuzz_from_padded(counts, width):
    boxes = torch.arange(len(counts) * width * 4.0).reshape(len(counts), width, 4)
    labels = torch.arange(len(counts) * width).reshape(len(counts), width)
    gt = GroundTruth.from_padded(boxes, labels, torch.tensor(counts, dtype=torch.int64))
    assert gt.boxes.shape == (len(counts) * width, 4) and gt.batch_size == len(counts)
    for i, (b, n) in enumerate(images(gt)):
        kept = min(max(counts[i], 0), width)
        assert torch.equal(b, boxes[i, :kept]) and torch.equal(n, labels[i, :kept])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.uint32])
def test_from_padded_takes_counts_of_any_integers(dtype):
    boxes, labels = torch.rand(2, 300, 4), torch.arange(600).view(2, 300)
    gt = GroundTruth.from_padded(boxes, labels, torch.tensor([3, 100]).to(dtype))
    assert gt.offsets.tolist() == [0, 3, 103] and gt.labels[:4].tolist() == [0, 1, 2, 300]


def test_from_padded_reads_nothing_on_the_host_and_captures(device):
    boxes, labels = torch.rand(3, 4, 4, device=device), torch.ones(3, 4, dtype=torch.int64, device=device)
    counts = torch.tensor([2, 0, 4], device=device)

    @torch.compile(fullgraph=True, backend="eager")  # a value read on the host would break the graph
    def build(boxes, labels, counts):
        gt = GroundTruth.from_padded(boxes, labels, counts)
        return gt.boxes, gt.labels, gt.offsets

    flat, _, offsets = build(boxes, labels, counts)
    assert offsets.tolist() == [0, 2, 2, 6] and torch.equal(flat[2:6], boxes[2])
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.graph(graph):
                gt = GroundTruth.from_padded(boxes, labels, counts)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.copy_(torch.tensor([0, 3, 1], device=device))
        graph.replay()
        assert gt.offsets.tolist() == [0, 0, 3, 4]


def test_list_without_the_check_does_not_wait_for_the_card(device):
    if device.type != "cuda":
        pytest.skip("waits only exist on a card")
    boxes, labels = lists([2, 3], device)
    host_boxes, host_labels = lists([2, 3])
    torch.cuda.set_sync_debug_mode("error")
    try:
        GroundTruth.from_list(boxes, labels, degenerate="keep")
        GroundTruth.from_list(host_boxes, host_labels, device=device)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_to_another_device(device):
    gt = GroundTruth.from_list(*lists([2, 1])).to(device, non_blocking=True)
    assert gt.device.type == device.type == gt.labels.device.type == gt.offsets.device.type
    there = GroundTruth.from_list(*lists([2, 1]), device=device)
    assert there.device.type == there.offsets.device.type == device.type


DEGENERATE = [
    [0.5, 0.1, 0.5, 0.9],
    [0.1, 0.5, 0.9, 0.5],
    [0.9, 0.1, 0.1, 0.9],
    [math.nan, 0.1, 0.5, 0.5],
    [0.1, 0.1, math.inf, 0.5],
    [504.0, 337.0, 504.0, 337.0],
]


@pytest.mark.parametrize("bad", DEGENERATE, ids=str)
def test_a_degenerate_box_is_named_by_image_and_index(device, bad):
    boxes = [torch.tensor([BOX]), torch.empty(0, 4), torch.tensor([BOX, BOX, bad])]
    boxes = [b.to(device) for b in boxes]
    labels = [torch.ones(len(b), dtype=torch.int64, device=device) for b in boxes]
    with pytest.raises(ValueError, match=r"finite with x1 < x2 and y1 < y2, got \[.*\] as box 2 of image 2"):
        GroundTruth.from_list(boxes, labels)
    assert GroundTruth.from_list(boxes, labels, degenerate="keep").boxes.shape == (4, 4)


B1, L1 = torch.tensor([BOX]), torch.tensor([1])
PADDED = (torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), torch.tensor([1, 2]))
OFFSETS = torch.tensor([0, 1], dtype=torch.int32)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (
            lambda: GroundTruth.from_list([B1], []),
            ValueError,
            r"labels must have one entry per image.*\(1\), got 0",
        ),
        (lambda: GroundTruth.from_list([[BOX]], [L1]), TypeError, r"boxes\[0\] must be a tensor, got list"),
        (
            lambda: GroundTruth.from_list([B1.int()], [L1]),
            TypeError,
            r"boxes\[0\] must be a floating-point tensor",
        ),
        (
            lambda: GroundTruth.from_list([B1[:, :3]], [L1]),
            ValueError,
            r"boxes\[0\] must have shape \[n, 4\]",
        ),
        (lambda: GroundTruth.from_list([B1[0]], [L1]), ValueError, r"boxes\[0\] must have shape .*got \[4\]"),
        (lambda: GroundTruth.from_list([B1], [[1]]), TypeError, r"labels\[0\] must be a tensor, got list"),
        (
            lambda: GroundTruth.from_list([B1], [L1.float()]),
            TypeError,
            r"labels\[0\] must be an integer tensor",
        ),
        (
            lambda: GroundTruth.from_list([B1], [L1.bool()]),
            TypeError,
            r"labels\[0\] must be an integer tensor",
        ),
        (
            lambda: GroundTruth.from_list([B1], [L1[:0]]),
            ValueError,
            r"labels\[0\] must have shape \[1\], got \[0\]",
        ),
        (
            lambda: GroundTruth.from_list([B1], [L1], degenerate="drop"),
            ValueError,
            "degenerate must be one of",
        ),
        (
            lambda: GroundTruth.from_list([B1, B1.to("meta")], [L1, L1]),
            ValueError,
            r"boxes\[1\] must be on cpu like boxes\[0\], got meta",
        ),
        (
            lambda: GroundTruth.from_dicts([{"boxes": B1}]),
            ValueError,
            r"targets\[0\] must have the key 'labels'",
        ),
        (
            lambda: GroundTruth.from_padded(PADDED[0][0], *PADDED[1:]),
            ValueError,
            r"boxes must have shape \[B, G, 4\]",
        ),
        (
            lambda: GroundTruth.from_padded(PADDED[0], PADDED[1][:, :2], PADDED[2]),
            ValueError,
            r"labels must have shape \[2, 3\]",
        ),
        (
            lambda: GroundTruth.from_padded(PADDED[0], PADDED[1].float(), PADDED[2]),
            TypeError,
            "labels must be an integer tensor, got torch.float32",
        ),
        (
            lambda: GroundTruth.from_padded(*PADDED[:2], PADDED[2][:1]),
            ValueError,
            r"counts must have shape \[2\], got \[1\]",
        ),
        (
            lambda: GroundTruth.from_padded(*PADDED[:2], PADDED[2].float()),
            TypeError,
            "counts must be an integer tensor",
        ),
        (
            lambda: GroundTruth.from_padded(*PADDED[:2], PADDED[2].to("meta")),
            ValueError,
            "counts must be on cpu like boxes, got meta",
        ),
        (lambda: GroundTruth(B1, L1, OFFSETS.long()), TypeError, "offsets must be int32, got torch.int64"),
        (
            lambda: GroundTruth(B1, L1, OFFSETS[:0]),
            ValueError,
            r"offsets must have shape \[B \+ 1\], got \[0\]",
        ),
        (lambda: GroundTruth(B1, [1], OFFSETS), TypeError, "labels must be a tensor, got list"),
        (lambda: GroundTruth(B1, L1, [0, 1]), TypeError, "offsets must be a tensor, got list"),
        (lambda: GroundTruth(B1, torch.tensor([1, 2]), OFFSETS), ValueError, r"labels must have shape \[1\]"),
        (
            lambda: GroundTruth(B1, L1, OFFSETS.to("meta")),
            ValueError,
            "offsets must be on cpu like boxes, got meta",
        ),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()
