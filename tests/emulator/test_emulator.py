"""The emulator's own tests: what every primitive gives, and that every kind of wrong kernel is reported."""

from __future__ import annotations

import math
import re
import subprocess

import numpy as np
import pytest
import torch

from .build import build_program, load
from .harness import Kernels, reports

SEEDS = tuple(range(8))


@pytest.fixture(scope="module", params=["plain", "checked"])
def kernels(request) -> Kernels:
    return Kernels("selftest", SEEDS, request.param)


@pytest.fixture(scope="module")
def plain():
    return load("selftest", "plain")


@pytest.fixture(scope="module")
def checked():
    return load("selftest", "checked")


def outcomes(module, name: str, *args) -> set[bytes]:
    """The distinct results of a kernel over the seeds."""
    found = set()
    for seed in SEEDS:
        module.set_seed(seed)
        found.add(getattr(module, name)(*args).tobytes())
    return found


# ---- Right kernels give the right numbers under every schedule.


@pytest.mark.parametrize("threads", [32, 64, 256, 1024])
def test_barriers_and_shared_memory(kernels, threads):
    values = torch.arange(4 * threads, dtype=torch.float32) % 1000
    sums, backwards = kernels.sum_and_reverse(values, threads)
    rows = values.reshape(4, threads)
    assert torch.equal(sums, 3 * rows.sum(1))
    assert torch.equal(backwards, rows.flip(1).flatten())


def test_copies_past_the_registers(kernels):
    memory = torch.arange(256, dtype=torch.int32)
    rows = memory.reshape(32, 2, 4).flip(1).reshape(64, 4).clone()
    rows[:, 0] += 1
    assert torch.equal(kernels.copied(memory).reshape(64, 4), rows)


def test_copies_of_one_tile_beside_the_work_on_another(kernels):
    lane = (np.arange(32) + 1) % 32
    for tiles in (1, 2, 5):
        vectors = np.arange(128 * tiles).reshape(tiles, 32, 4)
        assert np.array_equal(kernels.staged(tiles).numpy(), vectors.sum((0, 2))[lane])


def test_warp_primitives(kernels):
    v = np.arange(32, dtype=np.uint32)[::-1] * 7 % 53
    lane = np.arange(32)
    rows = kernels.warp(torch.from_numpy(v.copy())).numpy()
    assert np.array_equal(rows[0], v[np.full(32, 5)])
    assert np.array_equal(rows[1], v[lane // 8 * 8 + 3])
    assert np.array_equal(rows[2], v[np.where(lane >= 2, lane - 2, lane)])
    assert np.array_equal(rows[3], v[np.where(lane % 16 + 3 < 16, lane + 3, lane) % 32])
    assert np.array_equal(rows[4], v[lane ^ 9])
    assert set(rows[5]) == {sum(1 << i for i in range(32) if v[i] & 1)}
    assert set(rows[6]) == {0} and set(rows[7]) == {1}
    assert list(rows[8]) == [sum(1 << j for j in range(32) if v[j] % 3 == v[i] % 3) for i in range(32)]
    assert [rows[r][0] for r in (9, 10, 11)] == [v.sum(), v.max(), v.min()]
    assert set(rows[12]) == {np.bitwise_or.reduce(v)}
    assert np.array_equal(rows[13], v[lane ^ 1]) and np.array_equal(rows[14], v[lane ^ 16])
    even = lane % 2 == 0
    assert set(rows[15][even]) == {v[even].sum()} and set(rows[16][even]) == {0x55555555}
    assert set(rows[17][even]) == {v[30]}


def test_block_votes(kernels):
    values = torch.tensor([*range(-3, 20)], dtype=torch.int32)
    assert kernels.vote(values).tolist() == [19, 1, 1]
    assert kernels.vote(-values).tolist() == [3, 0, 0]


def test_atomics(kernels):
    best, count, least, wrapped = kernels.atomics(7, 50)
    keys = [i * 7919 % 1000 << 32 | i for i in range(350)]
    assert best.tolist() == [max(keys)] and count.tolist() == [sum(range(350))] and least.tolist() == [-349]
    assert wrapped.tolist() == [0, 77]  # 350 increments modulo 10


def test_conversions_and_bits(kernels):
    special = torch.tensor(
        [0.0, -0.0, 1.0, -1.5, 65504.0, 65520.0, 1e-8, 6e-8, 3e38, math.inf, -math.inf, 2.5]
    )
    v = torch.cat([special, torch.randn(200) * 10 ** torch.linspace(-9, 9, 200)])
    u = v.view(torch.int32).numpy().view(np.uint32)
    bits = [int(x) for x in u]
    rows = kernels.numbers(v).numpy().astype(np.uint32)
    half, bfloat16 = v.half(), v.bfloat16()
    assert np.array_equal(rows[0], half.view(torch.int16).numpy().view(np.uint16))
    assert np.array_equal(rows[1], bfloat16.view(torch.int16).numpy().view(np.uint16))
    assert np.array_equal(rows[2], half.float().numpy().view(np.uint32))
    assert np.array_equal(rows[3], bfloat16.float().numpy().view(np.uint32))
    assert list(rows[4]) == [x.bit_count() for x in bits]
    assert list(rows[5]) == [32 - x.bit_length() for x in bits]
    assert list(rows[6]) == [(x & -x).bit_length() for x in bits]
    assert list(rows[7]) == [int(f"{x:032b}"[::-1], 2) for x in bits]
    rounded = np.clip(np.rint(v.double().numpy()), -(2**31), 2**31 - 1).astype(np.int64)
    assert np.array_equal(rows[8].view(np.int32), rounded)
    assert list(rows[9]) == [x * 0x9E3779B9 >> 32 for x in bits]
    assert list(rows[10]) == [((~x << 32 | x) << 7 >> 32) & 0xFFFFFFFF for x in bits]


def test_a_nan_stays_one(kernels):
    rows = kernels.numbers(torch.tensor([math.nan]))[:, 0]
    assert rows[2:4].to(torch.int32).view(torch.float32).isnan().all() and rows[8] == 0


def test_launches_a_gpu_would_refuse(plain):
    invalid_value, invalid_configuration = 1, 9
    assert plain.launch_empty(1, 65536, 32, 0) == invalid_configuration
    assert plain.launch_empty(1, 1, 1025, 0) == invalid_configuration
    assert plain.launch_empty(1, 1, 32, 228 * 1024) == invalid_value


# ---- Barriers and masks: reported in every build.

MISSED = {
    "missed_barrier": "wait at __syncthreads",
    "split_barrier": "different barriers|wait at __syncthreads",
    "stuck": "wait at a shuffle",
    "finished_lane": "which has finished|wait at a shuffle",
    "absent_lane": "names lane 20, which does not exist",
    "unnamed_caller": "called by lane 31, which the mask does not name",
    "unnamed_source": "reads lane 20, which its mask does not name",
    "mixed_masks": "meets lane|wait at a warp vote|names lane 16, which has finished",
}


@pytest.mark.parametrize("name", MISSED)
def test_threads_that_do_not_meet(plain, name):
    for message in reports(plain, name, 2, 20 if name == "absent_lane" else 32):
        assert re.search(MISSED[name], message), message
        assert "bind_selftest.cpp:" in message


# ---- Races, seen by permuting threads and blocks alone: results differ between seeds.

RACES = {
    "shared_race": (4, 64),
    "lockstep": (1, 32),
    "block_race": (5, 32),
    "arrival_order": (4, 32),
    "late_reader": (1, 64),
}


@pytest.mark.parametrize("name", [n for n in RACES if n != "late_reader"])
def test_a_race_changes_the_bits(plain, name):
    assert len(outcomes(plain, name, *RACES[name])) > 1


@pytest.mark.parametrize("name", ["uninitialized", "uninitialized_dynamic", "unwaited_copy"])
def test_poison_changes_the_bits(plain, name):
    assert len(outcomes(plain, name, 1, 64)) > 1


def test_the_harness_demands_the_same_bits():
    with pytest.raises(AssertionError, match=r"seeds 0 and \d differ"):
        Kernels("selftest", SEEDS, "plain").arrival_order(4, 32)


def test_guards_report_a_write_outside(plain):
    with pytest.raises(RuntimeError, match="wrote outside an output of 128 bytes: at byte 128"):
        plain.write_past(1)
    with pytest.raises(RuntimeError, match="wrote outside an output of 128 bytes: at byte -8"):
        plain.write_past(-2)
    with pytest.raises(RuntimeError, match="wrote outside the dynamic shared memory"):
        plain.dynamic_past(1)


# ---- The access checker: every access of every thread, under every seed.


@pytest.mark.parametrize("name", ["shared_race", "lockstep", "late_reader", "block_race", "lost_update"])
def test_checker_reports_races(checked, name):
    for message in reports(checked, name, *RACES.get(name, (2, 64))):
        assert "a race: " in message or "uninitialized" in message, message
        assert "bind_selftest.cpp:" in message


@pytest.mark.parametrize("name", ["uninitialized", "uninitialized_dynamic", "unwaited_copy"])
def test_checker_reports_uninitialized_reads(checked, name):
    for message in reports(checked, name, 1, 64):
        assert "reads uninitialized memory" in message


def test_a_stage_that_is_not_waited_for_changes_the_bits(plain):
    assert len(outcomes(plain, "unwaited_stage", 3)) > 1


def test_checker_reports_stages_that_are_used_too_soon(checked):
    for message in reports(checked, "unwaited_stage", 4):
        assert "reads uninitialized memory" in message, message
    messages = reports(checked, "unmet_stage", 4)  # who comes first decides what is seen
    assert any("a race: " in message for message in messages)
    assert all("a race: " in message or "uninitialized" in message for message in messages)


def test_checker_reports_a_copy_that_others_do_not_wait_for(checked):
    for message in reports(checked, "unmet_copy", 1, 64):
        assert "a race: " in message or "uninitialized" in message, message


@pytest.mark.parametrize(
    "name, distance, message",
    [
        ("write_past", 1, "writes 4 bytes out of bounds: byte 128 of an output"),
        ("write_past", -1, "writes 4 bytes out of bounds: byte -4 of an output"),
        ("read_past", 1, "reads 4 bytes out of bounds: byte 128 of an input"),
        ("dynamic_past", 1, "writes 4 bytes out of bounds: byte 128 of the dynamic shared memory"),
        ("static_past", 17, "an index outside its array"),
        ("static_past", -1, "an index outside its array"),
        ("misaligned", 1, "an access of 16 bytes is not aligned"),
    ],
)
def test_checker_reports_bad_addresses(checked, name, distance, message):
    with pytest.raises(RuntimeError, match=message):
        getattr(checked, name)(distance)


@pytest.mark.parametrize(
    "name, message", [("overflow", "a signed sum overflows"), ("long_shift", "a shift by more bits")]
)
def test_checker_reports_undefined_results(checked, name, message):
    for report in reports(checked, name, 1, 32):
        assert message in report


# ---- The same under AddressSanitizer and UndefinedBehaviorSanitizer, in a program that may die of it.


@pytest.fixture(scope="module")
def memory_defects():
    return build_program("memory_defects", "asan")


SANITIZER_REPORTS = {
    ("write", 1): "use-after-poison|heap-buffer-overflow",
    ("write", -1): "use-after-poison|heap-buffer-overflow",
    ("read", 1): "use-after-poison|heap-buffer-overflow",
    ("dynamic_shared", 1): "use-after-poison|heap-buffer-overflow",
    ("static_shared", 1): "index 32 out of bounds",
    ("stack", 9): "insufficient space|stack-buffer-overflow",
    ("misaligned", 1): "misaligned address",
    ("shift", 1): "shift exponent 32",
    ("overflow", 1): "signed integer overflow",
}


@pytest.mark.parametrize("name, distance", SANITIZER_REPORTS)
def test_sanitizers_report(memory_defects, name, distance):
    def run(by: int) -> subprocess.CompletedProcess:
        return subprocess.run([str(memory_defects), name, str(by)], capture_output=True, text=True)

    right, wrong = run(0), run(distance)
    assert right.returncode == 0 and right.stdout == "done\n", right.stderr
    assert wrong.returncode != 0
    assert re.search(SANITIZER_REPORTS[name, distance], wrong.stderr), wrong.stderr


def test_the_portable_switch_of_stacks():
    program = build_program("memory_defects", "ucontext")
    for name in ("write", "dynamic_shared", "static_shared"):
        done = subprocess.run([str(program), name, "0"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout == "done\n", done.stderr


def test_a_report_leaves_the_emulator_usable(checked):
    with pytest.raises(RuntimeError):
        checked.missed_barrier(1, 32)
    assert checked.vote(np.arange(4, dtype=np.int32)).tolist() == [3, 0, 1]
