"""nms on several threads, panel by panel: what one thread keeps, and the greedy rule."""

from __future__ import annotations

import pytest
import torch
from simd_levels import at_every_level

from ssd_cuda import ops

APART = 2**18  # that many boxes are worth threads, from the 256th kept one on
N = APART + 6000


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _apart(n: int) -> torch.Tensor:
    """n boxes of 10 x 10 that do not meet, far from everything else."""
    index = torch.arange(n)
    corner = 20.0 * torch.stack([index % 512, index // 512], 1) - 21000
    return torch.cat([corner, corner + 10], 1)


def _scene(kind: str) -> torch.Tensor:
    """[N, 4] boxes, best first: many that meet nobody, then those that matter."""
    rest = torch.arange(N - float(APART))[:, None]
    if kind in ("sparse", "dense"):
        side, least, more = (2000, 4, 20) if kind == "sparse" else (300, 10, 90)
        corner = torch.rand(len(rest), 2) * side
        box = torch.cat([corner, corner + least + more * torch.rand(len(rest), 2)], 1)
    elif kind == "chain":  # each removes the next, if it is kept
        box = torch.tensor([0.0, 0, 100, 100]) + torch.tensor([30.0, 0, 30, 0]) * rest
    elif kind == "equal":
        box = torch.tensor([[0.0, 0, 10, 10]]).expand(len(rest), 4)
    elif kind == "crowd":  # hundreds of boxes in the way of each other, in three groups
        box = torch.tensor([0.0, 0, 100, 100]) + 40 * torch.rand(len(rest), 4) + 300 * (rest % 3)
    elif kind == "giant":  # one that reaches over every cell, among small ones
        corner = torch.rand(len(rest), 2) * 1500
        box = torch.cat([corner, corner + 10], 1)
        box[len(box) // 2 :: 50] = torch.tensor([0.0, 0, 1500, 1500])
    elif kind == "inert":  # without an area: kept, and in nobody's way
        corner = torch.rand(len(rest), 2) * 800
        box = torch.cat([corner, corner + 20], 1)
        box[::7, 2] = box[::7, 0]
    return torch.cat([_apart(APART), box])


KINDS = ["sparse", "dense", "chain", "equal", "crowd", "giant", "inert"]


def _kept(threads: int, *args, **options) -> torch.Tensor:
    torch.set_num_threads(threads)
    return ops.batched_nms(*args, 0.5, **options)


@pytest.mark.parametrize(("classes", "dtype"), [(1, torch.float32), (7, torch.float64)])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_keep_what_one_keeps(kind, classes, dtype):
    boxes, idxs = _scene(kind).to(dtype), torch.randint(0, classes, (N,))
    scores = torch.linspace(1, 0, N)
    expected = _kept(1, boxes, scores, idxs)
    for threads in (2, 3):
        assert torch.equal(_kept(threads, boxes, scores, idxs), expected)


@pytest.mark.parametrize("options", [{"inclusive": True}, {"pixel_offset": 1.0}, {"iou_eps": 1.0}])
def test_options(options):
    boxes, scores, idxs = _scene("dense").round(), torch.linspace(1, 0, N), torch.randint(0, 2, (N,))
    expected = _kept(1, boxes, scores, idxs, **options)
    assert torch.equal(_kept(2, boxes, scores, idxs, **options), expected)


@pytest.mark.parametrize("most", [1, 257, 1300, APART, APART + 700, N])
def test_as_many_as_are_wanted(most):
    """The last one may lie in the middle of a panel."""
    boxes, scores = _scene("dense"), torch.linspace(1, 0, N)
    expected = _kept(1, boxes, scores, torch.zeros(N, dtype=torch.int64))
    torch.set_num_threads(2)
    keep, count = ops.nms_padded(boxes, scores, 0.5, max_output=most)
    assert count == min(most, len(expected))
    assert torch.equal(keep[:count], expected[:most]) and bool((keep[count:] == -1).all())


def test_a_kept_box_from_before_the_panels_behind_many_rivals():
    """More rivals of one size than are written down, before the longer box is seen that removes them all."""
    apart = _apart(APART)
    early = torch.tensor([[0.0, 0, 130, 100]])
    rivals = torch.tensor([0.0, 0, 100, 100]) + 0.1 * torch.rand(40, 4)
    boxes = torch.cat([early, apart, rivals])
    scores, idxs = torch.linspace(1, 0, len(boxes)), torch.zeros(len(boxes), dtype=torch.int64)
    assert torch.equal(_kept(2, boxes, scores, idxs), torch.arange(1 + len(apart)))


def test_every_instruction_set_keeps_the_same():
    boxes, scores, idxs = _scene("crowd"), torch.linspace(1, 0, N), torch.randint(0, 3, (N,))
    first, *others = at_every_level(lambda: _kept(2, boxes, scores, idxs))
    assert all(torch.equal(first, other) for other in others)
