"""Builds ssd_cuda._C: CPU always, CUDA where nvcc is (or FORCE_CUDA=1), for every card that is served.

SSD_CUDA_CPU_ONLY=1 leaves CUDA out; TORCH_CUDA_ARCH_LIST, MAX_JOBS and CUDA_HOME mean what they do to torch.
SSD_CUDA_HERE=1, as ``make`` has it, builds for this machine: its cards, or the CPU where there is none.
VERBOSE=1 shows the compilers' whole lines.
"""

import glob
import logging
import os
import platform
import re
import shlex
import shutil
import sys

import setuptools
from setuptools import Extension, setup

ROOT = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, ROOT)  # a build front end may not have put it there
from build_support import archs, progress, toolkit  # noqa: E402
from build_support.switches import refuse_unsafe_math, stop, switch  # noqa: E402

STABLE_ABI = "0x020b000000000000"  # torch 2.11: the oldest torch the binary runs under
OLDEST_TORCH = (2, 11)
OLDEST_SETUPTOOLS = 77  # an SPDX expression as the licence; the venv of Python 3.11 comes with 65


def need(module: str):
    try:
        return __import__(module)
    except ImportError:
        stop(
            f"building needs {module}: type 'pip install torch pybind11 ninja setuptools', then "
            "'pip install --no-build-isolation .' (build isolation hides the torch you have)"
        )


def cuda_to_build() -> tuple[toolkit.Toolkit, list[str]] | None:
    """The toolkit and the architectures, or None for CPU kernels only."""
    nvcc = toolkit.find_nvcc(os.environ)
    if not nvcc:
        return None
    kit = toolkit.inspect(nvcc)
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    here = switch(os.environ, "SSD_CUDA_HERE") and not listed and not switch(os.environ, "FORCE_CUDA")
    if not here and "native" not in listed.lower():
        return kit, archs.parse(listed, kit.archs) if listed else archs.served(kit.archs, platform.machine())
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = [torch.cuda.get_device_capability(index) for index in range(count)]
    if here and not cards:
        print(
            "ssd_cuda: no CUDA card that this torch can use, so CPU kernels only. There is nvcc: for CUDA, "
            "'FORCE_CUDA=1 make build' builds for every card, 'TORCH_CUDA_ARCH_LIST=8.6 make build' for one",
            file=sys.stderr,
        )
        return None
    return kit, archs.parse(listed or "native", kit.archs, cards)


refuse_unsafe_math(os.environ)
torch, pybind11 = need("torch"), need("pybind11")
need("ninja")
if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    stop(
        f"building needs setuptools {OLDEST_SETUPTOOLS} or newer, and this is {setuptools.__version__}: "
        f"pip install 'setuptools>={OLDEST_SETUPTOOLS}'"
    )
if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < OLDEST_TORCH:
    stop(f"building needs torch 2.11 or newer, and this is {torch.__version__}: pip install 'torch>=2.11'")
if not shutil.which(shlex.split(os.environ.get("CXX") or "c++")[0]):
    stop("building needs a C++20 compiler: install g++ (or clang++), or name one in CXX")
cuda = cuda_to_build()
if cuda:
    os.environ["CUDA_HOME"] = cuda[0].home  # before torch guesses it from the place of the nvcc on PATH
    # torch writes nvcc's path into a shell line as it is, and it may hold spaces.
    os.environ.setdefault("PYTORCH_NVCC", shlex.quote(os.path.join(cuda[0].home, "bin", "nvcc")))
no_card = lambda record: not str(record.msg).startswith("No CUDA runtime is found")  # noqa: E731
logging.getLogger("torch.utils.cpp_extension").addFilter(
    no_card
)  # it is no news, and no fault, where one builds
from torch.utils import cpp_extension as cpp  # noqa: E402


class Build(cpp.BuildExtension):
    def build_extensions(self) -> None:
        with progress.one_line_a_file(ROOT):
            super().build_extensions()


def extension() -> Extension:
    sources = sorted(glob.glob("csrc/*.cpp") + glob.glob("csrc/*/cpu/*_cpu.cpp"))
    headers = sorted(glob.glob("csrc/**/*.h", recursive=True) + glob.glob("csrc/**/*.cuh", recursive=True))
    defines = [f"-DTORCH_TARGET_VERSION={STABLE_ABI}", f'-DSSD_BUILD_TORCH="{torch.__version__}"']
    host = ["-O3", "-std=c++20", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-g0"]
    host += ["-Wall", "-Wno-maybe-uninitialized", "-Wno-psabi", "-Wno-unknown-pragmas"]
    host += ["-Wno-unknown-warning-option"]  # clang's, of g++'s -Wno-maybe-uninitialized
    nvcc_flags, libraries, library_dirs, built = [], [], [], "none (CPU only)"
    if cuda:
        kit, chosen = cuda
        names = ";".join(chosen)
        sources += sorted(glob.glob("csrc/*/cuda/*_cuda.cu"))
        defines += [f'-DSSD_BUILD_CUDA="{kit.release}"', f'-DSSD_BUILD_ARCHS="{names}"']
        # torch forbids the conversions of half and bfloat16 in device code; the kernels use them.
        nvcc_flags = [
            "-U__CUDA_NO_HALF_CONVERSIONS__",
            "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
            "-O3",
            "-std=c++20",
        ]
        nvcc_flags += ["-Xcompiler=-fvisibility=hidden,-ffp-contract=off", *archs.gencode(chosen), *defines]
        libraries, library_dirs = ["cudart_static", "rt", "dl", "pthread"], [kit.library_dir]
        built = f"{kit.release} at {kit.home} for {names}"
    print(f"ssd_cuda: torch {torch.__version__}, CUDA {built}", file=sys.stderr)
    includes = [pybind11.get_include(), *cpp.include_paths("cuda" if cuda else "cpu")]
    return Extension(
        "ssd_cuda._C",
        sources,
        depends=headers,
        include_dirs=[os.path.join(ROOT, "csrc"), *includes],
        library_dirs=[*cpp.library_paths(), *library_dirs],
        libraries=["c10", "torch_cpu", *libraries],
        extra_compile_args={"cxx": [*host, *defines], "nvcc": nvcc_flags},
        language="c++",
    )


setup(ext_modules=[extension()], cmdclass={"build_ext": Build})
