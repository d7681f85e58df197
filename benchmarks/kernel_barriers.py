"""Loops that threads of a warp leave one by one, with a barrier right behind them, in what ptxas has made.

    python -m benchmarks.kernel_barriers sm_90      # needs nvcc and cuobjdump (PyPI: nvidia-cuda-cuobjdump)

The barrier of a block or a cluster is for whole warps. Behind a loop that lanes leave at different times
ptxas brings them together again (BSYNC); that of CUDA 13.0 has left this out of a loop that ended by a flag
of four conditions, and the barrier raised an illegal instruction on an H100, though source and PTX were
right. Here a backward branch by a predicate with a barrier behind it and nothing between that joins a warp is
reported. Loops of UNIFORM end for all lanes at once.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import kernel_table

# Kernels with loops of the same length for every thread, which need nothing to join them.
UNIFORM = {
    "place_kernel": "over the keys of a tile",
    "fusion_place_kernel": "over the keys of a tile",
    "matrix_kernel": "over the boxes of a tile",
}
_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]+)\*/\s+(?:(@!?U?P\d+)\s+)?(\S+)([^;]*);")
_JOINS = ("BSYNC", "WARPSYNC", "VOTE", "SHFL", "EXIT", "RET", "CALL")


def loops_apart(sass: str) -> list[tuple[str, int, int]]:
    """(function, last instruction of the loop, barrier) of a disassembly, addresses as there."""
    found, function, loop = [], "", -1
    for line in sass.splitlines():
        begins = re.search(r"Function : (\S+)", line)
        if begins:
            function, loop = begins[1], -1
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        address, predicate, name = int(instruction[1], 16), instruction[2], instruction[3]
        if name.startswith("BRA"):
            target = re.search(r"0x([0-9a-f]+)", instruction[4])
            back = predicate and "UP" not in predicate and target and int(target[1], 16) <= address
            loop = address if back else -1
        elif name.startswith(_JOINS):
            loop = -1
        elif name.startswith(("BAR", "UCGABAR")) and loop >= 0:
            found.append((function, loop, address))
            loop = -1
    return found


def find_cuobjdump() -> str | None:
    nvcc = kernel_table.find_nvcc()
    beside = Path(nvcc).with_name("cuobjdump") if nvcc else None
    return str(beside) if beside and beside.exists() else shutil.which("cuobjdump")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_barriers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("arch", nargs="?", default="sm_90", choices=kernel_table.SHIPPED)
    options = parser.parse_args(arguments)
    cuobjdump = find_cuobjdump()
    if not kernel_table.find_nvcc() or not cuobjdump:
        sys.exit("kernel_barriers: nvcc or cuobjdump is not there: put them on PATH")
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for family in kernel_table.families():
            cubin = Path(folder) / f"{family}.cubin"
            subprocess.run(kernel_table.compilation(family, options.arch, cubin), check=True)
            sass = subprocess.run([cuobjdump, "-sass", cubin], capture_output=True, text=True, check=True)
            for function, loop, barrier in loops_apart(sass.stdout):
                name = kernel_table.readable(function)
                if name.split("<")[0] not in UNIFORM:
                    print(f"{family}: {name}: loop that ends at {loop:x}, barrier at {barrier:x}")
                    bad += 1
    print(f"{options.arch}: {bad} barriers that the threads of a warp may reach one by one")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
