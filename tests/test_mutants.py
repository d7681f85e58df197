"""The table of planted faults (``make mutants``) is of these sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mutants.run import ROOT, locate, selections
from mutants.table import MUTANTS

CODE = {
    path.relative_to(ROOT): path.read_text()
    for folder in ("csrc", "ssd_cuda")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".h", ".cuh", ".cpp", ".py"}
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.family}: {m.what}")
def test_a_fault_has_its_place(mutant):
    """Whoever changes a line of which a fault was written changes the fault too."""
    locate(mutant, CODE)


OPERATOR = r"[-+*/%<>=!&|^?:]"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.family}: {m.what}")
def test_a_fault_replaces_a_whole_expression(mutant):
    """``make mutants`` compiles ``(switch ? (new) : (old))``, or two statements."""
    _, old, _ = mutant.parts()
    for text in (old, mutant.new):
        statement = old.rstrip().endswith(";")
        assert text.strip() or statement, mutant.what
        ends = text.strip().rstrip(";")
        assert statement or not re.search(rf"^{OPERATOR}+$|\s{OPERATOR}+$|^[+*/%<>=|^?:]", ends), mutant.what
        assert all(ends.count(a) == ends.count(b) for a, b in ("()", "[]", "{}")), mutant.what


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.family}: {m.what}")
def test_a_fault_of_the_width_is_of_a_whole_product(mutant):
    """``switch ? blockIdx.x : uint64_t{blockIdx.x}`` has 64 bits either way: no fault would be planted."""
    _, old, after = mutant.parts()
    widened = re.fullmatch(r"u?int64_t\{.*\}|static_cast<u?int64_t>\(\w*(\.\w+)?\)", old.strip())
    assert not (widened and re.match(r"\s*[-+*/<]", after)), mutant.what


def test_a_fault_names_tests_that_are_there():
    for mutant in MUTANTS:
        for word in mutant.tests.split():
            assert not word.startswith("tests/") or Path(ROOT / word).exists(), mutant.what


def test_without_a_fault_each_test_runs_once():
    of_nms = "tests/test_nms.py -k"
    tests = [
        f"{of_nms} 'ties or odd'",
        "tests/test_boxes.py -k iou",
        f"{of_nms} 'ties or odd'",
        f"{of_nms} grid",
    ]
    assert selections(tests) == [f"{of_nms} '(ties or odd) or (grid)'", "tests/test_boxes.py -k '(iou)'"]
    assert selections([*tests, "tests/test_nms.py"])[0] == "tests/test_nms.py"
