"""mining: per-row selection against the reference, torch.sort and hand-worked cases; every key, every k."""

from __future__ import annotations

import math

import pytest
import torch
from emulator.harness import fuzz_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import selection

from ssd_cuda import MiningConfig, ops
from ssd_cuda.reference import mining as reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def key_rows(kind: str, batch: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    if kind == "normal":
        keys = torch.randn(batch, width)
    elif kind == "ties":
        keys = torch.randint(-2, 3, (batch, width)).float() * 0.5
    elif kind == "equal":
        keys = torch.full((batch, width), 3.0445)
    elif kind == "close":  # neighbouring floats: only the last bits differ
        keys = (torch.randint(0, 7, (batch, width)) + 0x40400000).to(torch.int32).view(torch.float32)
    else:
        special = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40, 3.0, -3.0])
        keys = special[torch.randint(0, len(special), (batch, width))]
    return keys.to(dtype)


def assert_same_top_k(keys: torch.Tensor, k: torch.Tensor) -> None:
    result = ops.top_k_threshold(keys, k)
    threshold, tie_index, count, total = reference.threshold_per_row(keys.cpu(), k.cpu())
    assert torch.equal(result.mask.cpu(), reference.top_k_per_row(keys.cpu(), k.cpu()))
    assert torch.equal(result.tie_index.cpu(), tie_index)
    assert torch.equal(result.count.cpu(), count)
    torch.testing.assert_close(result.threshold.cpu(), threshold, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(result.sum.cpu(), total, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "close", "special"])
@pytest.mark.parametrize("width", [1, 31, 8732])
def test_top_k_is_the_reference(device, kind, dtype, width):
    keys = key_rows(kind, 6, width, dtype).to(device)
    k = torch.tensor([-3, 0, 1, max(width // 3, 1), width, width + 5], device=device)
    assert_same_top_k(keys, k)


@pytest.mark.parametrize("kind", ["normal", "ties", "equal"])
def test_hard_negatives_are_those_of_two_sorts(device, kind):
    keys = key_rows(kind, 6, 700, torch.float32).to(device)
    positive = (
        torch.rand(6, 700, device=device)
        < torch.tensor([0, 0.01, 0.05, 0.1, 0.2, 0.9], device=device)[:, None]
    )
    assert torch.equal(ops.select_hard_negatives(keys, positive), selection.two_sorts(keys, positive))


def test_with_one_k_hard_negatives_are_those_of_topk(device):
    keys = torch.randperm(4 * 700, device=device).view(4, 700).float()
    positive = torch.zeros(4, 700, dtype=torch.bool, device=device)
    positive[:, 3:23] = True
    assert torch.equal(ops.select_hard_negatives(keys, positive), selection.top_k(keys, positive, 60))


def test_rows_longer_than_a_block_holds(device):
    for kind in ("normal", "ties", "equal"):
        keys = key_rows(kind, 2, 40000, torch.float32).to(device)
        assert_same_top_k(keys, torch.tensor([77, 30001], device=device))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_top_k_of_nothing(device, shape):
    keys = torch.empty(shape, device=device)
    result = ops.top_k_threshold(keys, torch.full(shape[:1], 2, device=device))
    assert result.mask.shape == shape
    assert result.count.tolist() == [0] * shape[0]
    assert result.tie_index.tolist() == [-1] * shape[0]
    assert result.threshold.tolist() == [math.inf] * shape[0]


def test_top_k_by_hand(device):
    keys = torch.tensor([[1.0, 5.0, 5.0, -0.0, 0.0, 5.0]] * 4, device=device)
    keys[3, 4] = math.nan
    k = torch.tensor([2, 5, 4, 1], dtype=torch.int32, device=device)
    result = ops.top_k_threshold(keys, k)
    assert result.mask.int().tolist() == [
        [0, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 1],
        [1, 1, 1, 0, 0, 1],
        [0, 0, 0, 0, 1, 0],
    ]
    assert result.tie_index.tolist() == [2, 3, 0, 4]
    assert result.threshold[:3].tolist() == [5.0, 0.0, 1.0]
    assert result.sum[:3].tolist() == [10.0, 16.0, 16.0]


@settings(max_examples=fuzz_examples(60), deadline=None)
@given(st.integers(1, 5), st.integers(0, 70), st.integers(0, 2**31), st.integers(1, 6))
def test_fuzz_top_k_of_ties(batch, width, seed, values):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(-values, values, (batch, width), generator=generator).float()
    k = torch.randint(-1, width + 2, (batch,), generator=generator)
    assert_same_top_k(keys, k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cap", ["all", "all_but_one", "negatives"])
@pytest.mark.parametrize("positive_fill", ["zero", "-inf"])
@pytest.mark.parametrize("rounding, ratio", [("floor", 3.0), ("ceil", 2.3), ("floor", 0.0)])
@pytest.mark.parametrize("kind", ["normal", "ties", "special"])
def test_hard_negatives_are_the_reference(device, dtype, cap, positive_fill, rounding, ratio, kind):
    options = dict(cap=cap, positive_fill=positive_fill, rounding=rounding, ratio=ratio)
    density = torch.tensor([0.0, 0.02, 0.4, 1.0, 0.1], device=device)[:, None]
    for excluded, least in ((None, 0), (0.0, 5), (0.3, 0), (1.0, 5)):
        keys = key_rows(kind, 5, 257, dtype).to(device)
        positive = torch.rand(5, 257, device=device) < density
        candidates = None if excluded is None else torch.rand(5, 257, device=device) >= excluded
        options = dict(options, candidates=candidates, min_negatives=least)
        result = ops.select_hard_negatives(keys, positive, **options)
        assert torch.equal(result, reference.select_hard_negatives(keys, positive, **options))


def test_hard_negatives_by_hand(device):
    keys = torch.tensor([[9.0, 2.0, 7.0, 2.0, 2.0, 1.0]], device=device)
    positive = torch.tensor([[True, False, False, False, False, False]], device=device)
    assert ops.select_hard_negatives(keys, positive).int().tolist() == [[0, 1, 1, 1, 0, 0]]
    nothing = torch.zeros_like(positive)
    assert not ops.select_hard_negatives(keys, nothing).any()
    assert ops.select_hard_negatives(keys, nothing, min_negatives=1).int().tolist() == [[1, 0, 0, 0, 0, 0]]


def test_views_are_accepted(device):
    wide = torch.randn(5, 90, device=device)
    keys = wide.t()[3:63:2]
    k = torch.tensor([4], device=device).expand(30)
    assert torch.equal(ops.top_k_threshold(keys, k).mask, ops.top_k_threshold(keys.clone(), k.clone()).mask)
    positive = torch.rand(5, 30, device=device).t() > 0.9
    assert torch.equal(
        ops.select_hard_negatives(keys, positive), ops.select_hard_negatives(keys.clone(), positive.clone())
    )


def test_any_number_of_threads_gives_the_same_bits():
    keys = torch.randn(9, 3000)
    k = torch.arange(9) * 100
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(ops.top_k_threshold(keys, k))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_opcheck_and_compile(device):
    keys = torch.randn(3, 40, device=device)
    positive = torch.rand(3, 40, device=device) > 0.9
    namespace = torch.ops.ssd_cuda
    torch.library.opcheck(namespace.top_k_threshold.default, (keys, torch.tensor([1, 2, 3], device=device)))
    torch.library.opcheck(
        namespace.select_hard_negatives.default,
        (keys, positive, ~positive),
        ops.mining.op_options(MiningConfig()),
    )
    compiled = torch.compile(ops.select_hard_negatives, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(keys, positive), ops.select_hard_negatives(keys, positive))


KEYS = torch.zeros(2, 3)
MASK = torch.zeros(2, 3, dtype=torch.bool)
K = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ops.top_k_threshold([1], K), TypeError, "keys must be a tensor, got list"),
        (lambda: ops.top_k_threshold(KEYS[0], K), ValueError, r"keys must have shape \[B, P\], got \[3\]"),
        (lambda: ops.top_k_threshold(KEYS.int(), K), TypeError, "keys must be float32.*got int32"),
        (lambda: ops.top_k_threshold(KEYS, K[:1]), ValueError, r"k must have shape \[2\], got \[1\]"),
        (lambda: ops.top_k_threshold(KEYS, K.float()), TypeError, "k must be int64.*got float32"),
        (lambda: ops.top_k_threshold(KEYS, K.to("meta")), ValueError, "must be on one device, got cpu, meta"),
        (
            lambda: ops.top_k_threshold(KEYS.clone().requires_grad_(), K),
            ValueError,
            "keys must not require a gradient",
        ),
        (lambda: ops.select_hard_negatives(KEYS, MASK.int()), TypeError, "positive must be bool, got int32"),
        (
            lambda: ops.select_hard_negatives(KEYS, MASK[:, :2]),
            ValueError,
            r"positive must have shape \[2, 3\], got \[2, 2\]",
        ),
        (
            lambda: ops.select_hard_negatives(KEYS, MASK, -1.0),
            ValueError,
            r"ratio must lie in \[0.0, inf\], got -1",
        ),
        (
            lambda: ops.select_hard_negatives(KEYS, MASK, candidates=MASK[:1]),
            ValueError,
            r"candidates must have shape \[2, 3\], got \[1, 3\]",
        ),
        (
            lambda: ops.select_hard_negatives(KEYS, MASK, cap="some"),
            ValueError,
            "cap must be one of 'all', 'all_but_one', 'negatives', got 'some'",
        ),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("k", [1, 26, 300, 1091])
def test_rows_whose_evenly_spaced_keys_mislead(device, k):
    """A sampled bound must never cost a key: here every sampled position is far above or below the rest."""
    width = 8732
    spaced = torch.arange(256) * width // 256
    for sign in (1.0, -1.0):
        keys = torch.rand(2, width)
        keys[:, spaced] = sign * (100 + torch.rand(2, 256))
        keys = keys.to(device)
        wanted = torch.full((2,), k, device=device)
        found = ops.top_k_threshold(keys, wanted)
        assert torch.equal(found.mask, reference.top_k_per_row(keys, wanted))
