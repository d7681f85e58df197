"""Matching in clusters, on the CPU, against the reference: chunks, blocks and tables of shared memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from conftest import random_boxes, random_priors
from emulator.harness import Kernels, fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from test_emulated_matching import BAD, any_options, expect, snapped

from ssd_cuda import MatchConfig, PriorSpec, ops
from ssd_cuda.ops.matching import op_options

FORCED = ["none", "argmax"]


@dataclass(frozen=True)
class Clusters:
    """The kernels as expect() calls them."""

    kernels: Kernels

    @property
    def match(self):
        return self.kernels.match_in_clusters


@pytest.fixture(scope="module")
def clusters():
    return Clusters(kernels("matching"))


@pytest.fixture(scope="module")
def quick():
    return Clusters(kernels("matching").with_seeds(0, 3))


@pytest.fixture(scope="module")
def once():
    return Clusters(kernels("matching").with_seeds(2))


def plan(batch, priors, architecture=90, dtype=torch.float32, truths=7, **options):
    """(blocks of a cluster, threads of a block), (0, 0) where three kernels do it."""
    on = kernels("matching").with_seeds(0).on(architecture)
    call = on.cluster_plan if dtype == torch.float32 else on.cluster_plan_of_double
    return call(batch, priors, truths * batch, op_options(MatchConfig(**options), dtype, dtype))[:2]


def test_who_is_matched_in_clusters():
    assert (
        plan(1, 8732) == plan(64, 8732) == (8, 512)
    )  # so many at once by the emulator, which counts no registers
    assert plan(65, 8732) == plan(65, 8732, truths=32) == (4, 512)
    assert plan(65, 8732, truths=33) == (8, 512)
    assert plan(32, 24_564) == (0, 0)  # blocks of 4 could not hold them
    assert plan(32, 24_564, truths=33) == (8, 512)
    assert plan(1, 8732, 91) == (8, 512) and plan(5, 24_564, 91, truths=99) == (0, 0)  # a part without room
    assert plan(2, 24_564) == plan(2, 8732, 120) == (8, 512)
    assert plan(1, 300) == (2, 256) and plan(1, 1) == (1, 128) and plan(9999, 1100) == (4, 512)
    for unable in (
        plan(1, 200_000),
        plan(2, 24_564, 120),  # less shared memory
        plan(1, 8732, 89),
        plan(1, 8732, forced="bipartite"),
        plan(1, 8732, dtype=torch.float64),
    ):
        assert unable == (0, 0)


@pytest.mark.parametrize("tie", ["first", "last"])
@pytest.mark.parametrize("forced", FORCED)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"iou_threshold": 0.0, "iou_eps": 1e-5},
        {"iou_threshold": 0.25, "inclusive": False, "candidate_max_iou": 0.25},
        {"forced_min_iou": 0.6, "relabel_unforced": True},
        {"forced_min_iou": 0.6},
    ],
    ids=str,
)
def test_options(clusters, tie, forced, options):
    """In clusters of two blocks."""
    expect(clusters, snapped(9), [3, 0, 6], snapped(300), tie=tie, forced=forced, **options)


@pytest.mark.parametrize("num_priors", [1, 33, 129, 257])
def test_edges_of_groups_and_priors_of_every_image(quick, num_priors):
    for counts in ([0], [1], [2, 0, 5]):
        boxes = snapped(sum(counts))
        own = snapped(num_priors * len(counts)).reshape(len(counts), num_priors, 4)
        expect(quick, boxes, counts, own, tie="last")
    expect(quick, snapped(5), [5], random_priors(num_priors), prior_format="cxcywh")


@pytest.mark.parametrize("truths", [128, 129, 300])
def test_chunks_of_ground_truths(once, truths):
    for options in ({}, {"forced_min_iou": 0.5, "relabel_unforced": True, "tie": "last"}):
        expect(once, snapped(truths + 2), [truths, 2], snapped(300), **options)
    expect(once, snapped(truths + 2), [truths, 2], snapped(70), forced="none")


def test_the_best_prior_is_not_in_the_group_of_the_largest_bound(clusters):
    """Priors around the second truth bound its overlap by 9/16 and overlap it by 1/24; one inside bounds it
    by 1/4, which it has: found by a second look. The first truth has a prior of its own."""
    boxes = torch.tensor([[10.0, 10.0, 12.0, 12.0], [0.0, 0.0, 4.0, 4.0]])
    around = torch.tensor([[-2.0, -2.0, 1.0, 1.0], [3.0, 3.0, 6.0, 6.0]]).repeat(16, 1)
    inside = torch.tensor([[1.0, 1.0, 2.0, 2.0]]).repeat(32, 1)
    inside[[8, 9]] = torch.tensor([[1.0, 1.0, 3.0, 3.0], [10.0, 10.0, 12.0, 12.0]])
    priors = torch.cat([around, inside])
    expect(clusters, boxes, [2], priors, iou_threshold=0.6)
    gt = ops.GroundTruth.from_list([boxes], [torch.tensor([1, 1])])
    found = ops.match(gt, priors, prior_format="xyxy", iou_threshold=0.6)[0]
    assert found[40] == 1 and found[41] == 0 and found.ge(0).sum() == 2


def test_priors_of_ssd_in_clusters_of_eight(once):
    """Most pairs need no look."""
    sizes = {"sizes": (30, 90), "larger_sizes": (90, 160), "ratios": ((2,), (2, 3))}
    priors = ops.generate_priors(PriorSpec(feature_maps=(16, 5), steps=None, **sizes))
    assert plan(2, len(priors))[0] == 8
    boxes = random_boxes(43)
    boxes[:20, 2:] = boxes[:20, :2] + 0.03  # too small for any threshold
    for options in ({}, {"tie": "last"}, {"iou_threshold": 0.0}, {"forced": "none"}):
        expect(once, boxes, [40, 0, 3], priors, prior_format="cxcywh", **options)


@pytest.mark.parametrize("tie", ["first", "last"])
def test_ground_truths_that_touch_nothing(quick, tie):
    """The nearest of all priors is their best, whichever block has it."""
    far = torch.tensor([[-3.0, -3.0, -2.0, -2.0], [-1.0, -1.0, -0.0, -0.0], [0.0, -1.0, 1.0, 0.0]])
    for num_priors in (300, 330):
        for options in ({}, {"candidate_max_iou": 0.0}, {"forced_min_iou": 0.1}):
            expect(quick, far, [1, 2], random_boxes(num_priors), tie=tie, **options)


@pytest.mark.parametrize("degenerate", ["keep", "ignore"])
@pytest.mark.parametrize("tie", ["first", "last"])
def test_bad_boxes(quick, degenerate, tie):
    bad = torch.tensor(BAD)
    boxes, priors = random_boxes(9), random_boxes(300)
    boxes[[1, 3, 5, 6, 8]] = bad
    expect(quick, boxes, [2, 7], priors, degenerate=degenerate, tie=tie)
    priors[[0, 40, 41, 200, 299]] = bad
    priors[90] = math.nan
    for options in ({}, {"forced": "none"}, {"iou_threshold": 0.0}):
        expect(quick, boxes, [2, 7], priors, degenerate=degenerate, tie=tie, **options)


def test_rows_of_no_image(quick):
    expect(quick, snapped(8), [2, 0, 3], snapped(40), first=2)


def test_more_groups_than_threads_that_make_them(once):
    """A block of 512 threads makes 64 at a time; the truth meets one of those that come after them."""
    assert plan(1, 16_640) == (8, 512)
    x = torch.arange(16_640.0)
    priors = torch.stack([x, torch.zeros_like(x), x + 1, torch.ones_like(x)], 1)
    expect(once, priors[-3:-2], [1], priors)


def test_what_clusters_cannot_do_is_done_by_the_kernels(quick):
    older = Clusters(quick.kernels.on(80))
    for forced, dtype in (("argmax", torch.float32), ("bipartite", torch.float32), ("argmax", torch.float64)):
        on = older if forced == "argmax" and dtype == torch.float32 else quick
        expect(on, snapped(9, dtype=dtype), [4, 5], snapped(300, dtype=dtype), forced=forced)


@settings(max_examples=fuzz_examples(8), deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    num_priors=st.integers(1, 300),
    options=any_options(FORCED),
    seed=st.integers(0, 2**31),
)
def test_fuzz(clusters, counts, num_priors, options, seed):
    generator = torch.Generator().manual_seed(seed)

    def lattice(n):  # few distinct boxes, some of them empty or inverted
        return torch.randint(0, 5, (n, 4), generator=generator).float() / 4

    expect(clusters, lattice(sum(counts)), counts, lattice(num_priors), **options)
