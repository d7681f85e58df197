"""Rules of the tree that a reader relies on: where things are, how long they are, who may know whom."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("ssd_cuda", "build_support", "tests", "benchmarks", "examples", "docs")
PYTHON = sorted(p for d in PLACES for p in (ROOT / d).rglob("*.py"))
NATIVE = sorted(
    p for d in ("csrc", "tests") for p in (ROOT / d).rglob("*") if p.suffix in {".h", ".cuh", ".cu", ".cpp"}
)
FAMILIES = sorted(p.name for p in (ROOT / "csrc").iterdir() if p.is_dir() and p.name != "common")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PYTHON, *NATIVE], ids=name)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_functions_stay_small(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", [p for p in PYTHON if p.name.startswith("test_")], ids=name)
def test_random_cases_are_those_of_make_fuzz(path):
    """``make fuzz`` runs what has fuzz in its name, as often as it is told."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if ast.unparse(decorator).startswith("settings("):
                assert "fuzz" in node.name and "max_examples=fuzz_examples(" in ast.unparse(decorator), (
                    node.name
                )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_the_same_name_everywhere(family):
    for place in (
        f"csrc/{family}/cuda/{family}.cuh",
        f"csrc/{family}/cuda/{family}_cuda.cu",
        f"csrc/{family}/cpu/{family}_cpu.cpp",
        f"ssd_cuda/ops/{family}.py",
        f"ssd_cuda/reference/{family}.py",
        f"tests/test_{family}.py",
        f"benchmarks/bench_{family}.py",
    ):
        assert (ROOT / place).exists(), f"{place} is missing"


def modules(folder: str) -> set[str]:
    return {p.stem for p in (ROOT / folder).glob("*.py") if not p.stem.startswith("_")}


def test_a_codebase_has_the_same_name_everywhere():
    presets = modules("ssd_cuda/presets")
    assert modules("ssd_cuda/reference/dialects") <= presets
    operators = {"onnx", "openvino", "tensorrt"}  # signatures of operators, no codebases
    assert modules("ssd_cuda/compat") - operators <= presets
    assert {test.removeprefix("test_") for test in modules("tests/dialects")} <= presets


def test_presets_are_data():
    for path in (ROOT / "ssd_cuda/presets").glob("[!_]*.py"):
        imports = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.Import, ast.ImportFrom))
        ]
        for node in imports:
            known = isinstance(node, ast.ImportFrom) and (
                node.level == 1 or node.module in ("__future__", "typing")
            )
            known = known or (isinstance(node, ast.Import) and node.names[0].name == "math")
            assert known, f"{name(path)} imports {ast.unparse(node)}: presets know only each other"


@pytest.mark.parametrize("path", [p for p in NATIVE if "csrc" in p.parts], ids=name)
def test_native_layers(path):
    text = path.read_text()
    code = re.sub(r"//[^\n]*", "", text)
    if path.name != "launch.cuh":
        assert "<<<" not in code, "kernels are launched by launch() in common/cuda/launch.cuh"
        assert "extern __shared__" not in code, "dynamic shared memory comes from SSD_DYNAMIC_SHARED"
    if path.name != "torch_api.h":
        assert not re.search(r"#include\s*[<\"](torch|ATen|c10)/", code), (
            "torch comes from common/torch/torch_api.h"
        )
    assert not re.search(r"atomicAdd\s*\(\s*(?:\(float|\(double|reinterpret_cast<(?:float|double))", code)
    if path.name not in ("cluster.cuh", "copies.cuh"):  # the emulator has its own of each there
        assert not re.search(r"\basm\b", code), "inline PTX stands in common/cuda/cluster.cuh and copies.cuh"
    if path.suffix == ".cu":
        assert not path.with_suffix(".cpp").exists(), "a .cpp beside a .cu would share its object name"


def layer(path: Path) -> str:
    """What a native file is for: math, rule (both devices), cpu, cuda, or torch (schemas and bindings)."""
    if path.suffix == ".cu" or path.name.endswith(("_cpu.cpp", "_op.h")) or path.name == "module.cpp":
        return "torch"
    return path.parent.name if path.parent.name in {"math", "cpu", "cuda", "torch"} else "rule"


KNOWS = {
    "math": {"math"},
    "rule": {"math", "rule"},
    "cpu": {"math", "rule", "cpu"},
    "cuda": {"math", "rule", "cuda"},
    "torch": {"math", "rule", "cpu", "cuda", "torch"},
}


@pytest.mark.parametrize("path", [p for p in NATIVE if "csrc" in p.parts], ids=name)
def test_includes_point_inwards(path):
    for include in re.findall(r'#include "([^"]+)"', path.read_text()):
        if include.startswith("emulator/"):
            assert path.name == "launch.cuh", "the emulator is put in at one place"
            continue
        beside = path.parent / include
        found = beside if "/" not in include else ROOT / "csrc" / include
        assert found.exists(), f"{include}: a file beside this one by its name, any other by its path in csrc"
        assert layer(found) in KNOWS[layer(path)], f"{layer(path)} code must not know {include}"


def test_reference_knows_only_torch():
    allowed = {
        "torch",
        "math",
        "collections",
        "typing",
        "__future__",
        "dataclasses",
        "functools",
        "itertools",
    }
    for path in (ROOT / "ssd_cuda/reference").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            for module in modules:
                assert module.split(".")[0] in allowed, f"{name(path)} imports {module}"


def test_the_core_needs_torch_and_numpy_only():
    """Extras (torchvision, matplotlib ...) are imported where they are used: import never needs them."""
    extras = {"torchvision", "matplotlib", "pycocotools", "tqdm", "PIL", "cv2", "hypothesis"}
    extras |= {"onnx", "onnxscript", "onnxruntime", "openvino", "google", "safetensors"}
    for path in (ROOT / "ssd_cuda").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in tree.body:  # top level only
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not {n.split(".")[0] for n in names} & extras, (
                f"{name(path)} imports an extra at top level"
            )


def imported_modules(path: Path) -> set[str]:
    """Every module a file of the package imports anywhere, as a full name."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            found |= {start} | {f"{start}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "ssd_cuda").rglob("*.py")), ids=name)
def test_the_package_needs_nothing_above_it(path):
    """cli is the top of the package; benchmarks, tests and examples stand outside of it."""
    below_cli = "cli" not in path.parts and path.name != "__main__.py"
    for module in imported_modules(path):
        assert module.split(".")[0] not in {"benchmarks", "build_support", "tests", "examples", "setup"}, (
            module
        )
        assert not (below_cli and module.startswith("ssd_cuda.cli")), module
    assert "sys.path" not in path.read_text()
