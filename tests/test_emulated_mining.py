"""The mining kernels' device code on the CPU against the reference: every key, k and width."""

from __future__ import annotations

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mining import DTYPES, key_rows

from ssd_cuda import MiningConfig
from ssd_cuda.ops.mining import op_options
from ssd_cuda.reference import mining as reference

# About a block, and each way to hold the keys: 8, 9 or 12 a thread in registers, shared memory, nowhere.
WIDTHS = [1, 31, 1023, 1025, 8 * 1024 + 1, 9 * 1024 + 1, 12 * 1024 + 1, 56 * 1024]


@pytest.fixture(scope="module")
def mining():
    return kernels("mining").with_seeds(0, 3)


def assert_same_top_k(mining, keys, k):
    threshold, tie_index, count, total, mask = mining.top_k(keys, k)
    expected = reference.threshold_per_row(keys, k)
    assert torch.equal(mask, reference.top_k_per_row(keys, k))
    assert torch.equal(tie_index, expected[1])
    assert torch.equal(count, expected[2])
    torch.testing.assert_close(threshold, expected[0], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(total, expected[3], rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "close", "special"])
@pytest.mark.parametrize("width", WIDTHS)
def test_top_k(mining, kind, width):
    if width > 2000 and kind in ("normal", "special"):
        pytest.skip("long rows: the others tell as much")
    rows = 3 if width < 50_000 else 1
    keys = key_rows(kind, rows, width, torch.float32)
    assert_same_top_k(mining, keys, torch.tensor([max(width // 3, 1), 0, width + 5])[:rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(mining, dtype):
    for kind in ("normal", "special"):
        assert_same_top_k(mining, key_rows(kind, 3, 300, dtype), torch.tensor([1, 100, 299]))


@pytest.mark.parametrize("width, dtype", [(13_000, torch.float16), (28_000, torch.float64)])
def test_long_rows_of_other_types(mining, width, dtype):
    """Half keys are held as float in shared memory; so many double ones do not fit there."""
    assert_same_top_k(mining, key_rows("ties", 1, width, dtype), torch.tensor([width // 5]))


@pytest.mark.parametrize("architecture, kilobytes", [(86, 99), (80, 163)])
def test_rows_that_just_fit_in_shared_memory(mining, architecture, kilobytes):
    """Keys share the card's memory with the histogram: the launcher leaves it its 20 KB, and no more."""
    most = (kilobytes - 20) * 1024 // 4
    for width in (most, most + 1, kilobytes * 256):
        keys = key_rows("ties", 1, width, torch.float32)
        assert_same_top_k(mining.with_seeds(0).on(architecture), keys, torch.tensor([width // 7]))


def rows_with_a_bucket(inside: int, differ: bool, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A row for each k: 40 keys above a bucket of `inside` with the same leading bits, 1025 in all.

    Each two of the bucket are equal or, where they do not `differ`, all are."""
    neighbours = 1 + torch.arange(inside).div(2, rounding_mode="floor") * torch.finfo(dtype).eps
    bucket = neighbours if differ else torch.ones(inside)
    keys = torch.cat([4 + torch.rand(40), bucket.to(dtype), torch.rand(985 - inside) / 4]).to(dtype)
    k = 40 + torch.tensor(sorted({0, 1, inside // 2, inside - 1, inside, inside + 1}))
    return torch.stack([keys[torch.randperm(1025)] for _ in k]), k


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("differ", [True, False])
@pytest.mark.parametrize("inside", [33, 128, 129])
def test_buckets_that_just_fit_in_the_list(mining, inside, differ, dtype):
    """Up to 128 keys of a bucket are ranked; more are searched by their next bits, or by index."""
    keys, k = rows_with_a_bucket(inside, differ, dtype)
    assert_same_top_k(mining, keys, k)
    positive = torch.zeros_like(keys, dtype=torch.bool)
    for row, least in zip(keys, k.tolist(), strict=True):
        options = op_options(MiningConfig(min_negatives=least))
        expected = reference.select_hard_negatives(row[None], positive[:1], min_negatives=least)
        assert torch.equal(
            mining.with_seeds(3).hard_negatives(row[None], positive[:1], None, options), expected
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positive_fill", ["zero", "-inf"])
@pytest.mark.parametrize("cap", ["all", "negatives"])
def test_hard_negatives_as_far_as_the_excluded(mining, cap, positive_fill, dtype):
    """k beyond the keys that may be selected: excluded rows are not; -inf may share their leading bits."""
    keys = key_rows("special", 5, 70, dtype)
    positive, candidates = torch.rand(5, 70) < 0.1, torch.rand(5, 70) < 0.4
    candidates[:, -1] = False
    for least in (5, 70, 2**40):
        rule = {"min_negatives": least, "cap": cap, "positive_fill": positive_fill}
        for among in (None, candidates):
            options = op_options(MiningConfig(**rule))
            result = mining.with_seeds(0).hard_negatives(keys, positive, among, options)
            expected = reference.select_hard_negatives(keys, positive, candidates=among, **rule)
            assert torch.equal(result, expected)


def test_a_reduction_leaves_its_scratch_free(mining):
    """What a kernel adds up next may go through the same memory: nobody reads the last result there."""
    numbers = torch.randint(-1000, 1000, (1024,)).double()
    result = mining.reduce_twice(numbers)
    assert torch.equal(result, torch.stack([numbers.sum(), numbers.max()]).expand(1024, 2))


@settings(max_examples=fuzz_examples(), deadline=None)
@given(st.integers(1, 3), st.integers(0, 70), st.integers(0, 2**31), st.integers(1, 6))
def test_fuzz_ties(batch, width, seed, values):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(-values, values, (batch, width), generator=generator).float()
    k = torch.randint(-1, width + 2, (batch,), generator=generator)
    assert_same_top_k(kernels("mining").with_seeds(0), keys, k)


@pytest.mark.parametrize("cap", ["all", "all_but_one", "negatives"])
@pytest.mark.parametrize("positive_fill", ["zero", "-inf"])
@pytest.mark.parametrize("rounding, ratio", [("floor", 3.0), ("ceil", 2.3)])
def test_hard_negatives(mining, cap, positive_fill, rounding, ratio):
    for kind, excluded, least in (("normal", None, 0), ("ties", 0.3, 5), ("special", 1.0, 3)):
        keys = key_rows(kind, 4, 257, torch.float32)
        positive = torch.rand(4, 257) < torch.tensor([0.0, 0.02, 0.4, 1.0])[:, None]
        candidates = None if excluded is None else torch.rand(4, 257) >= excluded
        config = MiningConfig(
            ratio=ratio, rounding=rounding, min_negatives=least, cap=cap, positive_fill=positive_fill
        )
        result = mining.hard_negatives(keys, positive, candidates, op_options(config))
        expected = reference.select_hard_negatives(
            keys,
            positive,
            candidates=candidates,
            ratio=ratio,
            rounding=rounding,
            min_negatives=least,
            cap=cap,
            positive_fill=positive_fill,
        )
        assert torch.equal(result, expected)


@pytest.mark.parametrize("width", [8732, 24564])
@pytest.mark.parametrize("trained", [True, False])
def test_hard_negatives_of_networks(mining, width, trained):
    """SSD300's and SSD512's priors: a few hard ones, or all nearly the same."""
    keys = torch.rand(2, width) ** 12 if trained else 3.04 + 1e-3 * torch.rand(2, width)
    positive = torch.rand(2, width) < 0.008
    result = mining.hard_negatives(keys, positive, None, op_options(MiningConfig()))
    assert torch.equal(result, reference.select_hard_negatives(keys, positive))


@pytest.mark.parametrize("width", [12 * 1024 + 1, 56 * 1024])
def test_hard_negatives_of_long_rows(mining, width):
    keys, positive = key_rows("ties", 1, width, torch.float32), torch.rand(1, width) < 0.01
    candidates = torch.rand(1, width) < 0.5
    result = mining.hard_negatives(keys, positive, candidates, op_options(MiningConfig()))
    assert torch.equal(result, reference.select_hard_negatives(keys, positive, candidates=candidates))


@pytest.mark.parametrize("ratio", [-1.0, -1e30, -float("inf"), float("inf"), 1e300])
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_ratios_whose_product_is_no_integer(mining, ratio, rounding):
    """An exported program may hold any: below 0 it asks for none, above all rows for all of them."""
    keys, positive = key_rows("normal", 2, 65, torch.float32), torch.arange(65).expand(2, 65) % 8 == 0
    options = op_options(MiningConfig(rounding=rounding)) | {"ratio": ratio}
    result = mining.hard_negatives(keys, positive, None, options)
    assert torch.equal(result, ~positive if ratio > 0 else torch.zeros_like(positive))
