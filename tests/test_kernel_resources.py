"""What ptxas says of every shipped kernel: no spills, no local memory; KERNELS.md is of today."""

from __future__ import annotations

import re

import pytest

from benchmarks import kernel_table

LOG = """
ptxas info    : Compiling entry function '_ZN8ssd_cuda10iou_kernelIfEEvPKf' for 'sm_90'
ptxas info    : Function properties for _ZN8ssd_cuda10iou_kernelIfEEvPKf
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 4096 bytes smem
"""


# float64 only, where speed does not matter: kernels whose state does not fit in 128 registers.
MAY_SPILL = {"image_kernel<double, double, false>", "image_kernel<double, double, true>"}


@pytest.fixture(scope="module")
def kernels():
    if not kernel_table.find_nvcc():
        pytest.skip("no nvcc on PATH nor in CUDA_HOME")
    return kernel_table.measure_all(kernel_table.COMPILED_IN_TESTS)


@pytest.fixture(scope="module")
def table() -> list[list[str]]:
    """The rows of KERNELS.md as cells."""
    lines = kernel_table.TABLE.read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]


def test_no_kernel_spills_or_uses_local_memory(kernels):
    bad = [(k.name, k.arch, k.stack, k.spills) for k in kernels if k.local and k.name not in MAY_SPILL]
    assert not bad


def test_no_kernel_spills_on_any_architecture_that_is_shipped(table):
    local = {cells[1].strip("`") for cells in table if cells[4]}
    assert local <= MAY_SPILL
    told = re.search(r"^Kernels with local memory.*: (.*)\.$", kernel_table.TABLE.read_text(), re.M)[1]
    assert told == (", ".join(f"`{name}`" for name in sorted(local)) or "none")


def test_every_kernel_is_seen_on_every_architecture(kernels):
    assert {k.family for k in kernels} == set(kernel_table.families())
    for arch in kernel_table.COMPILED_IN_TESTS:
        assert {k.name for k in kernels if k.arch == arch} == {k.name for k in kernels}


def test_the_architectures_are_those_that_a_build_serves():
    assert set(kernel_table.SHIPPED) == set(kernel_table.MULTIPROCESSORS)
    assert {"sm_75", "sm_87", "sm_110", "sm_120"} < set(kernel_table.SHIPPED)
    assert " / ".join(kernel_table.SHIPPED) in kernel_table.TABLE.read_text(), (
        "run python -m benchmarks.kernel_table"
    )


def test_every_kernel_states_its_block_and_bytes(kernels):
    assert not [k.name for k in kernels if not k.block], "no __launch_bounds__"
    assert not [k.name for k in kernels if not kernel_table.bytes_moved(k)], "no line in kernel_table.BYTES"


def test_the_table_is_of_today(kernels, table):
    """Names and blocks, not registers: those are the compiler's and change with its version."""
    known = {(cells[1], cells[2]) for cells in table}
    assert {(f"`{k.name}`", str(k.block)) for k in kernels} == known, "run python -m benchmarks.kernel_table"


@pytest.mark.parametrize("family", kernel_table.families())
def test_the_table_is_of_these_sources(family):
    told = f"{family} `{kernel_table.digest(family)}`"
    assert told in kernel_table.TABLE.read_text(), "run python -m benchmarks.kernel_table"


def test_the_digest_sees_code_and_no_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_table, "ROOT", tmp_path)
    cuda = tmp_path / "csrc" / "boxes" / "cuda"
    cuda.mkdir(parents=True)
    (tmp_path / "csrc" / "common").mkdir()
    (tmp_path / "csrc" / "common" / "math.h").write_text("int one;\n")
    (cuda / "boxes.cuh").write_text('#include "common/math.h"\nint two;\n')
    assert [path.name for path in kernel_table.sources("boxes")] == ["boxes.cuh", "math.h"]
    before = kernel_table.digest("boxes")
    (cuda / "boxes.cuh").write_text('#include "common/math.h"\n// a word\nint  two;  // another\n')
    assert kernel_table.digest("boxes") == before
    (tmp_path / "csrc" / "common" / "math.h").write_text("int three;\n")
    assert kernel_table.digest("boxes") != before


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
