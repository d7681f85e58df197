"""Builds ssd_cuda._C: CPU always, CUDA where nvcc is (or FORCE_CUDA=1), never decided by a visible GPU.

SSD_CUDA_CPU_ONLY=1 leaves CUDA out; TORCH_CUDA_ARCH_LIST, MAX_JOBS and CUDA_HOME mean what they do to torch.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

from setuptools import Extension, setup

STABLE_ABI = "0x020b000000000000"  # torch 2.11: the oldest torch the binary runs under
DEFAULT_ARCHS = ("8.0", "8.6", "9.0", "10.0", "12.0")


def need(module: str):
    try:
        return __import__(module)
    except ImportError:
        sys.exit(
            f"ssd_cuda: building needs {module}: type 'pip install torch pybind11 ninja setuptools', then "
            "'pip install --no-build-isolation .' (build isolation hides the torch you have)"
        )


def find_cuda() -> str | None:
    """The CUDA toolkit: CUDA_HOME, or what nvcc itself names (it may be a wrapper script), or None."""
    if os.environ.get("SSD_CUDA_CPU_ONLY") == "1":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = os.path.join(home, "bin", "nvcc") if home else shutil.which("nvcc")
    if nvcc and os.path.exists(nvcc):
        dry = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
        top = re.search(r"TOP=(\S+)", dry)
        return os.path.realpath(top.group(1)) if top else os.path.dirname(os.path.dirname(nvcc))
    if os.environ.get("FORCE_CUDA") == "1":
        sys.exit("ssd_cuda: FORCE_CUDA=1 needs nvcc: put it on PATH or set CUDA_HOME to the CUDA toolkit")
    return None


def arch_flags(nvcc: str) -> tuple[list[str], str]:
    """The -gencode flags of TORCH_CUDA_ARCH_LIST, or of what this nvcc knows, with PTX of the newest."""
    wanted = re.split(r"[; ,]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    if wanted == [""]:
        listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
        wanted = [arch for arch in DEFAULT_ARCHS if f"compute_{arch.replace('.', '')}\n" in listed]
        wanted[-1] += "+PTX"
    flags = []
    for arch in wanted:
        number = arch.removesuffix("+PTX").replace(".", "")
        codes = [f"sm_{number}"] + [f"compute_{number}"] * arch.endswith("+PTX")
        flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
    return flags, ";".join(wanted)


torch, pybind11 = need("torch"), need("pybind11")
need("ninja")
if not shutil.which(os.environ.get("CXX", "c++").split()[0]):
    sys.exit("ssd_cuda: building needs a C++20 compiler: install g++ (or clang++), or name one in CXX")
cuda_home = find_cuda()
if cuda_home:
    os.environ["CUDA_HOME"] = cuda_home  # before torch guesses it from the place of the nvcc on PATH
from torch.utils import cpp_extension as cpp  # noqa: E402

sources = sorted(glob.glob("csrc/*.cpp") + glob.glob("csrc/*/cpu/*_cpu.cpp"))
defines = [f"-DTORCH_TARGET_VERSION={STABLE_ABI}", f'-DSSD_BUILD_TORCH="{torch.__version__}"']
host = ["-O3", "-std=c++20", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-g0"]
host += ["-Wall", "-Wno-maybe-uninitialized", "-Wno-psabi", "-Wno-unknown-pragmas"]
nvcc_flags, libraries, library_dirs, built = [], [], [], "none (CPU only)"
if cuda_home:
    nvcc = os.path.join(cuda_home, "bin", "nvcc")
    release = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    version = re.search(r"release (\d+\.\d+)", release).group(1)
    gencode, archs = arch_flags(nvcc)
    sources += sorted(glob.glob("csrc/*/cuda/*_cuda.cu"))
    defines += [f'-DSSD_BUILD_CUDA="{version}"', f'-DSSD_BUILD_ARCHS="{archs}"']
    # torch forbids the conversions of half and bfloat16 in device code; the kernels use them.
    nvcc_flags = ["-U__CUDA_NO_HALF_CONVERSIONS__", "-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-O3", "-std=c++20"]
    nvcc_flags += ["-Xcompiler=-fvisibility=hidden,-ffp-contract=off", *gencode, *defines]
    libraries = ["cudart_static", "rt", "dl", "pthread"]
    library_dirs = glob.glob(f"{cuda_home}/lib64") + glob.glob(f"{cuda_home}/targets/*/lib")
    built = f"{version} at {cuda_home} for {archs}"
print(f"ssd_cuda: torch {torch.__version__}, CUDA {built}", file=sys.stderr)

extension = Extension(
    "ssd_cuda._C",
    sources,
    include_dirs=[
        os.path.abspath("csrc"),
        pybind11.get_include(),
        *cpp.include_paths("cuda" if cuda_home else "cpu"),
    ],
    library_dirs=[*cpp.library_paths(), *library_dirs],
    libraries=["c10", "torch_cpu", *libraries],
    extra_compile_args={"cxx": [*host, *defines], "nvcc": nvcc_flags},
    language="c++",
)
setup(ext_modules=[extension], cmdclass={"build_ext": cpp.BuildExtension})
