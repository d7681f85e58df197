"""What blocks owe each other, and what a launch may have: each rule has kernels that break it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from .build import load
from .harness import Kernels, reports

SEEDS = tuple(range(12))
NO_FENCE_BEFORE, NO_FENCE_AFTER, FENCE_TOO_LATE, OWN_TICKET = 1, 2, 4, 8
INPUT = np.arange(1, 321, dtype=np.int32)
INVALID_VALUE = 1  # cudaErrorInvalidValue
KILO = 1024
# What a block may have, of the CUDA C++ Programming Guide.
LIMITS = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 110: 227, 120: 99}


@pytest.fixture(scope="module", params=["plain", "checked"])
def kernels(request) -> Kernels:
    return Kernels("ordering", SEEDS, request.param)


@pytest.fixture(scope="module")
def checked():
    return load("ordering", "checked")


def races(module, name: str, *args) -> None:
    """The kernel is reported under every seed."""
    for message in reports(module, name, *args, seeds=SEEDS):
        assert re.search(r"a race: |uninitialized", message), message


def test_tickets_that_are_right(kernels):
    values = torch.from_numpy(INPUT)
    for is_volatile in (False, True):
        assert kernels.last_block_sum(values, 0, is_volatile).item() == INPUT.sum()
    assert kernels.last_block_sum_of_all(values, 0).item() == 2 * INPUT.sum()


@pytest.mark.parametrize("is_volatile", [False, True])
@pytest.mark.parametrize("omitted", [NO_FENCE_BEFORE, NO_FENCE_AFTER, FENCE_TOO_LATE, OWN_TICKET])
def test_tickets_want_both_fences_and_one_address(checked, omitted, is_volatile):
    """Of one thread: write, fence, atomic; atomic, fence, read. volatile orders nothing."""
    races(checked, "last_block_sum", INPUT, omitted, is_volatile)


@pytest.mark.parametrize("omitted", [NO_FENCE_BEFORE, NO_FENCE_AFTER, FENCE_TOO_LATE])
def test_tickets_of_all_threads(checked, omitted):
    """A barrier hands on what was fenced before it, not what is fenced by one thread after its atomic."""
    races(checked, "last_block_sum_of_all", INPUT, omitted)


def test_relaxed_numbers_order_nothing(kernels, checked):
    assert kernels.relaxed(4, False).eq(7).all()
    races(checked, "relaxed", 4, True)


def test_an_atomic_does_not_hide_those_of_others(kernels, checked):
    """Of another warp, and of another lane: a plain look behind the own atomic races with theirs."""
    assert kernels.look(64, True).item() == 64
    for threads in (64, 2):
        races(checked, "look", threads, False)


def test_blocks_are_in_flight_at_once(checked):
    """A flag is looked at, then set: under some seed two blocks find it unset, under seed 0 one does."""
    found = {}
    for seed in SEEDS:
        checked.set_seed(seed)
        found[seed] = int(checked.meet(8)[0])
    assert found[0] == found[1] == 1
    assert max(found.values()) > 1


@pytest.mark.parametrize("architecture", LIMITS)
def test_shared_memory_of_each_card(checked, architecture):
    """Static and dynamic memory share the limit; above 48 KB a kernel has to ask, and launch() does."""
    limit = LIMITS[architecture] * KILO
    checked.set_architecture(architecture)
    assert checked.room(0) == limit and checked.room(8 * KILO) == limit - 8 * KILO
    assert checked.launch_shared(20, False, 28 * KILO, False) == 0
    assert checked.launch_shared(20, False, 28 * KILO + 4, False) == INVALID_VALUE  # nobody has asked yet
    for static in (8, 20):
        assert checked.launch_shared(static, False, limit - static * KILO, True) == 0
        assert checked.launch_shared(static, False, limit - static * KILO + 4, True) == INVALID_VALUE
    assert checked.launch_shared(52, False, 0, True) == INVALID_VALUE  # static memory can not ask
    with pytest.raises(RuntimeError, match="8192 bytes of static"):
        checked.launch_shared(8, True, limit, True)  # of a function that the kernel calls


def test_only_the_last_blocks(checked):
    checked.set_seed(0)
    checked.set_last_blocks(2)
    try:
        assert checked.relaxed(5, False).reshape(5, 32).any(1).tolist() == [False, False, False, True, True]
    finally:
        checked.set_last_blocks(0)


def test_a_kernel_that_waits_for_the_one_before_it(checked):
    assert checked.overlapping(2, 64).tolist() == list(range(64))


@pytest.mark.parametrize(
    "name, message",
    [
        ("overlapping_early", "writes byte 28 of an output .* before after_previous_kernel"),
        ("overlapping_unwaited", "ends without after_previous_kernel"),
    ],
)
def test_checker_reports_a_kernel_that_begins_too_early(checked, name, message):
    for seed in SEEDS:
        checked.set_seed(seed)
        with pytest.raises(RuntimeError, match=message):
            getattr(checked, name)(2, 64)


FIRST, OTHER = np.arange(64, dtype=np.int32), np.full(64, 5, np.int32)


def test_a_kernel_that_begins_beside_the_one_before_it(checked):
    for seed in SEEDS:
        checked.set_seed(seed)
        assert (checked.beside(FIRST.copy(), OTHER, False) == 2 * FIRST + 5).all()


@pytest.mark.parametrize(
    "name, host_between, message",
    [
        ("beside_written", False, "reads byte 28 .* which the kernel before writes, before after_prev"),
        ("beside_read", False, "writes byte 28 .* which the kernel before reads, before after_prev"),
        ("beside_by_l1", False, "reads byte .* by L1, which may be older, before after_prev"),
        ("beside_read_twice", False, "writes byte 28 .* which the kernel before reads, before after_prev"),
        ("beside_copied", False, "reads byte 0 .* which the kernel before writes, before after_prev"),
        ("beside_unordered", False, "begins beside one that has not ended with after_all_before"),
        ("beside", True, "begins beside one that has not ended with after_all_before"),
    ],
)
def test_checker_reports_what_two_kernels_touch_side_by_side(checked, name, host_between, message):
    for seed in SEEDS:
        checked.set_seed(seed)
        with pytest.raises(RuntimeError, match=message):
            getattr(checked, name)(FIRST.copy(), OTHER, host_between)
