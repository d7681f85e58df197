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

from ssd_cuda import MatchConfig, reference

FORCED = ["none", "argmax", "bipartite"]


@pytest.fixture(scope="module")
def matching():
    return kernels("matching")


def expect(matching, boxes, counts, priors, **options):
    config = MatchConfig(**{"prior_format": "xyxy", **options})
    offsets = torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32)
    result = matching.match(
        boxes,
        offsets,
        priors,
        priors.dim(),
        config.iou_threshold,
        config.inclusive,
        config.iou_eps,
        FORCED.index(config.forced),
        config.forced_min_iou,
        config.relabel_unforced,
        config.tie == "last",
        -1.0 if config.candidate_max_iou is None else config.candidate_max_iou,
        config.degenerate == "ignore",
        config.prior_format == "xyxy",
    )
    fields = {name: getattr(config, name) for name in MatchConfig.__dataclass_fields__}
    expected = reference.matching.match(boxes, offsets, priors, **fields)
    assert torch.equal(result, expected), (config, counts)


def snapped(n, grid=8, dtype=torch.float32):
    """Boxes on a lattice: many equal overlaps."""
    boxes = (random_boxes(n, dtype=dtype) * grid).round() / grid
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1 / grid)
    return boxes


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


@settings(max_examples=fuzz_examples(), deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    num_priors=st.integers(1, 300),
    options=st.fixed_dictionaries(
        {
            "iou_threshold": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            "inclusive": st.booleans(),
            "forced": st.sampled_from(FORCED),
            "forced_min_iou": st.sampled_from([0.0, 0.25, 0.5]),
            "relabel_unforced": st.booleans(),
            "tie": st.sampled_from(["first", "last"]),
            "candidate_max_iou": st.sampled_from([None, 0.25]),
            "degenerate": st.sampled_from(["keep", "ignore"]),
        }
    ),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_fuzz(matching, counts, num_priors, options, dtype, seed):
    generator = torch.Generator().manual_seed(seed)

    def lattice(n):  # few distinct boxes, some of them empty or inverted
        return torch.randint(0, 5, (n, 4), generator=generator).to(dtype) / 4

    expect(matching, lattice(sum(counts)), counts, lattice(num_priors), **options)
