"""The matching kernels' device code on the CPU against the reference: options, ties, bad boxes, edges."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import random_boxes, random_priors
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_cuda import MatchConfig, PriorSpec, ops, reference
from ssd_cuda.ops.matching import op_options

FORCED = ["none", "argmax", "bipartite"]


@pytest.fixture(scope="module")
def matching():
    return kernels("matching")


def expect(matching, boxes, counts, priors, first=0, **options):
    """The kernels against the reference; the first image begins at row first."""
    config = MatchConfig(**{"prior_format": "xyxy", **options})
    offsets = torch.tensor([*itertools.accumulate(counts, initial=first)], dtype=torch.int32)
    wide = torch.promote_types(boxes.dtype, priors.dtype)
    result = matching.match(
        boxes.to(wide),
        offsets,
        priors.to(wide),
        priors.dim(),
        op_options(config, boxes.dtype, priors.dtype),
    )
    fields = {name: getattr(config, name) for name in MatchConfig.__dataclass_fields__}
    expected = reference.matching.match(boxes, offsets, priors, **fields)
    assert torch.equal(result, expected), (config, counts)


def snapped(n, grid=8, dtype=torch.float32):
    """Boxes on a lattice: many equal overlaps."""
    boxes = (random_boxes(n, dtype=dtype) * grid).round() / grid
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1 / grid)
    return boxes


@pytest.mark.parametrize("forced", FORCED)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)], ids=str)
@pytest.mark.parametrize("prior_format", ["cxcywh", "xyxy"])
def test_boxes_and_priors_of_other_dtypes(matching, forced, dtypes, prior_format):
    """Areas are rounded before they meet wider ones; 0 where float32 cannot hold them."""
    priors = random_boxes(140, dtype=torch.float64) + 0.3
    priors[::9] *= 1e-24
    if prior_format == "cxcywh":
        priors = reference.boxes.to_cxcywh(priors)
    boxes = torch.cat(
        [random_boxes(9, dtype=torch.float64) + 0.3, priors[:2] if prior_format == "xyxy" else priors[:0]]
    )
    boxes, priors = boxes.to(dtypes[0]), priors.to(dtypes[1])
    expect(matching, boxes, [3, 0, len(boxes) - 3], priors, forced=forced, prior_format=prior_format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
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
def test_options(matching, dtype, tie, forced, options):
    counts = [3, 0, 6]
    priors = snapped(300, dtype=dtype)
    expect(matching, snapped(9, dtype=dtype), counts, priors, tie=tie, forced=forced, **options)


@pytest.mark.parametrize(
    "forced, least, found", [("argmax", 0.5, 0), ("argmax", 0.51, -1), ("bipartite", 0.5, -1)]
)
def test_a_best_overlap_that_is_the_least(matching, forced, least, found):
    """Half a box of one, IoU exactly .5: enough for argmax, not for bipartite, which wants more."""
    box, priors = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 0.5, 1.0]])
    options = {"forced": forced, "forced_min_iou": least, "iou_threshold": 0.75}
    expect(matching, box, [1], priors, **options)
    config = MatchConfig(prior_format="xyxy", **options)
    gt = ops.GroundTruth.from_list([box], [torch.tensor([1])])
    assert ops.match(gt, priors, config=config).item() == found


@pytest.mark.parametrize("num_priors", [1, 31, 33, 255, 256, 257])
@pytest.mark.parametrize("counts", [[0], [1], [2, 0, 5]], ids=str)
@pytest.mark.parametrize("forced", ["argmax", "bipartite"])
def test_block_edges_and_priors_of_every_image(matching, num_priors, counts, forced):
    boxes = snapped(sum(counts))
    expect(matching, boxes, counts, snapped(num_priors), forced=forced)
    own = snapped(num_priors * len(counts)).reshape(len(counts), num_priors, 4)
    expect(matching, boxes, counts, own, forced=forced, tie="last")
    centers = random_priors(num_priors)
    expect(matching, boxes, counts, centers, forced=forced, prior_format="cxcywh")


@pytest.mark.parametrize("truths", [127, 128, 129, 300])
def test_tiles_of_ground_truths(matching, truths):
    expect(matching, snapped(truths + 2), [truths, 2], snapped(40))


@pytest.mark.parametrize("forced", ["argmax", "bipartite"])
@pytest.mark.parametrize("truths", [100, 300])
def test_many_ground_truths_and_groups(matching, truths, forced):
    """Priors of SSD, whose neighbours are near each other: most groups and truths are left out."""
    sizes = {"sizes": (30, 90), "larger_sizes": (90, 160), "ratios": ((2,), (2, 3))}
    spec = PriorSpec(feature_maps=(14, 5), steps=None, **sizes)
    priors = ops.generate_priors(spec)
    boxes = random_boxes(truths + 3)
    some = matching if truths == 100 else matching.with_seeds(0, 2)
    for options in ({}, {"tie": "last"}, {"iou_threshold": 0.0}, {"inclusive": False, "iou_eps": 1e-5}):
        expect(some, boxes, [truths, 0, 3], priors, forced=forced, prior_format="cxcywh", **options)


def test_more_groups_than_a_search_orders_at_once(matching):
    for dtype, priors in ((torch.float32, 512 * 32 + 40), (torch.float64, 256 * 32 + 1)):
        for forced in ("argmax", "bipartite"):
            boxes = random_boxes(3, dtype=dtype)
            quick = matching.with_seeds(3)
            expect(quick, boxes, [1, 2], random_boxes(priors, dtype=dtype), forced=forced)


@pytest.mark.parametrize("tie", ["first", "last"])
@pytest.mark.parametrize("forced", ["argmax", "bipartite"])
def test_a_truth_that_overlaps_no_prior(matching, forced, tie):
    """All its overlaps are 0 and equal: the nearest of all priors in the order of ties is its best."""
    for dtype in (torch.float32, torch.float64):
        boxes = torch.tensor([[5.0, 5.0, 6.0, 7.0]], dtype=dtype)
        expect(matching, boxes, [1], random_boxes(70, dtype=dtype), forced=forced, tie=tie)


def test_more_images_than_lanes(matching):
    counts = [1, 0, 2, *[1] * 40]
    expect(matching, snapped(sum(counts)), counts, snapped(40))


@pytest.mark.parametrize("forced", FORCED)
def test_rows_of_no_image(matching, forced):
    """Static buffers hold more rows than the offsets name."""
    expect(matching, snapped(8), [2, 0, 3], snapped(40), first=2, forced=forced)


@pytest.mark.parametrize("tie", ["first", "last"])
@pytest.mark.parametrize("forced", FORCED)
def test_ground_truths_that_touch_nothing(matching, forced, tie):
    """Every overlap is 0, also that of -0.0: the nearest prior, and with threshold 0 the nearest truth."""
    far = torch.tensor([[-3.0, -3.0, -2.0, -2.0], [-1.0, -1.0, -0.0, -0.0], [0.0, -1.0, 1.0, 0.0]])
    priors = random_boxes(1100)
    priors[5] = torch.tensor([-0.0, -0.0, 0.5, 0.5])
    for options in ({}, {"iou_threshold": 0.0}, {"candidate_max_iou": 0.0}, {"forced_min_iou": 0.1}):
        expect(matching, far, [1, 2], priors, forced=forced, tie=tie, **options)


def test_pairs_of_equal_ground_truths(matching):
    """Each drives the others out of the prior it holds: as many rounds as there are of them."""
    boxes = torch.cat([snapped(1).expand(20, 4), snapped(12)])
    for tie in ("first", "last"):
        expect(matching, boxes, [32], snapped(90), forced="bipartite", tie=tie)
        expect(matching, boxes, [32], random_boxes(90), forced="bipartite", tie=tie)


@pytest.mark.parametrize("degenerate", ["keep", "ignore"])
@pytest.mark.parametrize("forced", FORCED)
def test_bad_priors_in_some_groups(matching, degenerate, forced):
    priors = random_boxes(1100)
    priors[40:44] = torch.tensor(BAD[:4])
    priors[1090] = torch.tensor([math.nan] * 4)
    boxes = random_boxes(6)
    boxes[4] = torch.tensor([2.0, 2.0, 3.0, 3.0])
    for tie in ("first", "last"):
        expect(matching, boxes, [2, 4], priors, degenerate=degenerate, forced=forced, tie=tie)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 300.0, 1e-19, 1e-22, 1e19])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_no_overlap_is_above_the_bound(matching, dtype, scale, eps):
    """Near and tight: priors that contain truths, lie inside, or equal them; areas out of range."""
    for trial in range(40):
        boxes = torch.cat([random_boxes(8, dtype=dtype), snapped(8, 16, dtype)]) * scale
        around = random_boxes(1, dtype=dtype) * scale
        size = 0.2 * (1 + trial % 4)
        priors = torch.cat([around + random_boxes(6, dtype=dtype) * size * scale, boxes[trial % 16][None]])
        overlaps = reference.boxes.box_iou(boxes, priors, eps)
        bounds = matching.overlap_bound(boxes, priors, eps)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        known = (area > 0) & area.isfinite()
        most = overlaps[known].amax(1)
        assert (most <= bounds[known]).all() and ((bounds[known] > 0) | (most == 0)).all()


def test_the_bound_is_tight_and_knows_what_it_does_not_know(matching):
    truth = torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 11.0, 11.0]])
    priors = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 4.0, 4.0]])
    inside, apart = matching.overlap_bound(truth, priors, 0.0).tolist()
    assert 0.25 <= inside < 0.2501 and apart == 0  # 4 / 16, though the box around them covers 9
    priors[1, 2] = 1.0  # inverted: its area is negative
    assert matching.overlap_bound(truth, priors, 0.0).isnan().all()


def test_bipartite_beyond_a_block_of_ground_truths(matching):
    expect(matching, snapped(260), [260], snapped(6), forced="bipartite")


BAD = [
    (0.5, 0.5, 0.5, 0.9),
    (0.9, 0.9, 0.1, 0.1),
    (math.nan, 0, 1, 1),
    (0, 0, math.inf, 1),
    (0, 0, 1e30, 1e30),
]


@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("degenerate", ["keep", "ignore"])
@pytest.mark.parametrize("forced", FORCED)
def test_bad_boxes(matching, bad, degenerate, forced):
    options = {"degenerate": degenerate, "forced": forced}
    for dtype, tie in ((torch.float32, "first"), (torch.float32, "last"), (torch.float64, "first")):
        spoiled = random_boxes(4, dtype=dtype)
        spoiled[2] = torch.tensor(bad, dtype=dtype)
        priors = random_boxes(70, dtype=dtype)
        expect(matching, spoiled, [1, 3], priors, tie=tie, **options)
        priors[[0, 40]] = torch.tensor(bad, dtype=dtype)
        expect(matching, random_boxes(4, dtype=dtype), [4], priors, tie=tie, **options)
        few = torch.tensor([bad] * 5, dtype=dtype)  # all bad, and most groups of a block are not there
        expect(matching, random_boxes(2, dtype=dtype), [2], few, tie=tie, **options)


def any_options(forced):
    """Options of matching, with one of these ways to force."""
    return st.fixed_dictionaries(
        {
            "iou_threshold": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            "inclusive": st.booleans(),
            "forced": st.sampled_from(forced),
            "forced_min_iou": st.sampled_from([0.0, 0.25, 0.5]),
            "relabel_unforced": st.booleans(),
            "tie": st.sampled_from(["first", "last"]),
            "candidate_max_iou": st.sampled_from([None, 0.25]),
            "degenerate": st.sampled_from(["keep", "ignore"]),
        }
    )


@settings(max_examples=fuzz_examples(), deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    num_priors=st.integers(1, 300),
    options=any_options(FORCED),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_fuzz(matching, counts, num_priors, options, dtype, seed):
    generator = torch.Generator().manual_seed(seed)

    def lattice(n):  # few distinct boxes, some of them empty or inverted
        return torch.randint(0, 5, (n, 4), generator=generator).to(dtype) / 4

    expect(matching, lattice(sum(counts)), counts, lattice(num_priors), **options)
