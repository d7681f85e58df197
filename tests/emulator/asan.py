"""Runs the emulated suite with kernels built by AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/emulator/asan.py [pytest arguments]

Python itself is not built so: the runtime is preloaded. A defect ends the process with its report.
"""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulator.build import ROOT, TESTS, compiler


def library(name: str) -> str:
    """The full path of a library of the compiler."""
    return subprocess.run(
        [compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    tests = sys.argv[1:] or [str(path) for path in sorted(TESTS.glob("test_emulated_*.py"))]
    environment = {
        **os.environ,
        "SSD_EMULATOR_VARIANT": "asan",
        # libstdc++ too: the runtime must see it to catch what it throws.
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
