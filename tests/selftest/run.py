"""Builds the self-test of the CPU kernels with every compiler, runs it, and compares what the kernels gave.

    python tests/selftest/run.py                 every compiler there is: natively, and for Arm under qemu
    python tests/selftest/run.py g++-12 qemu     these
    python tests/selftest/run.py --sanitize g++  under AddressSanitizer and UndefinedBehaviorSanitizer
    python tests/selftest/run.py --sources       the CPU sources of the extension, warnings are errors

One hash stands for all that a kernel wrote. It must be the same for every compiler, processor and instruction
set. A compiler that is not there is told and passed over, or an error where CI is set. Only --sources needs
torch.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLAGS = ["-O3", "-std=c++20", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Werror"]
FLAGS += ["-Wno-maybe-uninitialized", "-Wno-psabi", "-Wno-unknown-pragmas", "-Wno-unknown-warning-option"]
# Inputs and outputs are vectors of exactly their size: one element past the end is seen, also in spare room.
SANITIZE = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
SANITIZE += ["-D_GLIBCXX_SANITIZE_VECTOR", "-fno-omit-frame-pointer"]
NATIVE = ("g++-11", "g++-12", "clang++-14")
ARM, QEMU = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


def missing(name: str) -> str | None:
    """Which program of a target is not there."""
    needs = (ARM, QEMU) if name == "qemu" else (name,)
    return next((need for need in needs if not shutil.which(need)), None)


def compile_all(jobs: list[list[str]]) -> None:
    def one(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 2))) as pool:
        list(pool.map(one, jobs))


class Build:
    """The self-test by one compiler, with more flags: compilations, link, and the command that runs it."""

    def __init__(self, name: str, folder: Path, more: Sequence[str] = ()):
        compiler, static = (ARM, ["-static"]) if name == "qemu" else (name, [])
        folder.mkdir(parents=True, exist_ok=True)
        sources = sorted(HERE.glob("*.cpp"))
        objects = [str(folder / f"{source.stem}.o") for source in sources]
        flags = [*FLAGS, *more, "-I", str(ROOT / "csrc")]
        pairs = zip(sources, objects, strict=True)
        self.compile = [[compiler, *flags, "-c", str(source), "-o", target] for source, target in pairs]
        program = str(folder / "selftest")
        self.link = [compiler, *static, *more, *objects, "-o", program]
        self.command = [QEMU, program] if name == "qemu" else [program]


def hashes(command: list[str], **env: str) -> dict[tuple[str, str], dict[str, str]]:
    """(kernel, type) to instruction set to hash."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line in done.stdout.splitlines():
        kernel, dtype, level, value = line.split()
        mine = found.setdefault((kernel, dtype), {})
        if mine.setdefault(level, value) != value:
            raise SystemExit(f"{kernel} {dtype}: vectors and numbers differ at {level}")
    return found


def differences(runs: dict[str, dict[tuple[str, str], dict[str, str]]]) -> list[str]:
    """A line for each kernel that does not give the same everywhere, or was not run everywhere."""
    bad = []
    for key in sorted(set().union(*runs.values())):
        values: dict[str, list[str]] = {}
        for name, run in runs.items():
            for level, value in run.get(key, {"not run": "nothing"}).items():
                values.setdefault(value, []).append(f"{name} {level}")
        if len(values) > 1:
            bad.append(f"{' '.join(key)}: " + "; ".join(f"{v} of {', '.join(w)}" for v, w in values.items()))
    return bad


def source_compilations(name: str, folder: Path) -> list[list[str]]:
    """Of every CPU source of the extension, with torch's headers."""
    import sysconfig

    import pybind11
    from torch.utils import cpp_extension

    system = [pybind11.get_include(), sysconfig.get_paths()["include"], *cpp_extension.include_paths("cpu")]
    include = [f"-I{ROOT / 'csrc'}", *(part for path in system for part in ("-isystem", path))]
    define = ["-DTORCH_TARGET_VERSION=0x020b000000000000", '-DSSD_BUILD_TORCH="none"', "-fPIC"]
    folder.mkdir(parents=True, exist_ok=True)
    sources = [ROOT / "csrc/module.cpp", *sorted((ROOT / "csrc").glob("*/cpu/*_cpu.cpp"))]
    options = [*FLAGS, *define, "-fvisibility=hidden", *include]
    return [[name, *options, "-c", str(s), "-o", str(folder / f"{s.stem}.o")] for s in sources]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("compilers", nargs="*", default=[*NATIVE, "qemu"])
    parser.add_argument("--sources", action="store_true")
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "selftest")
    options = parser.parse_args()
    chosen = []
    for name in options.compilers:
        if options.sources and name == "qemu":
            continue  # torch's headers are those of this machine
        if absent := missing(name):
            if os.environ.get("CI"):
                raise SystemExit(f"the check of the compilers needs {absent}")
            print(f"skipped: no {absent}")
        else:
            chosen.append(name)
    # All compilers' work in one pool: no core waits for the last file of each.
    if options.sources:
        folders = {name: options.out / "sources" / name for name in chosen}
        compile_all([job for name in chosen for job in source_compilations(name, folders[name])])
        print(f"{', '.join(chosen)}: every CPU source compiles, without a warning")
        return 0
    suffix, more = ("-sanitized", SANITIZE) if options.sanitize else ("", ())
    builds = {name: Build(name, options.out / f"{name}{suffix}", more) for name in chosen}
    compile_all([job for made in builds.values() for job in made.compile])
    compile_all([made.link for made in builds.values()])
    runs = {name: hashes(made.command) for name, made in builds.items()}
    for name, run in runs.items():
        print(f"{name}: {len(run)} results at {', '.join(next(iter(run.values())))}")
    bad = differences(runs)
    print("\n".join(bad) or f"the same bits from {', '.join(runs) or 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
