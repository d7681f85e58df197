"""What setup.py decides with: no compiler runs here; toolkits are folders with a script for nvcc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from build_support import archs, progress, switches, toolkit

KNOWN = [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (11, 0), (12, 0)]


@pytest.mark.parametrize(
    "listed, expected",
    [
        ("8.6", ["8.6"]),
        ("8.6;", ["8.6"]),
        ("8.0;9.0+PTX", ["8.0", "9.0+PTX"]),
        ("8.0 9.0, 8.0", ["8.0", "9.0"]),
        ("90", ["9.0"]),
        ("120+PTX", ["12.0+PTX"]),
        ("9.0a", ["9.0a"]),
        ("10.0f", ["10.0f"]),
        ("Hopper", ["9.0+PTX"]),
        ("Ampere+Tegra;turing", ["8.7", "7.5+PTX"]),
        ("native", ["8.6", "9.0+PTX"]),
        ("All", ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "11.0", "12.0+PTX"]),
    ],
)
def test_arch_lists_that_torch_takes(listed, expected):
    assert archs.parse(listed, KNOWN, [(9, 0), (8, 6), (8, 6)]) == expected


@pytest.mark.parametrize(
    "listed, said",
    [
        ("sm_90", "must hold numbers like 8.6.* got 'sm_90'"),
        ("8.6;ninety", "got 'ninety'"),
        ("9.0b", "got '9.0b'"),
        ("Kepler", r"names 3.5\+PTX, but this nvcc compiles 7.5, 8.0"),
        ("9.9", "names 9.9, but this nvcc compiles"),
        ("8.0a", "'a' exists from 9.0 on"),
        ("9.0f", "'f' exists from 10.0 on"),
        (";", "names no architecture"),
    ],
)
def test_any_other_list_ends_the_build_with_one_sentence(listed, said):
    with pytest.raises(SystemExit, match=f"^ssd_cuda: TORCH_CUDA_ARCH_LIST.*{said}"):
        archs.parse(listed, KNOWN)


def test_native_is_bounded_by_nvcc_and_needs_a_card():
    assert archs.native(KNOWN, [(12, 1)]) == ["12.0+PTX"]
    with pytest.raises(SystemExit, match="native needs a card"):
        archs.native(KNOWN, [])


def test_what_is_served_by_default():
    assert archs.served(KNOWN, "x86_64") == ["7.5", "8.0+PTX", "8.6", "9.0", "10.0", "12.0+PTX"]
    assert archs.served(KNOWN, "aarch64") == [
        *["7.5", "8.0+PTX", "8.6", "8.7", "9.0", "10.0", "11.0", "12.0+PTX"],
    ]
    assert archs.served(KNOWN[:6], "x86_64")[-1] == "9.0+PTX", "an older nvcc: PTX of the newest it has"
    with pytest.raises(SystemExit, match="name yours in TORCH_CUDA_ARCH_LIST"):
        archs.served([(7, 0)], "x86_64")


def test_gencode_flags():
    assert archs.gencode(["9.0a", "12.0+PTX"]) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]
    assert archs.parse_known("compute_75\ncompute_100\n") == [(7, 5), (10, 0)]


@pytest.mark.parametrize("value", ["1", "true", "True", "yes", "ON"])
def test_switches_are_words(value):
    assert switches.switch({"FORCE_CUDA": value}, "FORCE_CUDA")
    assert toolkit.find_nvcc({"SSD_CUDA_CPU_ONLY": value, "PATH": os.environ["PATH"]}) is None


def test_switches_that_are_off_or_nonsense():
    assert not any(switches.switch({"X": value}, "X") for value in ("", "0", "no", "False", "off"))
    with pytest.raises(SystemExit, match=r"^ssd_cuda: X must be one of 1, true, yes, on or 0.* got 'maybe'"):
        switches.switch({"X": "maybe"}, "X")
    with pytest.raises(SystemExit, match="both on"):
        toolkit.find_nvcc({"SSD_CUDA_CPU_ONLY": "1", "FORCE_CUDA": "1"})


@pytest.mark.parametrize(
    "name, flags, refused",
    [
        ("NVCC_APPEND_FLAGS", "--use_fast_math", "--use_fast_math"),
        ("NVCC_PREPEND_FLAGS", "-lineinfo -use_fast_math", "-use_fast_math"),
        ("NVCC_APPEND_FLAGS", "--ftz=true", "--ftz=true"),
        ("NVCC_APPEND_FLAGS", "-prec-div false -O3", "-prec-div false"),
        ("NVCC_APPEND_FLAGS", "-Xcompiler=-O2,-ffast-math", "-ffast-math"),
        ("CXXFLAGS", "-Ofast -g", "-Ofast"),
        ("CFLAGS", "-ffast-math", "-ffast-math"),
        ("NVCC_APPEND_FLAGS", "--threads 2 --ftz=false -prec-div=true", None),
        ("CFLAGS", "-O2 -fno-fast-math -ffast-maths", None),
    ],
)
def test_flags_that_change_the_arithmetic_are_refused(name, flags, refused):
    if refused is None:
        return switches.refuse_unsafe_math({name: flags})
    with pytest.raises(SystemExit, match=f"^ssd_cuda: {name} has {refused}, with which"):
        switches.refuse_unsafe_math({name: flags})


NVCC = """#!/bin/sh
case "$1" in
--dryrun) echo '#$ TOP='"{top}" >&2 ;;
--version) echo 'Cuda compilation tools, release 13.0, V13.0.88' ;;
--list-gpu-arch) printf 'compute_80\\ncompute_90\\n' ;;
esac
"""


def make_toolkit(home: Path, lib: str = "lib64", top: str | None = None) -> Path:
    for folder in ("bin", "include", lib):
        (home / folder).mkdir(parents=True)
    (home / "include" / "cuda_runtime.h").touch()
    (home / lib / "libcudart_static.a").touch()
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(NVCC.format(top=top or f"{home}/bin/.."))
    nvcc.chmod(0o755)
    return home


@pytest.mark.parametrize("lib", ["lib64", "lib", "targets/sbsa-linux/lib"])
def test_layouts_of_a_toolkit(tmp_path, lib):
    home = make_toolkit(tmp_path / "cuda with space", lib)
    nvcc = toolkit.find_nvcc({"CUDA_HOME": str(home)})
    kit = toolkit.inspect(nvcc)
    assert kit == toolkit.Toolkit(str(home), "13.0", ((8, 0), (9, 0)), str(home / lib))


def test_a_script_that_calls_another_nvcc(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    script = make_toolkit(tmp_path / "scripts", top=f"{home}/bin/..") / "bin" / "nvcc"
    nvcc = toolkit.find_nvcc({"PATH": str(script.parent)})
    assert nvcc == str(script) and toolkit.inspect(nvcc).home == str(home)


@pytest.mark.parametrize("missing", ["include/cuda_runtime.h", "lib64/libcudart_static.a"])
def test_a_toolkit_with_a_part_missing(tmp_path, missing):
    home = make_toolkit(tmp_path / "cuda")
    (home / missing).unlink()
    with pytest.raises(
        SystemExit, match=f"the CUDA toolkit at {home} has no {Path(missing).name}|has no include"
    ):
        toolkit.inspect(str(home / "bin" / "nvcc"))


def test_an_nvcc_that_says_nothing(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    (home / "bin" / "nvcc").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SystemExit, match="does not tell its release"):
        toolkit.inspect(str(home / "bin" / "nvcc"))
    (home / "bin" / "nvcc").chmod(0o644)
    with pytest.raises(SystemExit, match="does not run: Permission denied"):
        toolkit.inspect(str(home / "bin" / "nvcc"))


def test_a_cuda_home_that_is_not_there_is_never_a_silent_cpu_build(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toolkit, "USUAL_PLACE", str(tmp_path / "usual"))
    gone = {"CUDA_HOME": str(tmp_path / "gone")}
    path = {"PATH": str(make_toolkit(tmp_path / "cuda") / "bin")}
    with pytest.raises(
        SystemExit, match=r"^ssd_cuda: CUDA_HOME is '.*gone', which has no bin/nvcc: unset it"
    ):
        toolkit.find_nvcc({**gone, **path})
    with pytest.raises(SystemExit, match=r"no bin/nvcc: name the folder of a CUDA toolkit"):
        toolkit.find_nvcc({**gone, "FORCE_CUDA": "True", "PATH": ""})
    assert toolkit.find_nvcc({**gone, "PATH": ""}) is None
    assert "which has no bin/nvcc: CPU kernels only" in capsys.readouterr().out
    with pytest.raises(
        SystemExit, match=r"^ssd_cuda: FORCE_CUDA is on, but there is no nvcc: put it on PATH"
    ):
        toolkit.find_nvcc({"FORCE_CUDA": "1", "PATH": ""})
    assert toolkit.find_nvcc({"PATH": ""}) is None
    usual = make_toolkit(tmp_path / "usual")
    assert toolkit.find_nvcc({"PATH": ""}) == str(usual / "bin" / "nvcc"), "where nvcc is not on PATH"


COMPILE = "c++ -MMD -MF /b/x.o.d -pthread -I/src/csrc -c /src/csrc/boxes/x.cpp -o /b/x.o -O3 -DA='\"1\"'"


@pytest.mark.parametrize(
    "line, short",
    [
        (f"[3/16] {COMPILE}\n", "[3/16] csrc/boxes/x.cpp\n"),
        (
            f"[4/16] {COMPILE.replace('/src/csrc/boxes/x.cpp', chr(39) + '/src/a b.cpp' + chr(39))}\n",
            "[4/16] a b.cpp\n",
        ),
        (f"/usr/bin/{COMPILE}\n", None),
        ("/cuda/bin/nvcc --generate-dependencies -I/src -c /src/a.cu -o /b/a.o\n", None),
        ("g++ -pthread -shared /b/x.o -lc10 -o /src/ssd_cuda/_C.so\n", "linking _C.so\n"),
        (
            "/src/csrc/boxes/x.cpp:3:1: error: expected ';'\n",
            "/src/csrc/boxes/x.cpp:3:1: error: expected ';'\n",
        ),
        ("FAILED: /b/x.o \n", "FAILED: /b/x.o \n"),
        ("ninja: no work to do.\n", None),
    ],
)
def test_a_line_of_the_build(line, short):
    assert progress.shorten(line, "/src") == short


def test_the_output_of_child_processes_is_shortened():
    code = (
        "import subprocess\n"
        "from build_support.progress import one_line_a_file\n"
        f"line = {f'[1/2] {COMPILE}'!r}\n"
        "with one_line_a_file('/src'):\n"
        "    subprocess.run(['printf', '%s\\\\n', line, 'warning: kept'], check=True)\n"
        "    print('own')\n"
        "print('after')\n"
    )
    root = Path(__file__).parents[1]
    whole = {**os.environ, "PYTHONPATH": str(root), "VERBOSE": ""}
    done = subprocess.run([sys.executable, "-c", code], env=whole, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[1/2] csrc/boxes/x.cpp\nwarning: kept\nown\nafter\n", done.stderr
    whole["VERBOSE"] = "1"
    done = subprocess.run([sys.executable, "-c", code], env=whole, capture_output=True, text=True, timeout=60)
    assert COMPILE in done.stdout
