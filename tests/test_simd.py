"""The instruction set of the CPU kernels: what there is, how to choose, and the same bits from each."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from simd_levels import at_every_level
from workloads import WORKLOADS, make

import ssd_cuda
from ssd_cuda import _extension, ops

ROOT = Path(__file__).parents[1]
LEVELS = ssd_cuda.build_info()["simd_levels"]


def run_python(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_the_levels_of_this_processor():
    names = {"x86_64": ["avx512", "avx2", "baseline"], "aarch64": ["neon"]}[platform.machine()]
    assert names[-len(LEVELS) :] == LEVELS
    assert ssd_cuda.simd_level() == ssd_cuda.build_info()["simd"]
    flags = Path("/proc/cpuinfo").read_text()
    assert ("avx2" in LEVELS) == all(f" {flag}" in flags for flag in ("avx2", "fma", "f16c"))


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_same_bits_at_every_instruction_set(workload):
    inputs = make(workload, torch.device("cpu"))
    first, *others = at_every_level(lambda: workload.call(inputs))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("level", ["sse9", "", None, 3])
def test_only_a_level_of_this_processor_can_be_set(level):
    with pytest.raises(ValueError, match=f"instruction set of this processor .*{LEVELS[0]}.*got {level!r}"):
        ssd_cuda.set_simd_level(level)


@pytest.mark.parametrize("level", [*LEVELS, ""])
def test_the_environment_names_the_level(level):
    done = run_python("-c", "import ssd_cuda; print(ssd_cuda.simd_level())", SSD_CUDA_SIMD=level)
    assert done.stdout.strip() == (level or LEVELS[0]), done.stderr
    done = run_python("-m", "ssd_cuda", "info", SSD_CUDA_SIMD=level)
    assert f"CPU instructions   {level or LEVELS[0]} (of {', '.join(LEVELS)})" in done.stdout


GARBAGE = """
import torch, ssd_cuda
one = torch.zeros(1, 4)
calls = lambda: ssd_cuda.ops.box_iou(one, one), lambda: ssd_cuda.ops.nms(one, one[0, :1], 0.5)
for call in (*calls, ssd_cuda.simd_level):
    try: call()
    except ValueError as error: print(error)
ssd_cuda.set_simd_level(ssd_cuda.build_info()["simd_levels"][-1])
print(ssd_cuda.ops.box_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape)
"""


def test_garbage_in_the_environment_is_one_sentence():
    said = f"SSD_CUDA_SIMD must name an instruction set of this processor ({', '.join(LEVELS)}), got 'sse9'"
    done = run_python("-c", GARBAGE, SSD_CUDA_SIMD="sse9")
    assert done.stdout.splitlines() == [said] * 3 + ["torch.Size([0, 0])"], done.stderr
    assert said in run_python("-m", "ssd_cuda", "info", SSD_CUDA_SIMD="sse9").stdout


def test_what_needs_the_extension_says_so():
    code = "import sys; sys.modules['ssd_cuda._C'] = None\nimport ssd_cuda\n"
    code += "facts = ssd_cuda.build_info()\nprint(facts['simd'], facts['simd_levels'])\nssd_cuda.simd_level()"
    done = run_python("-c", code)
    assert done.stdout.strip() == "None []"
    assert "RuntimeError: simd_level needs the compiled extension" in done.stderr


# The mathematics that the kernels take from the C library: once a call, to prepare options. In a loop each
# would be a call a number, and its bits the library's.
ONCE_A_CALL = {"log", "logf", "nextafter", "nextafterf"}


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm of binutils")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere fma is an instruction at every level")
def test_no_loop_calls_the_mathematics_of_the_library():
    def symbols(path: str, *options: str) -> set[str]:
        listing = subprocess.run(["nm", "-D", *options, path], capture_output=True, text=True, check=True)
        return {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}

    maps = Path("/proc/self/maps").read_text()
    library = re.search(r"\S+/libm(\.so\.6|-[\d.]+\.so)$", maps, re.M)[0]
    provided = symbols(library, "--defined-only")
    assert {"fmaf", "expf", "log"} <= provided
    assert symbols(_extension._C.__file__, "--undefined-only") & provided <= ONCE_A_CALL


def test_a_level_holds_for_all_threads():
    boxes = torch.rand(5000, 4)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        results = at_every_level(lambda: ops.box_iou(boxes, boxes[:50]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], result) for result in results)
