"""What warps wait for, read from a profile of ncu as it prints one."""

from __future__ import annotations

import pytest

from benchmarks import kernel_counts, kernel_samples

HEADER = (
    '"Address","Source","Warp Stall Sampling (All Samples)","# Samples","Instructions Executed",'
    '"stall_barrier","stall_long_sb","stall_long_sb (Not Issued)"'
)
KEYS = (
    '"Kernel Name","void ssd_cuda::keys_kernel<float, float, (bool)0>(ssd_cuda::MultiBoxArgs<T1, T2>)",',
    HEADER,
    '"0x10","      LDG.E R9, desc[UR8][R8.64]","1","1","8,736","0","1","0"',
    '"0x20","      SHF.R.S32.HI R13, RZ, 0x1f, R9","60","60","8736","0","60","60"',
    '"0x30","@P0   BAR.SYNC 0x0","39","39","8736","39","0","0"',
    '"0x40","      EXIT ","0","0","8736","0","0","0"',
)
IDLE = ('"Kernel Name","void ssd_cuda::claim_kernel<float>(ssd_cuda::MatchArgs<T1>)",', HEADER)


def test_reasons_and_instructions():
    """Kernels come twice, and one that nobody sampled has no reasons."""
    silent = '"0x10","      EXIT ","0","0","32","0","0","0"'
    keys, claim = kernel_samples.kernels_of([*KEYS, *KEYS, *IDLE, silent])
    assert keys.name == "keys_kernel<float,float,0>"
    assert keys.reasons() == {"long_sb": 61, "barrier": 39}
    assert kernel_samples.summary(keys) == "keys_kernel<float,float,0>: 100 samples; long_sb 61%, barrier 39%"
    assert kernel_samples.summary(claim) == "claim_kernel<float>: 0 samples"
    assert kernel_samples.listing(claim) == ""
    lines = kernel_samples.listing(keys, least=0.05).splitlines()
    assert [line.split()[:3] for line in lines] == [["1", "8736", "60.0%"], ["2", "8736", "39.0%"]]
    assert lines[0].endswith("long_sb 60") and lines[1].endswith("barrier 39")


def test_command(tmp_path, capsys):
    path = tmp_path / "samples.csv"
    path.write_text("\n".join(KEYS) + "\n")
    assert kernel_samples.main([str(path)]) == 0
    assert "BAR.SYNC" not in capsys.readouterr().out
    assert kernel_samples.main([str(path), "keys"]) == 0
    assert "BAR.SYNC" in capsys.readouterr().out
    path.write_text("==PROF== nothing\n")
    assert kernel_samples.main([str(path)]) == 1
    assert "has no kernel with code" in capsys.readouterr().out


@pytest.mark.parametrize(
    "main, arguments",
    [
        (kernel_samples.main, ["nothing.csv"]),
        (kernel_counts.main, ["read", "nothing.csv"]),
        (kernel_counts.main, ["read"]),
    ],
)
def test_a_profile_that_is_not_there(main, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "csv must be a file that ncu printed, got" in capsys.readouterr().err


@pytest.mark.parametrize("text, number", [("1,234", 1234), ("-", 0), ("", 0), ("3.0", 3)])
def test_numbers(text, number):
    assert kernel_samples._number(text) == number
