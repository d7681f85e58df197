"""The MultiBox kernels with class weights and smoothed labels: the reference's values, the CPU's keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from emulator.harness import kernels
from multibox_cases import batch_of
from test_emulated_multibox import assert_is_reference, keys_of_both
from test_multibox_terms import DTYPES, OPTIONS, weights_of

from ssd_cuda import MultiBoxConfig


@pytest.fixture(scope="module")
def multibox():
    return kernels("multibox").with_seeds(0, 3)


@pytest.mark.parametrize("key", ["ce", "background"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_options(multibox, smoothing, key):
    for change in OPTIONS:
        config = MultiBoxConfig(label_smoothing=smoothing, **change)
        config = replace(config, mining=replace(config.mining, key=key))
        case = batch_of(config, (4, 0, 2), width=140)
        assert_is_reference(multibox, *case, config, class_weights=weights_of(6))


@pytest.mark.parametrize(
    "dtype, classes",  # rows that a lane keeps, long ones, those not staged
    [*((dtype, 21) for dtype in DTYPES), *((torch.float32, classes) for classes in (2, 200, 6200))],
)
def test_classes(multibox, dtype, classes):
    config = MultiBoxConfig(label_smoothing=0.1)
    width = 9 if classes > 1000 else 130
    case = batch_of(config, (2, 1), width=width, classes=classes, dtype=dtype)
    assert_is_reference(multibox.with_seeds(0), *case, config, class_weights=weights_of(classes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_keys_have_the_bits_of_the_cpu_kernels(multibox, dtype, smoothing, weighted):
    config = MultiBoxConfig(label_smoothing=smoothing)
    case = batch_of(config, (3, 2), width=300, classes=21, dtype=dtype)
    weights = weights_of(21) if weighted else None
    mine, cpu = keys_of_both(multibox.with_seeds(0), *case, config, class_weights=weights)
    assert torch.equal(mine, cpu)
