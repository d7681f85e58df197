"""benchmarks/kernel_barriers.py: a barrier behind a loop whose threads nothing has brought together."""

from __future__ import annotations

import pytest

from benchmarks import kernel_barriers, kernel_table

LOOP = """
        Function : _ZN8ssd_cuda11some_kernelEv
        /*0010*/                   LDS R1, [R2] ;
        /*0020*/                   ISETP.NE.AND P0, PT, R1, RZ, PT ;
        /*0030*/              {branch} 0x10 ;
        /*0040*/                   {between} ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
"""


def found(branch: str = "@P0 BRA", between: str = "IADD3 R3, R3, 0x1, RZ") -> list[tuple[str, int, int]]:
    return kernel_barriers.loops_apart(LOOP.format(branch=branch, between=between))


def test_a_loop_that_lanes_leave_one_by_one():
    assert found() == [("_ZN8ssd_cuda11some_kernelEv", 0x30, 0x50)]
    assert found("@!P3 BRA") == found()


@pytest.mark.parametrize(
    "between", ["BSYNC B2", "BSYNC.RECONVERGENT B0", "WARPSYNC.ALL", "VOTE.ANY R1, PT, P0"]
)
def test_what_brings_them_together(between):
    assert found(between=between) == []


@pytest.mark.parametrize("branch", ["BRA", "@UP0 BRA"])
def test_loops_of_a_whole_warp(branch):
    """Unconditional, or by a predicate that a warp has once."""
    assert found(branch) == []


def test_a_branch_forward_is_no_loop():
    assert (
        kernel_barriers.loops_apart(LOOP.format(branch="@P0 BRA", between="NOP").replace("0x10", "0x40"))
        == []
    )


def test_another_function_begins_anew():
    text = LOOP.format(branch="@P0 BRA", between="NOP").replace(
        "        /*0050*/", "        Function : other\n        /*0050*/"
    )
    assert kernel_barriers.loops_apart(text) == []


def test_every_reason_names_a_kernel():
    lines = kernel_table.TABLE.read_text().splitlines()
    names = {line.split("`")[1].split("<")[0] for line in lines if line.startswith("| ") and "`" in line}
    assert set(kernel_barriers.UNIFORM) <= names
