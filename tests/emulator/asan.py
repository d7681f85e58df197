"""Runs the emulated suite with kernels built by AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/emulator/asan.py [pytest arguments]
    python tests/emulator/asan.py --share           # minutes: what goes to the ends of tensors and of blocks

Python itself is not built so: the runtime is preloaded. A defect ends the process with its report.
"""

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulator.build import compiler, run_suite, suite

# Tests by name: sizes about a block's, tensors that begin and end anywhere, memory that just fits.
SHARE = "sizes or edges or anywhere or ends_before or just_fit or long_rows or launch_takes or repeat or "
SHARE += "test_is_the_reference or compact or tiles_of or stay_where or rows_of_no_image or max_output "
SHARE += "or test_iou or encode_decode"


def library(name: str) -> str:
    """The full path of a library of the compiler."""
    return subprocess.run(
        [compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    tests = ["-k", SHARE] if sys.argv[1:] == ["--share"] else sys.argv[1:]
    if not any(re.search(r"\.py\b", argument) for argument in tests):
        tests = [*suite(), *tests]
    # libstdc++ too: the runtime must see it to catch what it throws.
    preload = f"{library('libasan.so')} {library('libstdc++.so')}"
    return run_suite("asan", tests, LD_PRELOAD=preload, ASAN_OPTIONS="detect_leaks=0")


if __name__ == "__main__":
    sys.exit(main())
