"""Clusters of blocks: their barrier, each other's shared memory, and every way to use them wrongly."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from .build import TESTS, load
from .harness import Kernels, reports

SEEDS = tuple(range(8))
INVALID_CLUSTER_SIZE, NOT_SUPPORTED = 912, 801


@pytest.fixture(scope="module", params=["plain", "checked"])
def kernels(request) -> Kernels:
    return Kernels("clusters", SEEDS, request.param)


@pytest.fixture(scope="module")
def plain():
    return load("clusters", "plain")


@pytest.fixture(scope="module")
def checked():
    return load("clusters", "checked")


def numbers(blocks: int, threads: int = 32) -> np.ndarray:
    return (np.arange(blocks * threads, dtype=np.int32) * 7919) % 1000


@pytest.mark.parametrize("cluster", [1, 2, 4, 8])
def test_blocks_read_each_other(kernels, cluster):
    values = numbers(8)
    sums = kernels.sum(torch.from_numpy(values), cluster, 32).numpy()
    expected = values.reshape(8 // cluster, -1).sum(1)
    assert np.array_equal(sums.reshape(8 // cluster, -1), np.repeat(expected[:, None], 32 * cluster, 1))


MAPPINGS = """
import sys
import numpy
from emulator.build import load

clusters = load("clusters", "plain")
clusters.set_seed(2)
count = lambda: sum(1 for _ in open("/proc/self/maps"))
before = count()
clusters.sum(numpy.zeros(8192, numpy.int32), 8, 1024)
print(count() - before)
"""


def test_a_large_launch_gives_its_stacks_back():
    """Two mappings each, of the 65,530 that a process of tests shares among all its modules."""
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", MAPPINGS],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2 * 1024 + 512


@pytest.mark.parametrize("cluster", [2, 8])
def test_atomics_on_another_block(kernels, cluster):
    values = numbers(16, 64) % cluster
    counts = kernels.count(torch.from_numpy(values), cluster, 64).numpy()[:16]
    clusters = values.reshape(16 // cluster, -1)
    assert counts.tolist() == [(row == v).sum() for row in clusters for v in range(cluster)]


def test_a_place_that_others_read_is_written_behind_a_barrier(kernels):
    expected = [i + (i + 1) % 4 if i < 4 else i + 4 + (i + 1) % 4 for i in range(8)]
    assert kernels.overwrite(4, 8, 32).reshape(8, 32)[:, 0].tolist() == expected


def test_a_cluster_barrier_orders_global_memory(kernels):
    assert kernels.through_global(4, 8, 40).reshape(2, 160).tolist() == [[7] * 160, [11] * 160]


def test_the_largest_blocks(kernels):
    """Eight of 1024 threads are in flight at once."""
    assert kernels.with_seeds(0, 3).barrier(8, 16, 1024).eq(1).all()


def test_the_last_blocks_are_whole_clusters(checked):
    checked.set_seed(0)
    checked.set_last_blocks(1)
    try:
        assert checked.barrier(4, 12, 32).reshape(3, -1).any(1).tolist() == [False, False, True]
    finally:
        checked.set_last_blocks(0)


def test_launches_a_gpu_would_refuse(plain):
    plain.set_architecture(90)
    assert plain.launch(8, 16) == plain.launch(1, 7) == 0 and plain.has_clusters()
    assert plain.launch(4, 6) == plain.launch(16, 16) == plain.launch(0, 4) == INVALID_CLUSTER_SIZE
    for architecture in (75, 80, 86, 89):
        plain.set_architecture(architecture)
        assert plain.launch(2, 4) == NOT_SUPPORTED and plain.launch(1, 4) == 0
        assert not plain.has_clusters()
    plain.set_architecture(120)
    assert plain.launch(2, 4) == 0
    plain.set_architecture(90)


BARRIERS = {
    "a_block_stays": "threads wait at a cluster barrier .*, 32 of 128 have finished",
    "a_thread_stays": "threads wait at a cluster barrier .*, 1 of 128 have finished",
    "two_places": "threads of one cluster are at different barriers",
    "arrives_twice": "arrives at a cluster barrier twice without a wait",
    "waits_unarrived": "waits for a cluster barrier at which it has not arrived",
    "ends_between": "ends where it has arrived at a cluster barrier and not waited",
}


@pytest.mark.parametrize("name", BARRIERS)
def test_threads_that_do_not_meet(plain, name):
    for message in reports(plain, name, 4, 8, 32):
        assert re.search(BARRIERS[name], message), message


@pytest.mark.parametrize(
    "name, expected",
    [
        ("sum_of_a_block_past_the_last", "block 4 of a cluster of 4 .*bind_clusters.cpp"),
        ("sum_of_a_pointer_mapped_twice", "only a pointer into the block's own dynamic shared memory"),
        ("count_in_static_memory", "only a pointer into the block's own dynamic shared memory"),
    ],
)
def test_pointers_of_no_block(plain, name, expected):
    for message in reports(plain, name, numbers(8) % 4, 4, 32):
        assert re.search(expected, message), message


@pytest.mark.parametrize(
    "name, expected",
    [
        ("sum_too_early", "of block .* before a cluster barrier: it may not have begun"),
        ("sum_without_a_last_barrier", "with no cluster barrier behind|which has ended"),
        ("sum_of_what_is_written_meanwhile", "a race: .*another block|a race: .*has read"),
        ("count_read_too_early", "a race: reads"),
        ("count_that_is_not_ordered", "a race: reads"),
    ],
)
def test_checker_reports_what_is_not_ordered(checked, name, expected):
    for message in reports(checked, name, numbers(8) % 4, 4, 32):
        assert re.search(expected, message), message
        assert "bind_clusters.cpp:" in message or "no cluster barrier behind" in message, message


def test_checker_reports_writes_beside_reads_of_others(checked):
    for message in reports(checked, "overwrite_what_others_read", 4, 8, 32):
        assert re.search("a race: (writes|reads)", message), message


@pytest.mark.parametrize("name", ["through_global_too_late", "through_global_not_ordered"])
def test_checker_reports_global_memory_that_is_not_ordered(checked, name):
    """Written behind the arrival, or before one that orders shared memory alone."""
    for message in reports(checked, name, 4, 8, 32):
        assert re.search("a race: reads|uninitialized", message), message


def test_races_between_blocks_change_the_bits(plain):
    found = set()
    for seed in SEEDS:
        plain.set_seed(seed)
        found.add(plain.sum_of_what_is_written_meanwhile(numbers(8), 4, 32).tobytes())
    assert len(found) > 1
