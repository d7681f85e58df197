"""The build: what it links against, what it decides, and what it says when something is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ssd_cuda
from ssd_cuda import _extension

ROOT = Path(__file__).parents[1]


def run_python(code: str, python: str = sys.executable, **env: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )


def binary() -> Path:
    path = getattr(_extension._C, "__file__", None)
    if path is None:
        pytest.fail("the extension is not built")
    return Path(path)


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm of binutils")
def test_the_binary_needs_only_the_stable_abi():
    """No at::, no mangled c10::: the symbols that change from one torch to the next."""
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", "-C", str(binary())], capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"^\s*[UwvV] (.+)$", listing, re.M)
    assert any(name.startswith("aoti_torch_") for name in names)
    foreign = [name for name in names if re.match(r"(at|c10|torch|caffe2)::", name)]
    assert foreign == []
    needed = subprocess.run(["readelf", "-d", str(binary())], capture_output=True, text=True).stdout
    assert "libtorch_cuda" not in needed
    assert "libc10_cuda" not in needed
    assert "libcudart" not in needed  # static, so that a CPU-only torch can load it


def test_the_current_cuda_stream_is_found_where_torch_has_cuda():
    """Every CUDA op needs it, and no card is needed to look for it."""
    assert _extension._C.finds_cuda_stream() == (torch.version.cuda is not None)


SMOKE = """
import torch, ssd_cuda
from ssd_cuda import ops
boxes = torch.tensor([[0., 0, 2, 2], [1, 1, 3, 3]])
print(torch.__version__, ssd_cuda.build_info()["torch_built_with"], ops.box_iou(boxes, boxes)[0, 1].item())
"""


def test_the_same_binary_under_a_second_torch():
    """CI names a Python whose torch is another version and CPU-only; the op must give the same number."""
    python = os.environ.get("SSD_SECOND_PYTHON")
    if not python:
        pytest.skip("SSD_SECOND_PYTHON names no second Python")
    done = run_python(SMOKE, python)
    assert done.returncode == 0, done.stderr
    running, built, value = done.stdout.split()
    assert running != built == torch.__version__
    assert float(value) == pytest.approx(1 / 7)


def test_the_ops_suite_under_a_second_torch():
    python = os.environ.get("SSD_SECOND_PYTHON")
    if not python:
        pytest.skip("SSD_SECOND_PYTHON names no second Python")
    families = ["boxes", "matching", "mining", "nms", "multibox", "detect", "priors"]
    tests = [f"tests/test_{name}.py" for name in families if (ROOT / f"tests/test_{name}.py").exists()]
    command = [python, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-o", "addopts=-q", *tests]
    command += ["-k", "reference or hand or gradient"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d+ passed", done.stdout)


def test_import_never_fails_and_the_first_call_explains():
    code = (
        "import sys; sys.modules['ssd_cuda._C'] = None\n"
        "import torch, ssd_cuda\n"
        "from ssd_cuda import ops\n"
        "print(ssd_cuda.is_available(), ssd_cuda.build_info()['available'])\n"
        "try: ops.box_iou(torch.zeros(1, 4), torch.zeros(1, 4))\n"
        "except RuntimeError as error: print(error)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    flags, message = done.stdout.strip().split("\n")
    assert flags == "False False"
    assert "ssd_cuda.box_iou needs the compiled extension" in message
    assert "pip install --no-build-isolation" in message


def test_a_binary_of_older_sources_imports_and_explains():
    code = (
        "import torch, ssd_cuda\n"
        "from ssd_cuda import _extension, ops\n"
        "assert not _extension._has_op('an_op_of_tomorrow')\n"
        "try: ops.box_iou(torch.zeros(1, 4), torch.zeros(1, 4))\n"
        "except RuntimeError as error: print(error)\n"
    )
    done = run_python(code)
    assert "built from older sources and lacks an_op_of_tomorrow" in done.stdout, done.stderr


def test_build_info_tells_everything():
    info = ssd_cuda.build_info()
    assert info["available"] is True and info["error"] is None
    assert info["torch"] == torch.__version__
    assert set(info) >= {"torch_built_with", "cuda", "cuda_archs", "compiler", "gpus"}
    assert bool(info["cuda"]) == bool(info["cuda_archs"])


def run_setup(tmp_path: Path, *, hide: str | None = None, **env: str) -> subprocess.CompletedProcess:
    """setup.py asked for its name only: everything is resolved, nothing is compiled."""
    code = "import sys, runpy\n"
    if hide:
        code += f"sys.modules[{hide!r}] = None\n"
    code += "sys.argv = ['setup.py', '--name']\nrunpy.run_path('setup.py', run_name='__main__')\n"
    names = [
        "CUDA_HOME",
        "CUDA_PATH",
        "TORCH_CUDA_ARCH_LIST",
        "SSD_CUDA_CPU_ONLY",
        "SSD_CUDA_HERE",
        "FORCE_CUDA",
    ]
    return run_python(code, **{**dict.fromkeys(names, ""), **env})


def test_cpu_only_is_said(tmp_path):
    done = run_setup(tmp_path, SSD_CUDA_CPU_ONLY="1")
    assert done.returncode == 0, done.stderr
    assert "CUDA none (CPU only)" in done.stderr


@pytest.mark.parametrize("module", ["torch", "pybind11", "ninja"])
def test_a_missing_build_need_is_one_sentence(tmp_path, module):
    done = run_setup(tmp_path, hide=module, SSD_CUDA_CPU_ONLY="1")
    assert done.returncode != 0
    assert done.stderr.strip().startswith(f"ssd_cuda: building needs {module}: type 'pip install")
    assert "Traceback" not in done.stderr


def test_a_missing_compiler_is_one_sentence(tmp_path):
    done = run_setup(tmp_path, SSD_CUDA_CPU_ONLY="1", CXX="no-such-compiler")
    assert done.returncode != 0
    assert "needs a C++20 compiler" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_the_toolkit_is_found_behind_a_wrapper_script(tmp_path):
    wrapper = tmp_path / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("nvcc")} "$@"\n')
    wrapper.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = run_setup(tmp_path, PATH=path, TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX")
    assert done.returncode == 0, done.stderr
    found = re.search(r"CUDA (\d+\.\d+) at (\S+) for (\S+)", done.stderr)
    assert (Path(found[2]) / "include" / "cuda_runtime.h").exists()
    assert found[3] == "8.0;9.0+PTX"


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_without_a_list_every_card_is_served(tmp_path):
    done = run_setup(tmp_path)
    assert done.returncode == 0, done.stderr
    archs = re.search(r" for (\S+)", done.stderr)[1].split(";")
    assert "9.0" in archs and "8.0+PTX" in archs and archs[-1].endswith("+PTX")


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a card")
def test_here_without_a_card_is_for_the_cpu_and_says_how_to_get_cuda(tmp_path):
    done = run_setup(tmp_path, SSD_CUDA_HERE="1")
    assert done.returncode == 0, done.stderr
    assert "CUDA none (CPU only)" in done.stderr
    assert "'FORCE_CUDA=1 make build' builds for every card" in done.stderr
    for chosen in ({"FORCE_CUDA": "1"}, {"TORCH_CUDA_ARCH_LIST": "9.0"}):
        done = run_setup(tmp_path, SSD_CUDA_HERE="1", **chosen)
        assert "CPU only" not in done.stderr, "what is asked for by name is built"
    done = run_setup(tmp_path, TORCH_CUDA_ARCH_LIST="native")
    assert done.returncode != 0 and "native needs a card" in done.stderr and "Traceback" not in done.stderr


def test_build_isolation_brings_all_that_the_build_asks_for():
    """What setup.py would stop for, and from which version on, is what ``pip install .`` installs first."""
    project, script = (ROOT / "pyproject.toml").read_text(), (ROOT / "setup.py").read_text()
    requires = re.search(r"^requires = \[(.*?)\]", project, re.M)[1]
    given = dict(re.findall(r'"(\w+)(?:>=([\d.]+))?"', requires))
    assert set(re.findall(r'need\("(\w+)"\)', script)) | {"setuptools"} == set(given)
    oldest = dict(re.findall(r"^OLDEST_(\w+) = \(?([\d, ]+)", script, re.M))
    assert given["setuptools"] == oldest["SETUPTOOLS"].strip()
    assert given["torch"] == oldest["TORCH"].replace(", ", ".")


def test_old_torch_is_one_sentence(tmp_path):
    code = "import sys, runpy, torch\ntorch.__version__ = '2.10.1+cu128'\nsys.argv = ['setup.py', '--name']\n"
    done = run_python(code + "runpy.run_path('setup.py', run_name='__main__')\n", SSD_CUDA_CPU_ONLY="1")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.strip().startswith("ssd_cuda: building needs torch 2.11 or newer, and this is 2.10.1")


def test_old_setuptools_is_one_sentence(tmp_path):
    """As a new environment of Python 3.11 has it: its own words on the licence's form help nobody."""
    code = "import sys, runpy, setuptools\nsetuptools.__version__ = '65.5.0'\n"
    code += "sys.argv = ['setup.py', '--name']\n"
    done = run_python(code + "runpy.run_path('setup.py', run_name='__main__')\n", SSD_CUDA_CPU_ONLY="1")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.strip().startswith(
        "ssd_cuda: building needs setuptools 77 or newer, and this is 65.5.0"
    )


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a compiler")
def test_headers_refuse_a_compiler_that_approximates():
    """Behind setup.py's own refusal, for builds that do without it."""
    header = str(ROOT / "csrc/common/math/host_device.h")
    plain = ["c++", "-fsyntax-only", "-x", "c++", "-std=c++20", header]
    assert subprocess.run(plain, capture_output=True).returncode == 0
    done = subprocess.run([*plain, "-ffast-math"], capture_output=True, text=True)
    assert done.returncode != 0 and "not to be compiled with -ffast-math" in done.stderr


def test_nothing_in_the_project_file_is_deprecated(tmp_path):
    done = run_setup(tmp_path, SSD_CUDA_CPU_ONLY="1", PYTHONWARNINGS="default")
    assert "eprecat" not in done.stderr, done.stderr


def test_setup_stays_short():
    assert len((ROOT / "setup.py").read_text().splitlines()) <= 130
