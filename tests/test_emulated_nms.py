"""The nms kernels' device code on the CPU against the reference: panels, classes, rules, schedules."""

from __future__ import annotations

import math

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_cuda import reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
PANEL = 2048


@pytest.fixture(scope="module")
def emulated():
    return kernels("nms")


def run(
    emulated,
    boxes,
    scores,
    threshold,
    idxs=None,
    *,
    rows=None,
    inclusive=False,
    iou_eps=0.0,
    pixel_offset=0.0,
):
    """The steps of the binding, with the same sort on the CPU: (keep [rows], count [])."""
    order = torch.sort(emulated.keys(scores), stable=True).indices
    rank_at = None
    if idxs is not None:
        rank_at = torch.sort(emulated.classes(idxs, order), stable=True).indices
    rows = len(boxes) if rows is None else rows
    keep, count = emulated.nms(boxes, order, idxs, rank_at, threshold, inclusive, iou_eps, pixel_offset, rows)
    return keep, int(count)


def same(emulated, boxes, scores, threshold, idxs=None, **options):
    if idxs is None:
        expected = reference.nms.nms(boxes, scores, threshold, **options)
    else:
        expected = reference.nms.batched_nms(boxes, scores, idxs, threshold, **options)
    keep, count = run(emulated, boxes, scores, threshold, idxs, **options)
    assert torch.equal(keep[:count], expected)
    assert bool((keep[count:] == -1).all())
    return count


def scene(n, size=30.0, extent=300.0):
    corner = torch.rand(n, 2) * extent
    return torch.cat([corner, corner + size * (0.2 + torch.rand(n, 2))], 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 31, 32, 33, 257])
def test_is_the_reference(emulated, n, dtype):
    emulated = emulated if n < 100 else emulated.with_seeds(0, 1)
    boxes, scores = scene(n, extent=80.0).to(dtype), torch.rand(n).to(dtype)
    for threshold in (0.0, 0.3, 1.0):
        same(emulated, boxes, scores, threshold)
        same(emulated, boxes, scores, threshold, torch.randint(0, 3, (n,)), inclusive=True)


def test_nothing(emulated):
    keep, count = run(emulated, torch.zeros(0, 4), torch.zeros(0), 0.5, rows=3)
    assert keep.tolist() == [-1, -1, -1] and count == 0


@pytest.mark.slow
@pytest.mark.parametrize("n", [PANEL, PANEL + 1, 2 * PANEL + 100])
def test_panels(emulated, n):
    emulated = emulated.with_seeds(0, 1) if n == PANEL + 1 else emulated.with_seeds(2)
    boxes, scores = scene(n), torch.rand(n)
    assert same(emulated, boxes, scores, 0.5) > PANEL / 4
    same(emulated.with_seeds(1), boxes, scores, 0.2, torch.randint(0, 3, (n,)))


@pytest.mark.slow
def test_a_chain_crosses_panels(emulated):
    before, n = PANEL - 150, PANEL + 150  # alone, then chained: neighbours have IoU 1/3
    x = torch.cat([torch.arange(before) * 3.0, before * 3.0 + torch.arange(n - before)])
    boxes = torch.stack([x, torch.zeros(n), x + 2, torch.ones(n)], 1)
    keep, count = run(emulated.with_seeds(0), boxes, -x, 0.3)
    assert keep[:count].tolist() == [*range(before), *range(before, n, 2)]


@pytest.mark.slow
def test_many_classes_in_a_panel_and_one_across(emulated):
    n = PANEL + 500
    idxs = torch.where(torch.arange(n) % 5 == 0, torch.arange(n) % 97, 1000)
    same(emulated.with_seeds(0, 3), scene(n), torch.rand(n), 0.3, idxs)


@pytest.mark.parametrize("options", [{"iou_eps": 1e-5}, {"pixel_offset": 1.0}, {"inclusive": True}])
def test_options(emulated, options):
    corner, size = torch.randint(0, 9, (200, 2)).float(), torch.randint(0, 5, (200, 2)).float()
    boxes = torch.cat([corner, corner + size], 1)  # IoUs on the threshold, empty boxes
    for threshold in (0.0, 0.25, 1 / 3, 0.5):
        same(emulated, boxes, (torch.rand(200) * 8).round(), threshold, **options)


def test_bad_boxes_and_scores(emulated):
    inf, nan = math.inf, math.nan
    boxes = torch.tensor(
        [[nan, 0, 1, 1], [0, 0, inf, 1], [1, 1, 1, 1], [2, 2, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    )
    scores = torch.tensor([0.5, nan, -0.0, 0.0, -inf, inf])
    for threshold in (0.0, 0.5):
        same(emulated, boxes.repeat(8, 1), scores.repeat(8), threshold)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_sort_as_torch_does(emulated, dtype):
    values = [0.5, math.nan, -math.inf, math.inf, 0.0, -0.0, -1.5, 1.0, 2.0**-20, -(2.0**-20)]
    scores = torch.tensor(values * 7, dtype=dtype)
    result = torch.sort(emulated.keys(scores), stable=True).indices
    assert torch.equal(result, torch.sort(scores, descending=True, stable=True).indices)


@pytest.mark.parametrize("n", [0, 1, 8191, 8192, 8193, 20_000])
def test_compact(emulated, n):
    """Kept boxes by rank, more of them than a block takes at a time, fewer or more rows than are kept."""
    removed, order = (torch.rand(n) < 0.4).to(torch.uint8), torch.randperm(n)
    place_of = torch.randperm(n).int()
    for places in (None, place_of):
        by_rank = removed if places is None else removed[places.long()]
        expected = order[by_rank == 0]
        for rows in {0, 1, len(expected) // 2, len(expected), n + 3}:
            keep, count = emulated.with_seeds(0, 3).compact(removed, order, places, rows)
            kept = min(rows, len(expected))
            assert int(count) == kept and torch.equal(keep[:kept], expected[:kept])
            assert bool((keep[kept:] == -1).all())


@settings(deadline=None, max_examples=fuzz_examples())
@given(
    n=st.integers(0, 90),
    seed=st.integers(0, 2**31),
    threshold=st.sampled_from([0.0, 0.2, 0.25, 0.5, 1.0]),
    classes=st.integers(0, 3),
    inclusive=st.booleans(),
)
def test_fuzz(n, seed, threshold, classes, inclusive):
    torch.manual_seed(seed)
    corner, size = torch.randint(0, 12, (n, 2)).float(), torch.randint(0, 6, (n, 2)).float()
    boxes, scores = torch.cat([corner, corner + size], 1), (torch.rand(n) * 9).round()
    idxs = torch.randint(0, classes, (n,)) if classes else None
    same(kernels("nms").with_seeds(0, seed % 5 + 1), boxes, scores, threshold, idxs, inclusive=inclusive)
