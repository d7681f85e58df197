"""The kernels that mine a whole batch by several blocks: rows and losses of the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from multibox_cases import batch_of
from test_emulated_multibox import assert_is_reference
from test_mining_batch import DTYPES, RULES, scene

from ssd_cuda import MiningConfig, MultiBoxConfig, reference
from ssd_cuda.ops.mining import op_options


@pytest.fixture(scope="module")
def mining():
    return kernels("mining").with_seeds(0, 3)


@pytest.fixture(scope="module")
def multibox():
    return kernels("multibox").with_seeds(0, 3)


def assert_same_rows(mining, keys, positive, candidates, **rule):
    options = op_options(MiningConfig(scope="batch", **rule))
    expected = reference.mining.select_hard_negatives(
        keys, positive, candidates=candidates, scope="batch", **rule
    )
    assert torch.equal(mining.hard_negatives(keys, positive, candidates, options), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ties", [False, True])
def test_dtypes(mining, dtype, ties):
    for batch, width in ((3, 900), (2, 1)):
        keys, positive, candidates = scene(batch, width, dtype, ties=ties)
        for among in (None, candidates):
            assert_same_rows(mining, keys, positive, among)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rules(mining, rule):
    for ties in (False, True):
        assert_same_rows(mining.with_seeds(0), *scene(3, 700, ties=ties), **rule)


def test_ties_beyond_one_block(mining):
    """All keys are equal: the last that is needed lies in the third block of keys."""
    keys = torch.ones(3, 2200)
    positive = torch.zeros(3, 2200, dtype=torch.bool)
    positive[1, :700] = True
    for ratio in (1.0, 3.0, 6.0, 8.0):
        assert_same_rows(mining.with_seeds(0), keys, positive, None, ratio=ratio)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_that_differ_in_their_last_bits(mining, dtype):
    """No digit but the last one tells them apart."""
    keys = 1 + torch.finfo(dtype).eps * torch.randint(0, 900, (3, 400)).to(dtype)
    _, positive, candidates = scene(3, 400)
    for ratio in (0.5, 3.0):
        assert_same_rows(mining.with_seeds(0), keys, positive, candidates, ratio=ratio)


def test_odd_keys(mining):
    keys, positive, candidates = scene(3, 300)
    keys[0, ::5], keys[1, ::7], keys[2, ::3] = torch.nan, torch.inf, -torch.inf
    keys[0, 1::5], keys[1, 1::7] = 0.0, -0.0
    for ratio in (0.5, 3.0, 30.0):
        assert_same_rows(mining.with_seeds(0), keys, positive, candidates, ratio=ratio)


@pytest.mark.parametrize("count", [1, 4096, 4097, 9000])
def test_the_place_that_is_needed(mining, count):
    """More numbers than a block looks at in one go."""
    counts = torch.randint(0, 3, (count,))
    counts[-1] = 1
    total = counts.cumsum(0)
    for wanted in {1, int(total[-1]), int(total[-1]) // 2 + 1}:
        found, before = mining.with_seeds(0).needed(counts, wanted).tolist()
        place = int((total >= wanted).nonzero()[0])
        assert (found, before) == (place, int(total[place] - counts[place]))


@settings(max_examples=fuzz_examples(8), deadline=None)
@given(st.integers(1, 5), st.integers(1, 400), st.sampled_from(RULES), st.booleans(), st.integers(0, 2**31))
def test_fuzz(batch, width, rule, ties, seed):
    torch.manual_seed(seed)
    assert_same_rows(kernels("mining").with_seeds(0), *scene(batch, width, ties=ties), **rule)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_losses(multibox, rule):
    config = MultiBoxConfig(mining=MiningConfig(scope="batch", **rule))
    for options in (dict(width=80), dict(width=150, ties=True)):
        assert_is_reference(multibox.with_seeds(0), *batch_of(config, (4, 0, 2), **options), config)
    assert_is_reference(multibox, *batch_of(config, (2, 0), width=131, dtype=torch.float64), config)


def test_losses_with_quirks_and_weights(multibox):
    mining = MiningConfig(
        scope="batch", cap="all", positive_fill="zero", ratio=50.0, count_positives_twice=True
    )
    for config in (
        MultiBoxConfig(mining=mining),
        MultiBoxConfig(mining=mining, ignored_key="zero", ignore_label=2, normalizer="selected"),
        MultiBoxConfig(mining=replace(mining, ratio=3.0, key="background"), label_smoothing=0.2),
    ):
        loc, conf, gt, priors = batch_of(config, (4, 0, 2, 1))
        conf[:, ::2, 0] = 200.0
        assert_is_reference(multibox, loc, conf, gt, priors, config)


@pytest.mark.parametrize("counts, width", [((), 9), ((0, 0), 0), ((0, 0), 9), ((*[0] * 40, 1), 1)])
def test_nothing_to_sum_and_many_images(multibox, counts, width):
    config = MultiBoxConfig(mining=MiningConfig(scope="batch"))
    assert_is_reference(multibox.with_seeds(0), *batch_of(config, counts, width=width), config)
