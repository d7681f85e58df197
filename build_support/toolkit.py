"""The CUDA toolkit to build with: found as torch finds it, checked before anything is compiled."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from .archs import Version, parse_known
from .switches import stop, switch

USUAL_PLACE = "/usr/local/cuda"


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that can build: its folder, release, architectures, and where its static runtime is."""

    home: str
    release: str
    archs: tuple[Version, ...]
    library_dir: str


def find_nvcc(env: Mapping[str, str]) -> str | None:
    """nvcc of CUDA_HOME, of PATH or of the usual place, or None where the build is one for the CPU."""
    forced = switch(env, "FORCE_CUDA")
    if switch(env, "SSD_CUDA_CPU_ONLY"):
        if forced:
            stop("SSD_CUDA_CPU_ONLY and FORCE_CUDA are both on: unset one of them")
        return None
    on_path = shutil.which("nvcc", path=env.get("PATH", ""))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        home = env.get(name)
        if not home:
            continue
        nvcc = os.path.join(home, "bin", "nvcc")
        if os.path.exists(nvcc):
            return nvcc
        if on_path or forced:
            other = f"unset it to build with {on_path}, or name" if on_path else "name"
            stop(f"{name} is {home!r}, which has no bin/nvcc: {other} the folder of a CUDA toolkit")
        print(f"ssd_cuda: {name} is {home!r}, which has no bin/nvcc: CPU kernels only", flush=True)
        return None
    usual = os.path.join(USUAL_PLACE, "bin", "nvcc")
    found = on_path or (usual if os.path.exists(usual) else None)
    if forced and not found:
        stop("FORCE_CUDA is on, but there is no nvcc: put it on PATH or set CUDA_HOME to the CUDA toolkit")
    return found


def inspect(nvcc: str) -> Toolkit:
    """The toolkit behind an nvcc, which may be a script that calls another; a missing part ends the build."""
    found = re.search(r"^#\$ TOP=(.+)$", _ask(nvcc, "--dryrun", "x.cu"), re.M)
    home = os.path.realpath(found.group(1).strip() if found else os.path.dirname(os.path.dirname(nvcc)))
    nvcc = os.path.join(home, "bin", "nvcc")
    release = re.search(r"release (\d+\.\d+)", _ask(nvcc, "--version"))
    known = parse_known(_ask(nvcc, "--list-gpu-arch"))
    if not release or not known:
        stop(f"{nvcc} does not tell its release and architectures: is the CUDA toolkit whole?")
    if not os.path.exists(os.path.join(home, "include", "cuda_runtime.h")):
        stop(f"the CUDA toolkit at {home} has no include/cuda_runtime.h: install its runtime headers")
    # lib64 is the installers' layout, lib that of the packages on PyPI, targets that of cross compilers.
    folders = [f"{home}/lib64", f"{home}/lib", *sorted(glob.glob(f"{glob.escape(home)}/targets/*/lib"))]
    static = [folder for folder in folders if os.path.exists(f"{folder}/libcudart_static.a")]
    if not static:
        stop(f"the CUDA toolkit at {home} has no libcudart_static.a in lib64 or lib: install its runtime")
    return Toolkit(home, release.group(1), tuple(known), static[0])


def _ask(nvcc: str, *arguments: str) -> str:
    try:
        done = subprocess.run([nvcc, *arguments], capture_output=True, text=True)
    except OSError as error:
        stop(f"{nvcc} does not run: {error.strerror or error}")
    return done.stdout + done.stderr
