"""nms on several threads, a stripe of the scene each: what one thread keeps, and the greedy rule."""

from __future__ import annotations

import pytest
import torch
from simd_levels import at_every_level

from ssd_cuda import ops

N = 9000  # 2,048 boxes are worth a thread


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _at_random(side: float, least: float, more: float) -> torch.Tensor:
    """[N, 4] boxes with corners in a square, from `least` to `least + more` long."""
    corner = torch.rand(N, 2) * side
    return torch.cat([corner, corner + least + more * torch.rand(N, 2)], 1)


def _scene(kind: str) -> torch.Tensor:
    """[N, 4] boxes, best first."""
    index = torch.arange(float(N))[:, None]
    if kind == "sparse":
        return _at_random(2000, 4, 20)
    if kind == "dense":
        return _at_random(300, 10, 60)
    if kind == "chain":  # each removes the next, if it is kept, over every border
        return torch.tensor([0.0, 0, 100, 100]) + torch.tensor([30.0, 0, 30, 0]) * index
    if kind == "chain from the right":
        return _scene("chain").flip(0)
    if kind == "equal":  # no border has anything beside it
        return torch.tensor([[0.0, 0, 10, 10]]).repeat(N, 1)
    if kind == "crowd":  # hundreds of boxes in the way of each other, in groups, some across a border
        return torch.tensor([0.0, 0, 100, 100]) + 40 * torch.rand(N, 4) + 300 * (index % 40)
    if kind == "giant":  # some that reach over every stripe, among small ones
        box = _at_random(1500, 10, 0)
        box[::50] = torch.tensor([0.0, 0, 1500, 1500]) + torch.rand(len(box[::50]), 4)
        return box
    if kind == "anchors":  # in a rhythm: long ones between those that a sample sees
        box = _at_random(2000, 4, 20)
        box[torch.arange(N) % 8 > 4, 2] += 400
        return box
    assert kind == "inert"  # without an area, or nowhere: kept, and in nobody's way
    box = _at_random(800, 20, 5)
    box[::7, 2] = box[::7, 0]
    box[::11] = torch.nan
    return box


KINDS = ["sparse", "dense", "chain", "chain from the right", "equal", "crowd", "giant", "anchors", "inert"]


def _kept(threads: int, *args, threshold: float = 0.5, **options) -> torch.Tensor:
    torch.set_num_threads(threads)
    return ops.batched_nms(*args, threshold, **options)


def _same_on_threads(*args, **options) -> torch.Tensor:
    expected = _kept(1, *args, **options)
    for threads in (2, 3, 4):
        assert torch.equal(_kept(threads, *args, **options), expected)
    return expected


@pytest.mark.parametrize(("classes", "dtype"), [(1, torch.float32), (7, torch.float64)])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_keep_what_one_keeps(kind, classes, dtype):
    boxes, idxs = _scene(kind).to(dtype), torch.randint(0, classes, (N,))
    _same_on_threads(boxes, torch.linspace(1, 0, N), idxs)


@pytest.mark.parametrize("kind", ["sparse", "chain", "crowd", "inert"])
def test_equal_scores_and_halves(kind):
    """Ties go to the lower index, wherever in the scene it lies."""
    boxes, scores = _scene(kind)[torch.randperm(N)], torch.randint(0, 50, (N,)).half() / 50
    _same_on_threads(boxes, scores, torch.zeros(N, dtype=torch.int64))


@pytest.mark.parametrize("options", [{"inclusive": True}, {"pixel_offset": 1.0}, {"iou_eps": 1.0}])
def test_options(options):
    boxes = _scene("dense").round()
    _same_on_threads(boxes, torch.linspace(1, 0, N), torch.randint(0, 2, (N,)), **options)


def test_pixels_that_meet_across_a_border():
    """Nine rows of narrow boxes, [x, x + .5] at every step of 1: with a pixel more each meets the next."""
    row = torch.arange(N) % 9
    x, y = torch.arange(N) // 9 + row / 9, 2000.0 * row
    boxes = torch.stack([x, y, x + 0.5, y + 900], 1)
    scores, idxs = torch.rand(N), torch.zeros(N, dtype=torch.int64)
    kept = _same_on_threads(boxes, scores, idxs, threshold=0.15, pixel_offset=1.0)
    assert N / 3 < len(kept) < N / 1.8


def test_nothing_is_removed_and_nothing_comes_twice():
    boxes, scores = _scene("sparse"), torch.rand(N)
    kept = _same_on_threads(boxes, scores, torch.zeros(N, dtype=torch.int64), threshold=1.0)
    assert torch.equal(kept, scores.sort(descending=True, stable=True)[1])


@pytest.mark.parametrize("most", [1, 257, 1300, N])
@pytest.mark.parametrize("kind", ["sparse", "dense", "chain"])
def test_as_many_as_are_wanted(kind, most):
    """A stripe may stop where so many of its own are kept."""
    boxes, scores = _scene(kind), torch.linspace(1, 0, N)
    expected = _kept(1, boxes, scores, torch.zeros(N, dtype=torch.int64))
    torch.set_num_threads(3)
    keep, count = ops.nms_padded(boxes, scores, 0.5, max_output=most)
    assert count == min(most, len(expected))
    assert torch.equal(keep[:count], expected[:most]) and bool((keep[count:] == -1).all())


def test_boxes_of_odd_sizes():
    """Beyond the range of the argument for the grid: they are tested against all that their stripes hold."""
    boxes = _scene("sparse")
    boxes[N // 2] = torch.tensor([0.0, 0, 2e19, 1e19])
    boxes[::90, 2:] = boxes[::90, :2]
    boxes[::90] *= 1e-17
    boxes[::90, 2:] += 1e-17 * torch.rand(len(boxes[::90]), 2)
    _same_on_threads(boxes, torch.linspace(1, 0, N), torch.zeros(N, dtype=torch.int64))


def test_every_instruction_set_keeps_the_same():
    boxes, scores, idxs = _scene("crowd"), torch.linspace(1, 0, N), torch.randint(0, 3, (N,))
    first, *others = at_every_level(lambda: _kept(3, boxes, scores, idxs))
    assert all(torch.equal(first, other) for other in others)
