"""soft_nms: choices, scores and order against the reference, by hand, and inside torch."""

from __future__ import annotations

import math

import pytest
import torch
from emulator.harness import fuzz_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.packages import ensemble_boxes
from simd_levels import at_every_level
from soft_nms_cases import INF, NAN, RULES, odd_scene, scene

from ssd_cuda import ops, reference

DEFAULT = {"score_threshold": 0.001, "sigma": 0.5}


def expected(boxes, scores, idxs=None, **options):
    options = {**DEFAULT, **options}
    if idxs is None:
        return reference.soft_nms.soft_nms(boxes, scores, **options)
    return reference.soft_nms.batched_soft_nms(boxes, scores, idxs, **options)


def same(boxes, scores, idxs=None, **options):
    """Assert that every form of the op gives what the reference gives; returns how many are kept."""
    index, values = expected(boxes, scores, idxs, **options)
    if idxs is None:
        keep, kept_scores = ops.soft_nms(boxes, scores, **options)
    else:
        keep, kept_scores = ops.batched_soft_nms(boxes, scores, idxs, **options)
    assert keep.dtype == torch.int64 and kept_scores.dtype == values.dtype
    assert torch.equal(keep, index)
    # float64 takes torch's exp in the reference.
    close = {"rtol": 1e-12, "atol": 0} if values.dtype == torch.float64 else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(kept_scores, values, equal_nan=True, **close)
    rows, row_scores, count = ops.soft_nms_padded(boxes, scores, idxs=idxs, **options)
    assert rows.shape == scores.shape and count.shape == () and count == len(index)
    assert torch.equal(rows[:count], index) and bool((rows[count:] == -1).all())
    assert torch.equal(row_scores[count:], torch.zeros_like(row_scores[count:]))
    return len(index)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 19, 150])
def test_is_the_reference(device, n, rule):
    boxes, scores, idxs = (t.to(device) for t in scene(n, 4))
    same(boxes, scores, **rule)
    same(boxes, scores, idxs, **rule)
    assert n < 150 or same(boxes.double(), scores, idxs, **rule) > 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(device, dtype):
    boxes, scores, idxs = (t.to(device) for t in scene(90, 3))
    same(boxes.to(dtype), scores.to(dtype), idxs)
    same(boxes, scores.to(dtype), idxs)


def test_by_hand(device):
    boxes = torch.tensor([[0.0, 0, 2, 1], [1, 0, 3, 1], [8, 0, 9, 1], [0, 0, 2, 1]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.3, 0.85], device=device)  # IoU 1/3 of box 1 with 0 and 3
    keep, values = ops.soft_nms(boxes, scores, method="linear", iou_threshold=0.3)
    assert keep.tolist() == [0, 1, 2] and values.tolist() == pytest.approx([0.9, 0.8 * 2 / 3, 0.3])
    keep, values = ops.soft_nms(boxes, scores, method="linear", iou_threshold=0.4)
    assert keep.tolist() == [0, 1, 2] and torch.equal(values, scores[:3])
    once, twice = math.exp(-(1 / 9) / 0.5), math.exp(-1 / 0.5)
    keep, values = ops.soft_nms(boxes, scores)
    last = 0.85 * twice * once  # by box 0, then by box 1
    assert keep.tolist() == [0, 1, 2, 3]
    assert values.tolist() == pytest.approx([0.9, 0.8 * once, 0.3, last])
    keep, values = ops.soft_nms(boxes, scores, score_threshold=0.2)
    assert keep.tolist() == [0, 1, 2]
    idxs = torch.tensor([0, 1, 1, 1], device=device)
    keep, values = ops.batched_soft_nms(boxes, scores, idxs, max_output=3)
    assert keep.tolist() == [0, 3, 1] and values.tolist() == pytest.approx([0.9, 0.85, 0.8 * once])


def test_ties_go_by_index(device):
    boxes, _, idxs = (t.to(device) for t in scene(120, 5, extent=2000.0))
    scores = torch.full((120,), 0.5, device=device)
    same(boxes, scores, idxs)
    same(boxes, scores)
    keep, _ = ops.soft_nms(boxes + 1e5 * torch.arange(120, device=device)[:, None], scores)
    assert keep.tolist() == list(range(120))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_odd_boxes_and_scores(device, rule):
    boxes, scores = (t.to(device) for t in odd_scene())
    same(boxes, scores, **rule)
    same(boxes, scores, torch.arange(len(scores), device=device) % 3, **rule)
    keep, values = ops.soft_nms(boxes, scores, **rule)
    nan = int(scores.isnan().sum())
    assert bool(values[:nan].isnan().all()) and not values[nan:].isnan().any()
    assert keep[:nan].tolist() == scores.isnan().nonzero()[:, 0].tolist()


def test_a_weight_of_0_takes_an_infinite_score():
    boxes, scores = torch.tensor([[0.0, 0, 1, 1]] * 2), torch.tensor([INF, INF])
    assert ops.soft_nms(boxes, scores, method="linear")[0].tolist() == [0]
    keep, values = ops.soft_nms(boxes, torch.tensor([NAN, INF]), method="linear")
    assert keep.tolist() == [0] and values.isnan().all()


def test_max_output_keeps_the_best(device):
    boxes, scores, idxs = (t.to(device) for t in scene(100, 4))
    index, values = ops.batched_soft_nms(boxes, scores, idxs)
    for rows in (0, 1, len(index) - 1, len(index), 300):
        keep, kept_scores, count = ops.soft_nms_padded(boxes, scores, idxs=idxs, max_output=rows)
        assert keep.shape == (rows,) and count == min(rows, len(index))
        assert torch.equal(keep[:count], index[:rows]) and torch.equal(kept_scores[:count], values[:rows])
        assert torch.equal(ops.batched_soft_nms(boxes, scores, idxs, max_output=rows)[0], index[:rows])


def test_views_are_accepted(device):
    wide = torch.rand(50, 9, device=device).cumsum(1)
    boxes, scores, idxs = wide[:, 1:5], wide[:, 7], torch.arange(100, device=device)[::2] % 3
    for first, second in zip(
        ops.batched_soft_nms(boxes, scores, idxs),
        ops.batched_soft_nms(boxes.clone(), scores.clone(), idxs.clone()),
        strict=True,
    ):
        assert torch.equal(first, second)


def test_a_long_list_closes_its_ranks():
    """Most scores fall: the list on the CPU is packed again and again, and the order stays."""
    boxes, scores, _ = scene(1500, extent=400.0)
    assert same(boxes, scores, sigma=0.1, score_threshold=0.3) > 200


def test_every_instruction_set_gives_the_same():
    boxes, scores, idxs = scene(600, 3, extent=150.0)
    for rule in RULES:
        for results in (
            at_every_level(lambda rule=rule: torch.cat(ops.soft_nms(boxes, scores, **rule))),
            at_every_level(
                lambda rule=rule: torch.cat(ops.batched_soft_nms(boxes.double(), scores, idxs, **rule))
            ),
        ):
            assert all(torch.equal(results[0], other) for other in results)


@settings(deadline=None, max_examples=fuzz_examples(60))
@given(
    n=st.integers(0, 40),
    seed=st.integers(0, 2**31),
    rule=st.sampled_from(RULES),
    classes=st.integers(0, 3),
    scale=st.sampled_from([1e-18, 1.0, 1e15]),
)
def test_fuzz(n, seed, rule, classes, scale):
    torch.manual_seed(seed)
    boxes, scores, idxs = scene(n, classes, extent=30.0)
    same(boxes * scale, scores, idxs, **rule)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_is_that_of_ensemble_boxes(method):
    module = ensemble_boxes("ensemble_boxes_nms")
    if module is None:
        pytest.skip("the package ensemble-boxes is not installed")
    theirs = module.cpu_soft_nms_float
    boxes, scores, _ = scene(80)
    boxes, scores = boxes.double() / 100, torch.rand(80).double()
    rule = {"sigma": 0.5, "iou_threshold": 0.4, "score_threshold": 0.01}
    keep, values = ops.soft_nms(boxes, scores, method=method, **rule)
    left = scores.numpy().copy()
    index = theirs(boxes.numpy().copy(), left, 0.4, 0.5, 0.01, 1 if method == "linear" else 2)
    assert sorted(index.tolist()) == sorted(keep.tolist())
    assert sorted(left[left > 0.01], reverse=True) == pytest.approx(values.tolist())


def test_opcheck(device):
    boxes, scores, idxs = (t.to(device) for t in scene(50, 4))
    options = {"iou_threshold": 0.5, "inclusive": True, "iou_eps": 1e-5, "pixel_offset": 1.0}
    options |= {"soft_sigma": 0.5, "soft_linear": True, "score_threshold": 0.01, "max_output": 7}
    for classes in (None, idxs):
        torch.library.opcheck(torch.ops.ssd_cuda.soft_nms.default, (boxes, scores, classes), options)


def test_compiles_without_a_break(device):
    boxes, scores, idxs = (t.to(device) for t in scene(60, 4))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(boxes, scores, idxs):
        keep, values, count = ops.soft_nms_padded(boxes * 2, scores, idxs=idxs, max_output=20)
        return keep + 1, values * 2, count

    keep, values, count = ops.soft_nms_padded(boxes * 2, scores, idxs=idxs, max_output=20)
    for got, wanted in zip(step(boxes, scores, idxs), (keep + 1, values * 2, count), strict=True):
        assert torch.equal(got, wanted)


BOXES, SCORES, IDXS = torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ops.soft_nms(BOXES[0], SCORES), ValueError, r"boxes must have shape \[N, 4\], got \[4\]"),
        (lambda: ops.soft_nms(BOXES, SCORES[:2]), ValueError, r"scores must have shape \[3\], got \[2\]"),
        (
            lambda: ops.soft_nms(BOXES, SCORES, method="hard"),
            ValueError,
            "method must be one of 'gaussian', 'linear', got 'hard'",
        ),
        (
            lambda: ops.soft_nms(BOXES, SCORES, sigma=0.0),
            ValueError,
            r"sigma must lie in \[1e-12, inf\], got",
        ),
        (
            lambda: ops.soft_nms(BOXES, SCORES, score_threshold=-0.1),
            ValueError,
            r"score_threshold must lie in \[0.0, inf\], got -0.1",
        ),
        (
            lambda: ops.soft_nms(BOXES, SCORES, iou_threshold=1.5),
            ValueError,
            r"iou_threshold must lie in \[0.0, 1.0\], got 1.5",
        ),
        (
            lambda: ops.soft_nms(BOXES, SCORES, max_output=1.5),
            TypeError,
            "max_output must be an integer, got float",
        ),
        (
            lambda: ops.soft_nms(BOXES, SCORES.clone().requires_grad_()),
            ValueError,
            "scores must not require a gradient",
        ),
        (lambda: ops.batched_soft_nms(BOXES, SCORES, None), TypeError, "idxs must be a tensor, got NoneType"),
        (
            lambda: ops.batched_soft_nms(BOXES, SCORES, IDXS[:2]),
            ValueError,
            r"idxs must have shape \[3\], got \[2\]",
        ),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()
