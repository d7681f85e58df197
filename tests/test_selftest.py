"""The self-test of the CPU kernels (make selftest): what it covers, how it compares, what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from selftest import run

ROOT = Path(__file__).parents[1]
ONE = ("exp", "float")


def reached(path: Path, seen: set[Path]) -> set[Path]:
    """Every file of the tree that path includes, directly or not."""
    for include in re.findall(r'#include "([^"]+)"', path.read_text()):
        found = path.parent / include if "/" not in include else ROOT / "csrc" / include
        if found not in seen:
            seen.add(found)
            reached(found, seen)
    return seen


def test_every_header_of_a_cpu_kernel_is_compiled_and_none_knows_torch():
    seen: set[Path] = set()
    for source in (ROOT / "tests/selftest").glob("*.cpp"):
        reached(source, seen)
    kernels = {path for path in (ROOT / "csrc").glob("*/cpu/*.h") if path.name != "zero_pages.h"}
    assert kernels <= seen, f"not in the self-test: {sorted(p.name for p in kernels - seen)}"
    assert not [path for path in seen if "torch" in path.parts]


def test_a_difference_is_told_with_who_gave_what():
    same = {"a": {ONE: {"avx2": "1", "baseline": "1"}}, "b": {ONE: {"neon": "1"}}}
    assert run.differences(same) == []
    other = {"a": {ONE: {"avx2": "1", "baseline": "2"}}, "b": {ONE: {"neon": "1"}}}
    assert run.differences(other) == ["exp float: 1 of a avx2, b neon; 2 of a baseline"]
    fewer = {"a": {ONE: {"avx2": "1"}}, "b": {}}
    assert run.differences(fewer) == ["exp float: 1 of a avx2; nothing of b not run"]


def test_vectors_that_differ_from_numbers_are_told():
    lines = "exp float avx2 1\nexp float avx2 2\n"
    with pytest.raises(SystemExit, match="exp float: vectors and numbers differ at avx2"):
        run.hashes([sys.executable, "-c", f"print({lines!r}, end='')"])


@pytest.mark.parametrize("ci, code, said", [("", 0, "skipped: no g++-1"), ("true", 1, "needs g++-1")])
def test_a_compiler_that_is_not_there(ci, code, said):
    command = [sys.executable, ROOT / "tests/selftest/run.py", "g++-1"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nowhere", "CI": ci})
    assert done.returncode == code and said in done.stdout + done.stderr
