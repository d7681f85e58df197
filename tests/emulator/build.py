"""Compiles bind_<family>.cpp and the runtime into a Python module, once per content of the sources.

    from emulator.build import load
    boxes = load("boxes")                 # or load("boxes", "asan")

A module is rebuilt when the compiler, the flags or any file it included has changed. SSD_EMULATOR_VARIANT
chooses the variant where none is named; SSD_EMULATOR_CACHE the folder (default: build/emulator).
"""

import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
ROOT = TESTS.parent
RUNTIME = ("fiber", "scheduler", "meetings", "clusters", "memory", "module", "access", "hooks")
RUNTIME += ("undefined", "device")

COMMON = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-g1"]
# Unique symbols would be shared by every module of the process: its shared memory, its state.
COMMON += ["-fno-gnu-unique", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unused-parameter"]
COMMON += ["-Wno-missing-field-initializers", "-Wno-unknown-pragmas", "-Wno-psabi", "-DSSD_CUDA_EMULATE"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
SANITIZERS += ["-fno-sanitize=null,vptr,object-size"]  # ASan sees these; they double compile time
# g++ puts a call before every access, and where a result would be undefined; hooks.cpp and undefined.cpp
# answer them. Neither libtsan nor libubsan is linked.
TRACED = ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
TRACED += ["-fsanitize=bounds,shift,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow"]
# For each variant: the flags of the kernels, of the runtime, of the linker.
VARIANTS = {
    "plain": (["-O1"], ["-O2"], []),
    "checked": (["-O1", *TRACED], ["-O2", "-DEMULATOR_CHECKED"], []),
    "ucontext": (["-O1"], ["-O2", "-DEMULATOR_UCONTEXT"], []),  # as on processors other than x86-64
    "asan": (["-O1", *SANITIZERS], ["-O1", *SANITIZERS], SANITIZERS),
    "coverage": (["-O0", "--coverage", "-fprofile-update=single"], ["-O2"], ["--coverage"]),
}


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def cache_folder() -> Path:
    return Path(os.environ.get("SSD_EMULATOR_CACHE", ROOT / "build" / "emulator"))


def default_variant() -> str:
    return os.environ.get("SSD_EMULATOR_VARIANT", "checked")


@functools.cache
def _versions() -> str:
    """Of what is included but not hashed: the compiler with its headers, pybind11, Python."""
    import pybind11

    version = subprocess.run([compiler(), "-v"], capture_output=True, text=True).stderr
    return f"{version}{pybind11.__version__}{sys.version}"


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _compile(source: Path, target: Path, flags: list[str]) -> None:
    """Compiles source to target unless the note beside it says that no file it read has changed."""
    note = target.with_suffix(".json")
    depends = target.with_suffix(".d")
    command = [compiler(), *flags, "-c", str(source), "-o", str(target), "-MMD", "-MF", str(depends)]
    try:
        known = json.loads(note.read_text())
        same = known["command"] == command and known["versions"] == _versions()
        if same and all(_digest(f) == d for f, d in known["files"].items()):
            return
    except (OSError, ValueError, KeyError):
        pass
    note.unlink(missing_ok=True)
    _run(command)
    files = depends.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    note.write_text(
        json.dumps({"command": command, "versions": _versions(), "files": {f: _digest(f) for f in files}})
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    if done.stderr.strip():
        print(done.stderr, file=sys.stderr)


@dataclass(frozen=True)
class Target:
    """Something to link from one source and the runtime."""

    source: Path
    output: Path
    flags: tuple[str, ...]
    link: tuple[str, ...]


def _module(family: str, variant: str) -> Target:
    import pybind11

    name = f"emulated_{family}_{variant}"  # CPython keeps one module per name
    flags = ("-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"])
    output = cache_folder() / variant / f"{name}.so"
    return Target(
        HERE / f"bind_{family}.cpp", output, (*flags, f"-DEMULATOR_MODULE_NAME={name}"), ("-shared",)
    )


def _make(targets: list[Target], variant: str) -> None:
    """Brings targets up to date, compiling on two cores."""
    if not shutil.which(compiler()):
        raise RuntimeError(
            f"the emulator needs a C++20 compiler: install g++ or name one in CXX (now {compiler()})"
        )
    kernel_flags, runtime_flags, link_flags = VARIANTS[variant]
    folder = cache_folder() / variant
    folder.mkdir(parents=True, exist_ok=True)
    include = ["-I", str(TESTS), "-I", str(ROOT / "csrc")]
    runtime = [folder / f"{part}.o" for part in RUNTIME]
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jobs = [
            (t.source, t.output.with_suffix(".o"), [*COMMON, *kernel_flags, *include, *t.flags])
            for t in targets
        ]
        jobs += [(HERE / f"{o.stem}.cpp", o, [*COMMON, *runtime_flags]) for o in runtime]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: _compile(*job), jobs))
        for target in targets:
            objects = [*runtime, target.output.with_suffix(".o")]
            newest = max(o.stat().st_mtime_ns for o in objects)
            if target.output.exists() and target.output.stat().st_mtime_ns >= newest:
                continue
            fresh = target.output.with_suffix(".new")
            _run([compiler(), *target.link, *link_flags, *map(str, objects), "-o", str(fresh)])
            fresh.rename(target.output)


def families() -> list[str]:
    """Every family with a binding."""
    return sorted(path.stem.removeprefix("bind_") for path in HERE.glob("bind_*.cpp"))


@functools.cache
def suite() -> list[str]:
    """The files of the tests that run emulated kernels."""
    texts = {path: path.read_text() for path in sorted(TESTS.glob("test_*.py"))}
    return [str(p) for p, text in texts.items() if "emulator.harness" in text and "kernels(" in text]


def run_suite(variant: str, arguments: list[str], **more: str) -> int:
    """pytest on all cores, with kernels of a variant and more environment; its exit code."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "SSD_EMULATOR_VARIANT": variant, "PYTHONPATH": paths, **more}
    cores = ["-n", str(min(8, os.cpu_count() or 1))]
    command = [sys.executable, "-m", "pytest", *cores, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def build(family: str, variant: str | None = None) -> Path:
    """The path of the module of bind_<family>.cpp, built if need be."""
    variant = variant or default_variant()
    target = _module(family, variant)
    _make([target], variant)
    return target.output


def build_program(name: str, variant: str | None = None) -> Path:
    """The path of the program of <name>.cpp, which has a main of its own."""
    variant = variant or default_variant()
    target = Target(HERE / f"{name}.cpp", cache_folder() / variant / f"{name}.bin", (), ())
    _make([target], variant)
    return target.output


def load(family: str, variant: str | None = None) -> ModuleType:
    """The module that exposes the launchers of a family."""
    path = build(family, variant)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    chosen = default_variant()
    _make([_module(family, chosen) for family in sys.argv[1:] or families()], chosen)
