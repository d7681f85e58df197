"""Plants the faults of table.py one at a time, and says which of them the suite notices.

    python tests/mutants/run.py               # every family: minutes
    python tests/mutants/run.py nms boxes     # two of them; --build only compiles
    python tests/mutants/run.py multibox --only backward:

All faults are compiled at once into a copy of the tree, each behind a switch: ``old`` becomes
``ssd_mutant(7) ? new : old`` (a statement: ``if``), and the environment variable SSD_MUTANT chooses. A fault
is caught when its tests fail with it, or their process dies; without one they must pass. The emulated
kernels run without the checker of accesses first, which is several times faster, and with it where a fault
gets through. Exit code 1: one got away.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TREE = ROOT / "build" / "mutants" / "tree"
WITHOUT = ROOT / "build" / "without_a_fault.log"
LIMIT = 600  # seconds of a processor, of a fault that never ends
ASLEEP = 6 * LIMIT  # seconds by the clock, of one that waits: on a busy machine a right test is slow too

HEADER = """
#pragma once
#include <cstdlib>
// Hidden from the access checker: it is asked in every kernel.
__attribute__((weak, noinline, visibility("hidden"), no_sanitize("thread")))
bool ssd_mutant(int number) {
  static int chosen = -1;
  if (chosen < 0) {
    const char* text = std::getenv("SSD_MUTANT");
    chosen = text ? std::atoi(text) : 0;
  }
  return chosen == number;
}
"""
MODULE = """
import os


def ssd_mutant(number):
    return os.environ.get("SSD_MUTANT") == str(number)
"""


def native(path: Path) -> bool:
    return path.suffix != ".py"


def locate(mutant, files: dict[Path, str]) -> tuple[Path, int, int]:
    """The one file in which the context of a fault occurs, once; the place of what it replaces."""
    before, old, after = mutant.parts()
    text = before + old + after
    found = [path for path, content in files.items() for _ in range(content.count(text))]
    if len(found) != 1:
        raise SystemExit(f"mutants: {mutant.old!r} occurs {len(found)} times: the table is out of date")
    begin = files[found[0]].index(text) + len(before)
    return found[0], begin, begin + len(old)


def switched(path: Path, old: str, choices: list[tuple[int, str]]) -> str:
    """``old`` with its faults behind switches."""
    text = old
    for number, new in choices:
        if not native(path):
            text = f"(({new}) if ssd_mutant({number}) else ({text}))"
        elif old.rstrip().endswith(";"):
            # One statement between braces, so that an else before or behind it still finds its own if.
            text = f"{{ if (ssd_mutant({number})) {{ {new} }} else {{ {text} }} }}"
        else:
            text = f"(ssd_mutant({number}) ? ({new}) : ({text}))"
    return text


def plant(mutants) -> None:
    """Copies the tree with every fault in it; a file that is the same already keeps its date."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    contents = {Path(name): (ROOT / name).read_bytes() for name in names if name and (ROOT / name).is_file()}
    suffixes = {".h", ".cuh", ".cpp", ".py"}
    code = {
        path: content.decode()
        for path, content in contents.items()
        if path.parts[0] in ("csrc", "ssd_cuda") and path.suffix in suffixes
    }
    places: dict[tuple[Path, int, int], list[tuple[int, str]]] = defaultdict(list)
    for number, mutant in enumerate(mutants, 1):
        places[locate(mutant, code)].append((number, mutant.new))
    for (path, begin, end), choices in sorted(places.items(), reverse=True):
        content = code[path]
        code[path] = content[:begin] + switched(path, content[begin:end], choices) + content[end:]
    for path in {path for path, _, _ in places if not native(path)}:
        head, future, rest = code[path].partition("from __future__ import annotations\n")
        code[path] = f"{head}{future}\nfrom ssd_cuda._mutant import ssd_mutant\n{rest}"
    contents |= {path: text.encode() for path, text in code.items()}
    contents[Path("mutant.h")] = HEADER.encode()
    contents[Path("ssd_cuda/_mutant.py")] = MODULE.encode()
    build = Path("tests/emulator/build.py")
    contents[build] += f'\nCOMMON += ["-include", "{TREE}/mutant.h"]\n'.encode()
    for path, content in contents.items():
        target = TREE / path
        if target.exists() and target.read_bytes() == content:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        shutil.copymode(ROOT / path, target) if (ROOT / path).exists() else None


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(TREE), str(TREE / "tests")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


def build(families: list[str]) -> None:
    """The extension for the CPU, and the emulated kernels of the families."""
    flags = environment(SSD_CUDA_CPU_ONLY="1", CFLAGS=f"-include {TREE}/mutant.h")
    with open(TREE / "build.log", "w") as log:
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        if subprocess.run(command, cwd=TREE, env=flags, stdout=log, stderr=log).returncode:
            raise SystemExit(f"mutants: the extension does not compile: see {TREE}/build.log")
    code = "import sys; from emulator import build; [build._make([build._module(f, variant)"
    code += " for f in sys.argv[1:]], variant) for variant in ('plain', 'checked')]"
    command = [sys.executable, "-c", code, *filter(emulated, families)]
    subprocess.run(command, cwd=TREE, env=environment(), check=True)


def emulated(family: str) -> bool:
    return (ROOT / f"tests/emulator/bind_{family}.cpp").exists()


def runs_emulated(mutant) -> bool:
    from emulator.build import suite

    return any(Path(file).name in mutant.tests for file in suite())


def passes(number: int, tests: str, variant: str) -> bool:
    """Whether the tests pass with a fault, in a process of their own, which may die of it. ``variant``: how
    the emulated kernels are compiled."""
    child = os.fork()
    if child == 0:
        import pytest

        os.environ |= {"SSD_MUTANT": str(number), "SSD_EMULATOR_VARIANT": variant}
        with open(os.devnull if number else WITHOUT, "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]))
    deadline = time.monotonic() + ASLEEP
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (2, 3, 4, 5):
                raise SystemExit(f"mutants: pytest cannot run {tests}")
            return status == 0
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def selections(tests: list[str]) -> list[str]:
    """Arguments of pytest that run all of these tests, each once: the -k of the same files become one."""
    chosen: dict[str, list[str]] = defaultdict(list)
    for one in tests:
        files, _, names = one.partition(" -k ")
        chosen[files].append(names.strip("'"))
    return [
        files if "" in names else f"{files} -k '{' or '.join(f'({name})' for name in dict.fromkeys(names))}'"
        for files, names in chosen.items()
    ]


def files_of(tests: str) -> str:
    return tests.split(" -k ")[0]


def planted(faults, tests: str, variant: str) -> set[int]:
    """The numbers of the faults that their tests notice: none where these fail without a fault."""
    if not passes(0, tests, variant):
        print(f"FAILS without a fault ({variant}, see {WITHOUT}): {tests}", flush=True)
        return set()
    caught = set()
    for number, mutant in faults:
        began = time.monotonic()
        if not passes(number, mutant.tests, variant):
            caught.add(number)
        verdict = "caught" if number in caught else f"not seen ({variant})"
        print(f"{time.monotonic() - began:6.1f} s  {mutant.family}: {mutant.what}: {verdict}", flush=True)
    return caught


def inside(families: list[str], only: str) -> int:
    """In the copy of the tree: runs the tests of each fault whose name holds ``only``; prints and counts."""
    import pytest  # noqa: F401 (what all children need is imported once)
    import torch  # noqa: F401

    import ssd_cuda  # noqa: F401
    from mutants.table import MUTANTS

    chosen = [
        (n, m) for n, m in enumerate(MUTANTS, 1) if (not families or m.family in families) and only in m.what
    ]
    caught: set[int] = set()
    for variant in ("plain", "checked"):
        left = [(n, m) for n, m in chosen if n not in caught and (variant == "plain" or runs_emulated(m))]
        for tests in selections([m.tests for _, m in left]):
            caught |= planted(
                [one for one in left if files_of(one[1].tests) == files_of(tests)], tests, variant
            )
    score: dict[str, list[bool]] = defaultdict(list)
    for number, mutant in chosen:
        score[mutant.family].append(number in caught)
        if number not in caught:
            print(f"SURVIVES: {mutant.family}: {mutant.what}")
    for family, results in sorted(score.items()):
        print(f"{family:9} {sum(results)} of {len(results)}")
    everything = [result for results in score.values() for result in results]
    print(f"{'all':9} {sum(everything)} of {len(everything)}")
    return 0 if all(everything) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Plants faults one at a time: does the suite notice?")
    parser.add_argument("families", nargs="*")
    parser.add_argument("--only", default="", metavar="WORDS", help="faults whose name holds these words")
    parser.add_argument("--build", action="store_true", help="only compile")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return inside(options.families, options.only)
    sys.path.insert(0, str(HERE.parent))
    from mutants.table import MUTANTS

    known = sorted({mutant.family for mutant in MUTANTS})
    if unknown := set(options.families) - set(known):
        raise SystemExit(f"mutants: families are {', '.join(known)}, got {', '.join(sorted(unknown))}")
    plant(MUTANTS)
    build(options.families or known)
    if options.build:
        return 0
    command = [sys.executable, str(TREE / "tests/mutants/run.py"), "--inside", *options.families]
    command += ["--only", options.only]
    with contextlib.suppress(KeyboardInterrupt):
        return subprocess.run(command, cwd=TREE, env=environment()).returncode
    return 1


if __name__ == "__main__":
    sys.exit(main())
