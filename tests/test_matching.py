"""matching: every option against the reference, torchvision and hand-worked cases."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import random_boxes, random_priors
from emulator.harness import fuzz_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from simd_levels import at_every_level

from ssd_cuda import MatchConfig, MultiBoxConfig, ops, reference
from ssd_cuda.ops import BACKGROUND, IGNORED, GroundTruth

SQUARE = (0.0, 0.0, 1.0, 1.0)


def ground_truth(*images, device="cpu", dtype=torch.float32) -> GroundTruth:
    """One list of x1, y1, x2, y2 per image; bad boxes pass."""
    boxes = [torch.tensor(rows, dtype=dtype, device=device).reshape(-1, 4) for rows in images]
    labels = [torch.ones(len(b), dtype=torch.int64, device=device) for b in boxes]
    return GroundTruth.from_list(boxes, labels, degenerate="keep")


def ragged(counts, *, grid=None, dtype=torch.float32, device="cpu") -> GroundTruth:
    """Random boxes; ``grid`` snaps them to a lattice, which makes ties."""
    boxes = random_boxes(sum(counts), dtype=dtype).to(device)
    if grid:
        boxes = (boxes * grid).round() / grid
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1 / grid)
    labels = torch.ones(sum(counts), dtype=torch.int64, device=device)
    gt = GroundTruth.from_list(list(boxes.split(counts)), list(labels.split(counts)))
    return gt.to(device)  # that of no images is on the CPU


def expect(gt: GroundTruth, priors: torch.Tensor, config: MatchConfig) -> None:
    options = {name: getattr(config, name) for name in MatchConfig.__dataclass_fields__}
    wide = torch.float64 if torch.float64 in (gt.boxes.dtype, priors.dtype) else torch.float32
    expected = reference.matching.match(gt.boxes.to(wide), gt.offsets, priors.to(wide), **options)
    result = ops.match(gt, priors, config=config)
    assert result.dtype == torch.int32 and result.shape == expected.shape
    assert torch.equal(result, expected), config


def priors_of(n: int, *, batch: int | None = None, dtype=torch.float32, device="cpu") -> torch.Tensor:
    rows = random_priors(n * (1 if batch is None else batch), dtype=dtype).to(device)
    return rows if batch is None else rows.reshape(batch, n, 4)


FORCED = ["none", "argmax", "bipartite"]
OPTIONS = [
    {},
    {"iou_threshold": 0.0},
    {"iou_threshold": 1.0},
    {"iou_threshold": 0.3, "inclusive": False},
    {"iou_eps": 1e-5},
    {"iou_eps": 0.1},
    {"forced_min_iou": 1e-6},
    {"forced_min_iou": 0.6},
    {"forced_min_iou": 0.6, "relabel_unforced": True},
    {"candidate_max_iou": 0.3},
    {"candidate_max_iou": 0.0},
    {"degenerate": "keep"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("tie", ["first", "last"])
@pytest.mark.parametrize("forced", FORCED)
def test_every_option_is_the_reference(device, options, tie, forced):
    config = MatchConfig(forced=forced, tie=tie, **options)
    for grid in (None, 8):
        gt = ragged([3, 0, 12, 1], grid=grid, device=device)
        expect(gt, priors_of(300, device=device), config)


@pytest.mark.parametrize("counts", [[], [0, 0], [1], [7, 0, 2], [40]], ids=str)
@pytest.mark.parametrize("num_priors", [0, 1, 15, 16, 17, 257, 4100])
@pytest.mark.parametrize("forced", ["argmax", "bipartite"])
def test_shapes(device, counts, num_priors, forced):
    gt = ragged(counts, device=device)
    expect(gt, priors_of(num_priors, device=device), MatchConfig(forced=forced))
    own = priors_of(num_priors, batch=len(counts), device=device)
    expect(gt, own, MatchConfig(forced=forced, tie="last"))


@pytest.mark.parametrize("boxes_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("priors_dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prior_format", ["cxcywh", "xyxy"])
def test_dtypes(device, boxes_dtype, priors_dtype, prior_format):
    gt = ragged([9, 2], grid=16, dtype=boxes_dtype, device=device)
    priors = priors_of(500, dtype=priors_dtype, device=device)
    for forced, tie in itertools.product(FORCED, ["first", "last"]):
        expect(gt, priors, MatchConfig(prior_format=prior_format, forced=forced, tie=tie))


BAD_BOXES = [
    (0.5, 0.5, 0.5, 0.9),
    (0.9, 0.1, 0.2, 0.8),
    (0.9, 0.9, 0.1, 0.1),
    (math.nan, 0.1, 0.5, 0.5),
    (0.1, 0.1, math.inf, 0.5),
    (-math.inf, 0.1, 0.5, math.inf),
    (0.1, 0.1, 1e30, 1e30),
    (0.3, 0.3, 0.3, 0.3),
]


@pytest.mark.parametrize("bad", BAD_BOXES, ids=str)
@pytest.mark.parametrize("degenerate", ["keep", "ignore"])
@pytest.mark.parametrize("forced", FORCED)
@pytest.mark.parametrize("inclusive", [True, False])
def test_bad_ground_truth_is_the_reference(device, bad, degenerate, forced, inclusive):
    good = random_boxes(3).tolist()
    priors = reference.boxes.to_xyxy(priors_of(300, device=device))
    for tie, images in itertools.product(
        ["first", "last"], [[[bad]], [[*good, bad]], [[bad, *good], good], [[good[0], bad, bad, good[1]]]]
    ):
        config = MatchConfig(
            degenerate=degenerate, forced=forced, inclusive=inclusive, tie=tie, prior_format="xyxy"
        )
        expect(ground_truth(*images, device=device), priors, config)
        expect(ground_truth(*images, device=device, dtype=torch.float64), priors, config)


@pytest.mark.parametrize("bad", BAD_BOXES, ids=str)
@pytest.mark.parametrize("degenerate", ["keep", "ignore"])
@pytest.mark.parametrize("forced", FORCED)
def test_bad_priors_are_the_reference(device, bad, degenerate, forced):
    priors = reference.boxes.to_xyxy(priors_of(2500, device=device))
    for rows in ([0], [2499], [3, 4, 2100]):
        spoiled = priors.clone()
        spoiled[rows] = torch.tensor(bad, device=device)
        for tie in ("first", "last"):
            config = MatchConfig(degenerate=degenerate, forced=forced, tie=tie, prior_format="xyxy")
            expect(ragged([4, 1, 0], device=device), spoiled, config)
    expect(
        ragged([2], device=device),
        torch.tensor([bad] * 5, device=device),
        MatchConfig(degenerate=degenerate, forced=forced, prior_format="xyxy"),
    )


@settings(max_examples=fuzz_examples(60), deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), max_size=4),
    num_priors=st.integers(0, 70),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    options=st.fixed_dictionaries(
        {
            "inclusive": st.booleans(),
            "iou_eps": st.sampled_from([0.0, 1e-5]),
            "forced": st.sampled_from(FORCED),
            "forced_min_iou": st.sampled_from([0.0, 0.25, 0.5]),
            "relabel_unforced": st.booleans(),
            "tie": st.sampled_from(["first", "last"]),
            "candidate_max_iou": st.sampled_from([None, 0.0, 0.25]),
            "degenerate": st.sampled_from(["keep", "ignore"]),
        }
    ),
    seed=st.integers(0, 2**31),
)
def test_fuzz_lattice_boxes_full_of_ties(counts, num_priors, threshold, options, seed):
    generator = torch.Generator().manual_seed(seed)

    def lattice(n):  # few distinct boxes, some of them empty or inverted
        return torch.randint(0, 5, (n, 4), generator=generator).float() / 4

    boxes = lattice(sum(counts)).split(counts)
    labels = [torch.ones(n, dtype=torch.int64) for n in counts]
    gt = GroundTruth.from_list(list(boxes), labels, degenerate="keep")
    config = MatchConfig(iou_threshold=threshold, prior_format="xyxy", **options)
    expect(gt, lattice(num_priors), config)


def test_codes_by_hand(device):
    """Two boxes over four priors: one by threshold, one forced, one left over, one with no overlap."""
    gt = ground_truth([(0, 0, 2, 2), (10, 10, 14, 14)], device=device)
    priors = torch.tensor(
        [[0.0, 0, 2, 3], [0, 0, 2, 5], [13, 13, 15, 15], [30, 30, 31, 31]], device=device
    )  # IoU with box 0: 2/3, 2/5, 0, 0; with box 1: 0, 0, 1/19, 0

    def codes(**options):
        return ops.match(gt, priors, prior_format="xyxy", **options)[0].tolist()

    assert codes() == [0, BACKGROUND, 1, BACKGROUND]
    assert codes(forced="none") == [0, BACKGROUND, BACKGROUND, BACKGROUND]
    assert codes(iou_threshold=0.4) == [0, 0, 1, BACKGROUND]
    assert codes(candidate_max_iou=0.3) == [0, IGNORED, 1, BACKGROUND]
    assert codes(forced_min_iou=0.2) == [0, BACKGROUND, BACKGROUND, BACKGROUND]


def test_last_ground_truth_wins_a_shared_prior_and_bipartite_gives_distinct_ones(device):
    gt = ground_truth([(0, 0, 10, 9), (0, 0, 10, 10), (0, 0, 10, 8)], device=device)
    priors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 5, 5], [0, 0, 4, 4]], device=device)
    options = {"prior_format": "xyxy", "iou_threshold": 0.95}
    assert ops.match(gt, priors, **options)[0].tolist() == [2, -1, -1]
    assert ops.match(gt, priors, forced="bipartite", **options)[0].tolist() == [1, 2, 0]


@pytest.mark.parametrize("tie, prior, owner", [("first", 0, 0), ("last", 2, 1)])
def test_ties(device, tie, prior, owner):
    priors = torch.tensor([SQUARE] * 3, device=device)
    one = ground_truth([SQUARE], device=device)
    code = ops.match(one, priors, 1.0, inclusive=False, tie=tie, prior_format="xyxy")[0].tolist()
    assert code == [0 if p == prior else -1 for p in range(3)]
    two = ground_truth([SQUARE, SQUARE], device=device)
    code = ops.match(two, priors, tie=tie, forced="none", prior_format="xyxy")[0].tolist()
    assert code == [owner] * 3


def test_a_box_that_overlaps_nothing_takes_the_first_or_last_prior(device):
    gt = ground_truth([(50, 50, 60, 60)], device=device)
    priors = torch.tensor([SQUARE] * 40, device=device)
    for tie, row in (("first", 0), ("last", 39)):
        codes = ops.match(gt, priors, tie=tie, prior_format="xyxy")[0]
        assert codes[row] == 0 and (codes >= 0).sum() == 1


def test_threshold_is_compared_inclusively_or_strictly(device):
    gt = ground_truth([(0, 0, 2, 2)], device=device)
    priors = torch.tensor([[0.0, 0, 2, 4], [0, 0, 2, 2]], device=device)  # IoU exactly 1/2, 1
    assert ops.match(gt, priors, prior_format="xyxy")[0].tolist() == [0, 0]
    assert ops.match(gt, priors, prior_format="xyxy", inclusive=False)[0].tolist() == [-1, 0]


def test_retinaface_renames_a_matched_prior_after_an_unforced_box(device):
    """Box 1's best IoU (1/9) is below forced_min_iou: not forced, yet it takes over the prior of box 0."""
    gt = ground_truth([(0, 0, 3, 3), (0, 0, 1, 1)], device=device)
    priors = torch.tensor([[0.0, 0, 3, 3]], device=device)
    config = MultiBoxConfig.preset("retinaface").match
    rule = {"config": config, "prior_format": "xyxy"}
    assert ops.match(gt, priors, **rule)[0].tolist() == [1]
    assert ops.match(gt, priors, relabel_unforced=False, **rule)[0].tolist() == [0]


def test_torchvisions_matcher(device):
    box_ops = pytest.importorskip("torchvision.ops")
    from torchvision.models.detection._utils import SSDMatcher

    matcher = SSDMatcher(0.5)
    config = MultiBoxConfig.preset("torchvision").match
    for counts in ([1, 8, 30], [3] * 5):
        gt = ragged(counts, grid=32, device=device)
        priors = random_boxes(3000).to(device)
        codes = ops.match(gt, priors, config=config)
        for boxes, row in zip(gt.boxes.split(counts), codes, strict=True):
            expected = matcher(box_ops.box_iou(boxes, priors))
            if device.type == "cpu":
                assert torch.equal(row.long(), expected)
            else:  # which of two claims on one prior wins is undefined in a CUDA scatter
                assert (row.long() != expected).sum() <= len(boxes)
    nan = ground_truth([(math.nan, 0, 1, 1)], device=device)
    assert torch.equal(ops.match(nan, priors, config=config)[0], torch.zeros_like(codes[0]))


def test_offsets_that_leave_rows_spare_or_lie_outside_the_boxes(device):
    gt, priors = ragged([3, 2], device=device), priors_of(200, device=device)
    boxes = torch.cat([gt.boxes, torch.full((4, 4), math.nan, device=device)])
    spare = GroundTruth(boxes, torch.full((9,), -7, device=device), gt.offsets)
    assert torch.equal(ops.match(spare, priors), ops.match(gt, priors))
    if device.type == "cpu":
        return  # there they are refused: tests/test_bad_targets.py
    wild = GroundTruth(gt.boxes, gt.labels, torch.tensor([-9, 3, 2**30], dtype=torch.int32, device=device))
    assert torch.equal(ops.match(wild, priors), ops.match(gt, priors))


def test_views_are_accepted(device):
    gt = ragged([4, 4], device=device)
    wide = torch.rand(70, 9, device=device) + 0.1
    priors = wide[::2, 1:5]
    assert torch.equal(ops.match(gt, priors), ops.match(gt, priors.clone()))
    shared = priors.expand(2, 35, 4)
    assert torch.equal(ops.match(gt, shared), ops.match(gt, priors))


def test_many_ground_truths(device):
    expect(ragged([1500, 700], grid=64, device=device), priors_of(900, device=device), MatchConfig())
    config = MatchConfig(forced="bipartite")
    expect(ragged([130, 300], grid=64, device=device), priors_of(200, device=device), config)


def test_same_bits_for_any_number_of_threads():
    gt, priors = ragged([9, 0, 33], grid=32), priors_of(5000)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results += [ops.match(gt, priors), ops.match(gt, priors, forced="bipartite")]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(results[2:], results[:-2], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tie", ["first", "last"])
def test_same_bits_at_every_instruction_set(dtype, tie):
    torch.manual_seed(1)
    gt, priors = ragged([9, 0, 33], grid=32, dtype=dtype), priors_of(3000, dtype=dtype)
    first, *others = at_every_level(lambda: ops.match(gt, priors, 0.4, tie=tie))
    assert all(torch.equal(first, other) for other in others)


def test_captures_in_a_cuda_graph_and_never_syncs(device):
    if device.type != "cuda":
        pytest.skip("CUDA graphs")
    priors = priors_of(1000, device=device)
    padded, counts = random_boxes(12).reshape(2, 6, 4).to(device), torch.tensor([6, 2], device=device)
    labels = torch.ones(2, 6, dtype=torch.int64, device=device)
    for forced in FORCED:
        static = GroundTruth.from_padded(padded, labels, counts)
        ops.match(static, priors, forced=forced)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.graph(graph):
                codes = ops.match(static, priors, forced=forced)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        fresh = GroundTruth.from_padded(padded.flip(0), labels, counts.flip(0))
        static.boxes.copy_(fresh.boxes)
        static.offsets.copy_(fresh.offsets)
        graph.replay()
        expected = reference.matching.match(fresh.boxes, fresh.offsets, priors, forced=forced)
        assert torch.equal(codes, expected)


def test_opcheck_and_compile(device):
    gt, priors = ragged([3, 0, 5], device=device), priors_of(60, device=device)
    options = ops.matching.op_options(MatchConfig())
    torch.library.opcheck(torch.ops.ssd_cuda.match.default, (gt.boxes, gt.offsets, priors), options)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(boxes, labels, offsets, priors):
        return ops.match(GroundTruth(boxes, labels, offsets), priors) + 1

    result = step(gt.boxes, gt.labels, gt.offsets, priors)
    assert torch.equal(result, ops.match(gt, priors) + 1)


def test_priors_that_differ_below_float32(device):
    """float64 priors are compared in float64, whatever the boxes: the second lies nearer by 1e-9."""
    priors = torch.tensor([[0.0, 0, 1, 1 - 2e-9], [0, 0, 1, 1 - 1e-9]], dtype=torch.float64, device=device)
    gt = ground_truth([SQUARE], device=device)
    config = MatchConfig(iou_threshold=1.0, prior_format="xyxy")
    assert ops.match(gt, priors, config=config).tolist() == [[BACKGROUND, 0]]


GT = ragged([2, 1])
PRIORS = priors_of(5)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ops.match(GT.boxes, PRIORS), TypeError, "gt must be a GroundTruth .*, got Tensor"),
        (lambda: ops.match(GT, PRIORS[:, :3]), ValueError, r"priors must have shape \[P, 4\], got \[5, 3\]"),
        (
            lambda: ops.match(GT, PRIORS[None]),
            ValueError,
            r"priors must have shape \[2, P, 4\], got \[1, 5, 4\]",
        ),
        (lambda: ops.match(GT, PRIORS.int()), TypeError, "priors must be float32.*got int32"),
        (lambda: ops.match(GT, None), TypeError, "priors must be a tensor, got NoneType"),
        (
            lambda: ops.match(GT, PRIORS.clone().requires_grad_()),
            ValueError,
            "priors must not require a gradient",
        ),
        (lambda: ops.match(GT, PRIORS, 1.5), ValueError, r"iou_threshold must lie in \[0.0, 1.0\], got 1.5"),
        (lambda: ops.match(GT, PRIORS, forced="all"), ValueError, "forced must be one of .*, got 'all'"),
        (lambda: ops.match(GT, PRIORS, thresh=0.5), TypeError, "thresh"),
        (lambda: ops.match(GT, PRIORS, config="paper"), TypeError, "config must be a MatchConfig, got str"),
        (lambda: ops.match(GT, PRIORS.to("meta")), ValueError, "must be on one device, got cpu, meta"),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()
