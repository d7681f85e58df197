"""What ptxas says of every shipped kernel: no spills, no local memory; KERNELS.md is of today."""

from __future__ import annotations

import pytest

from benchmarks import kernel_table

LOG = """
ptxas info    : Compiling entry function '_ZN8ssd_cuda10iou_kernelIfEEvPKf' for 'sm_90'
ptxas info    : Function properties for _ZN8ssd_cuda10iou_kernelIfEEvPKf
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 4096 bytes smem
"""


@pytest.fixture(scope="module")
def kernels():
    if not kernel_table.find_nvcc():
        pytest.skip("no nvcc on PATH nor in CUDA_HOME")
    return kernel_table.measure_all()


def test_no_kernel_spills_or_uses_local_memory(kernels):
    bad = [(k.name, k.arch, k.stack, k.spills) for k in kernels if k.stack or k.spills]
    assert not bad


def test_every_kernel_is_seen_on_both_architectures(kernels):
    assert {k.family for k in kernels} == set(kernel_table.families())
    for arch in kernel_table.MULTIPROCESSORS:
        assert {k.name for k in kernels if k.arch == arch} == {k.name for k in kernels}


def test_every_kernel_states_its_block_and_bytes(kernels):
    assert not [k.name for k in kernels if not k.block], "no __launch_bounds__"
    assert not [k.name for k in kernels if not kernel_table.bytes_moved(k)], "no line in kernel_table.BYTES"


def test_the_table_is_of_today(kernels):
    """Names and blocks, not registers: those are the compiler's and change with its version."""
    table = kernel_table.TABLE.read_text()
    missing = sorted({f"`{k.name}`" for k in kernels if f"`{k.name}` | {k.block} |" not in table})
    assert not missing, "run python -m benchmarks.kernel_table"


def test_reading_a_log():
    (kernel,) = kernel_table.parse("boxes", LOG, {"_ZN8ssd_cuda10iou_kernelIfEEvPKf": 256})
    assert (kernel.registers, kernel.shared, kernel.stack, kernel.spills) == (40, 4096, 8, 16)
    assert kernel.name == "iou_kernel<float>" and kernel.block == 256


def test_launch_bounds_of_ptx():
    ptx = ".visible .entry _Z1af(\n.param .u64 p\n)\n.maxntid 256, 1, 1\n{ } .visible .entry _Z1bf()\n{ }"
    assert kernel_table.launch_bounds(ptx) == {"_Z1af": 256}


@pytest.mark.parametrize(
    "registers, shared, block, expected",
    [
        (32, 0, 256, 1.0),  # 8 warps a block, 64 in all
        (40, 0, 256, 0.75),  # 1280 registers a warp: 12 a quarter, 48 warps, 6 blocks
        (255, 0, 1024, 0.0),  # 8 warps fit, the block has 32: it cannot run
        (32, 48 * 1024, 256, 0.5),  # 4 blocks of 49 KB in 228
    ],
)
def test_occupancy_by_hand(registers, shared, block, expected):
    kernel = kernel_table.Kernel("f", "k", "sm_90", registers, shared, 0, 0, block)
    assert kernel.occupancy == expected
