"""What every kernel takes of a multiprocessor: registers, shared memory, occupancy. Writes KERNELS.md.

    python -m benchmarks.kernel_table           # needs nvcc, not a card; minutes where nothing is known yet

The figures are what ``nvcc -Xptxas -v`` says of the shipped instantiations, for every architecture that a
build serves; the bytes come from BYTES below. KERNELS.md holds a digest of each family's sources, so that a
test can tell whether it is of today without compiling for all of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from build_support import archs

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("SSD_KERNEL_CACHE", ROOT / "build" / "kernels"))
TABLE = ROOT / "benchmarks" / "KERNELS.md"
STABLE_ABI = "0x020b000000000000"

# Bytes a kernel must move, each read or written once. T: bytes of an element, 4 for float.
BYTES = {
    "iou_kernel": "4 T (N + M) read, T N M written",
    "coder_kernel": "8 T a row read (12 T with variances or backward), 4 T written",
    "priors_kernel": "4 T a prior written",
    "group_kernel": "4 T a prior read; 8 T a group of 32, 8 B a truth written",
    "match_kernel": "4 T a prior, 8 T a group, 4 T + 8 B a truth and warp read; 4 B a prior, 8 B a key",
    "cluster_match_kernel": "8 T a prior, 4 T + 8 B a truth and block read; 4 B a prior written",
    "claim_kernel": "16 B a truth read, 8 B and 4 B of codes written; in fp64 a search as in pair_kernel",
    "pair_kernel": "16 B a truth read, 8 B written; 8 T a group and 4 T a prior of those evaluated a search",
    "scan_kernel": "T B P C read; keys of the slices written (8 B, 16 B in fp64)",
    "values_kernel": "the values written",
    "image_kernel": "keys of the slices, 8 T a decoded candidate read; 40 B a row written",
    "soft_nms_kernel": "2 T a prior and list read, else a column; 40 B a candidate written",
    "choose_kernel": "8 T a box and choice of its class read, from L2; 6 T + 4 B a box written",
    "matrix_kernel": "6 T + 8 B a box and block of 128 read, from L2; T a box written",
    "place_kernel": "N keys a block read, from L2; 8 B + T a row written",
    "rank_kernel": "keys of an image's lists read; 40 B a row written",
    "top_k_kernel": "T a key read, 1 B written; rows longer than shared memory in each pass",
    "hard_negatives_kernel": "T + 2 B a key read, 1 B written; rows longer than shared memory in each pass",
    "batch_clear_kernel": "8 KB a digit written",
    "batch_keys_kernel": "T + 2 B a key read, 4 B written (8 B in fp64)",
    "batch_digit_kernel": "4 B a key read (8 B in fp64); 8 KB a block added, in L2",
    "batch_tie_kernel": "4 B a key read (8 B in fp64), 4 B a block written and read",
    "batch_mask_kernel": "4 B a key read (8 B in fp64), 1 B written",
    "batch_totals_kernel": "48 B a tile read, 48 B an image written and read",
    "batch_sums_kernel": "4 B P read, two losses written",
    "keys_kernel": "B P (C T + 4) read, 4 B P written; the zeros of a gradient, B P C T",
    "keys_beside_match_kernel": "as keys_kernel",
    "select_kernel": "4 B P read, two losses written; rows longer than shared memory in each pass",
    "backward_kernel": "8 B P and C T a row that counts read, 4 B P T and C T a row that counts written",
    "focal_rows_kernel": "4 B a row, 8 T at each localized one read, 13 B a row written",
    "focal_sigmoid_kernel": "B P (C T + 4) read, 8 B a chunk of 1024 written",
    "focal_softmax_kernel": "B P (C T + 4) read, 3 T + 8 B a row written",
    "focal_total_kernel": "9 B a row and 8 B a chunk, or 17 B a row, read",
    "focal_slope_kernel": "B P (C T + 4) (softmax: 3 T a row more) read, B P C T written",
    "focal_loc_kernel": "4 B a row, 8 T at each localized one read, 4 T a row written",
    "fusion_take_kernel": "5 T + 1 B a box read, 6 T + 8 B written",
    "fusion_fuse_kernel": "12 B a box of the image, then 5 T a cluster of its label for each, from L2",
    "fusion_place_kernel": "N keys of the image a block read, from L2; 5 T + 12 B a row written",
    "fusion_follow_kernel": "8 B a box read, 8 B written",
    "nms_tile_kernel": "(5 T + 8) N read (T N for one panel), 8 N written (16 N in fp64), 4 B a bin",
    "nms_merge_kernel": "8 B an item and step of a search, from L1 and L2; 8 N written",
    "nms_gather_kernel": "8 B a step of a search, (4 T + 16) N read, (4 T + 21) N and 24 B a bin written",
    "nms_pairs_kernel": "8 T B a box and 32 others read, from L2, 4 B written: P^2 / 16 B of P boxes",
    "nms_settle_kernel": "P^2 / 16 B read by one block; P B written",
    "nms_sweep_kernel": "4 T + 1 B a box of the first panel for 16, from L2; 4 T + 13 B a listed box written",
    "nms_clear_kernel": "4 T + 5 B a box, 8 B a cell, 4 T a kept box tested; 4 T + 13 B a listed box written",
    "nms_decide_kernel": "4 T + 9 B a box, 8 B a cell, 4 T + 4 B a pair, 1 B a look; 4 T + 9 B a kept box",
    "nms_resolve_kernel": "4 B; where boxes are left: 1 B a box of the panel, 132 B a list and round",
    "nms_compact_kernel": "N a block and 5 N read, 8 B a row written",
}


@dataclass(frozen=True)
class Multiprocessor:
    """What bounds the number of resident warps."""

    warps: int = 64
    blocks: int = 32
    registers: int = 65536
    shared: int = 0
    shared_reserved: int = 1024  # per block


KB = 1024
# CUDA programming guide, "Technical Specifications per Compute Capability".
MULTIPROCESSORS = {
    "sm_75": Multiprocessor(warps=32, blocks=16, shared=64 * KB, shared_reserved=0),
    "sm_80": Multiprocessor(shared=164 * KB),
    "sm_86": Multiprocessor(warps=48, blocks=16, shared=100 * KB),
    "sm_87": Multiprocessor(warps=48, blocks=16, shared=164 * KB),
    "sm_90": Multiprocessor(shared=228 * KB),
    "sm_100": Multiprocessor(shared=228 * KB),
    "sm_110": Multiprocessor(warps=48, blocks=24, shared=228 * KB),
    "sm_120": Multiprocessor(warps=48, blocks=24, shared=100 * KB),
}
SHIPPED = sorted(
    ("sm_" + arch.removesuffix("+PTX").replace(".", "") for arch in archs.SERVED + archs.SERVED_ON_ARM),
    key=lambda name: int(name[3:]),
)
COMPILED_IN_TESTS = (SHIPPED[0], SHIPPED[-1])  # the others by the digest alone: they take minutes


@dataclass(frozen=True)
class Kernel:
    family: str
    name: str  # as in the source, with template arguments
    arch: str
    registers: int
    shared: int  # static, bytes
    stack: int
    spills: int
    block: int  # the __launch_bounds__, 0 where there is none

    @property
    def local(self) -> int:
        """Bytes of local memory a thread: what did not fit in registers."""
        return max(self.stack, self.spills)

    @property
    def occupancy(self) -> float:
        """Resident warps over the maximum, as registers, static shared memory and the block size allow."""
        sm = MULTIPROCESSORS[self.arch]
        block = self.block or 1024
        warps = -(-block // 32)
        per_warp = -(-self.registers * 32 // 256) * 256
        by_registers = sm.registers // 4 // per_warp * 4 // warps  # each quarter has its own register file
        by_shared = sm.shared // max(self.shared + sm.shared_reserved, 1)  # sm_75 reserves nothing
        return min(sm.blocks, sm.warps // warps, by_registers, by_shared) * warps / sm.warps


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, or the one a wrapper on PATH stands for, or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = os.path.join(home, "bin", "nvcc") if home else shutil.which("nvcc")
    if not nvcc or not os.path.exists(nvcc):
        return None
    dry = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    top = re.search(r"TOP=(\S+)", dry)
    return os.path.realpath(os.path.join(top.group(1), "bin", "nvcc")) if top else nvcc


def _release() -> str:
    told = subprocess.run([find_nvcc() or "nvcc", "--version"], capture_output=True, text=True).stdout
    return re.search(r"release (\d+\.\d+)", told).group(1)


def families() -> list[str]:
    return sorted(path.parents[1].name for path in (ROOT / "csrc").glob("*/cuda/*_cuda.cu"))


def parse(family: str, log: str, blocks: dict[str, int]) -> list[Kernel]:
    """Kernels of a log of ptxas -v. blocks: the threads of a block by mangled name."""
    kernels = []
    for entry in re.split(r"Compiling entry function ", log)[1:]:
        mangled, arch = re.match(r"'(\S+)' for '(\S+)'", entry).groups()
        # "Function properties" also appears for functions that are called, not inlined: their frames count.
        frames = re.findall(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", entry
        )
        used = re.search(r"Used (\d+) registers(.*)", entry)
        shared = re.search(r"(\d+) bytes smem", used.group(2))
        kernels.append(
            Kernel(
                family,
                readable(mangled),
                arch,
                registers=int(used.group(1)),
                shared=int(shared.group(1)) if shared else 0,
                stack=sum(int(frame[0]) for frame in frames),
                spills=sum(int(frame[1]) + int(frame[2]) for frame in frames),
                block=blocks.get(mangled, 0),
            )
        )
    return sorted(kernels, key=lambda k: (k.name, k.arch))


def readable(mangled: str) -> str:
    """coder_kernel<float, 1>: the kernel's name and template arguments alone."""
    name = mangled
    if shutil.which("c++filt"):
        name = subprocess.run(["c++filt", mangled], capture_output=True, text=True).stdout.strip()
    name = re.sub(r"^void ", "", name)
    name = re.sub(r"\(anonymous namespace\)::|ssd_cuda::", "", name)
    name = re.sub(r"\((?:\w|::)+\)(-?\d+)", r"\1", name)  # (CoderOp)1 -> 1
    depth = 0
    for i, character in enumerate(name):  # cut at the parameter list
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:i]
    return name


def launch_bounds(ptx: str) -> dict[str, int]:
    """Threads of a block by mangled name, from .maxntid."""
    found = {}
    for entry in re.split(r"\.entry ", ptx)[1:]:
        head = entry.split("{", 1)[0]
        bounds = re.search(r"\.maxntid (\d+)(?:, (\d+), (\d+))?", head)
        if bounds:
            x, y, z = (int(part or 1) for part in bounds.groups())
            found[re.match(r"\w+", entry).group()] = x * y * z
    return found


def compilation(family: str, arch: str, cubin: Path) -> list[str]:
    """The command that compiles a family's kernels for an architecture."""
    source = ROOT / "csrc" / family / "cuda" / f"{family}_cuda.cu"
    command = [find_nvcc() or "nvcc", "-cubin", "-std=c++20", "-O3", f"-arch={arch}"]
    command += [f"-DTORCH_TARGET_VERSION={STABLE_ABI}", "-I", str(ROOT / "csrc")]
    for path in _torch_includes():
        command += ["-isystem", path]
    return [*command, str(source), "-o", str(cubin)]


def measure(family: str, arch: str) -> list[Kernel]:
    """Every kernel of a family on an architecture; compiled once per content of the sources."""
    folder = CACHE / f"{family}.{arch}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # of processes that want the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _measure(family, arch, folder)


def _measure(family: str, arch: str, folder: Path) -> list[Kernel]:
    source = ROOT / "csrc" / family / "cuda" / f"{family}_cuda.cu"
    note = CACHE / f"{family}.{arch}.json"
    nvcc = find_nvcc()
    try:
        known = json.loads(note.read_text())
        same = known["nvcc"] == nvcc and all(_digest(path) == d for path, d in known["files"].items())
        if same and any(folder.glob("*.ptx")):
            return [Kernel(**kernel) for kernel in known["kernels"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    depends = folder / "depends"
    command = compilation(family, arch, folder / "kernels.cubin")
    command += ["-Xptxas", "-v", "-MMD", "-MF", str(depends), "--keep", "--keep-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc cannot compile {source.name} for {arch}:\n{done.stderr}")
    blocks: dict[str, int] = {}
    for ptx in folder.glob("*.ptx"):
        blocks |= launch_bounds(ptx.read_text())
    kernels = parse(family, done.stdout + done.stderr, blocks)
    files = depends.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    content = {path: _digest(path) for path in files}
    note.write_text(json.dumps({"nvcc": nvcc, "files": content, "kernels": [asdict(k) for k in kernels]}))
    for path in folder.iterdir():
        if path.suffix != ".ptx" and path.name != "lock":
            path.unlink()
    return kernels


def ptx(family: str, arch: str) -> str:
    """What nvcc made of a family's kernels before ptxas."""
    measure(family, arch)
    return "\n".join(path.read_text() for path in sorted((CACHE / f"{family}.{arch}").glob("*.ptx")))


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def sources(family: str) -> list[Path]:
    """What a family's kernels are: their .cuh and all of csrc that this includes.

    Not the binding: torch's side chooses kernels and does not change them.
    """
    found: list[Path] = []
    waiting = [ROOT / "csrc" / family / "cuda" / f"{family}.cuh"]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
            place = ROOT / "csrc" / name if "/" in name else path.parent / name
            waiting += [place] if place.exists() else []  # the emulator's headers are not in csrc
    return sorted(found)


def digest(family: str) -> str:
    """Of a family's kernels without comments and layout: it changes when they may have."""
    whole = hashlib.sha256()
    for path in sources(family):
        whole.update("".join(re.sub(r"//[^\n]*", "", path.read_text()).split()).encode())
    return whole.hexdigest()[:12]


def _torch_includes() -> list[str]:
    import torch

    include = Path(torch.__file__).parent / "include"
    return [str(include), str(include / "torch" / "csrc" / "api" / "include")]


def measure_all(wanted: Sequence[str] = SHIPPED) -> list[Kernel]:
    """Every kernel on the architectures, family by family, sorted by name, then as the architectures are."""
    jobs = [(family, arch) for family in families() for arch in wanted]
    with ThreadPoolExecutor(2) as pool:
        found = [kernel for kernels in pool.map(lambda job: measure(*job), jobs) for kernel in kernels]
    return sorted(found, key=lambda k: (k.family, k.name, wanted.index(k.arch)))


def bytes_moved(kernel: Kernel) -> str:
    return BYTES.get(kernel.name.split("<")[0], "")


def _side_by_side(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def modelled_times() -> dict[str, str]:
    """Microseconds of each kernel that was counted, by its name here."""
    from . import model  # which reads the PTX from here

    kernels = model.counted()
    growth = model.growths_of_today(kernels)
    found: dict[str, str] = {}
    for count in kernels:
        time = model.time_of(count, model.CARDS["H100"], growth=growth.get(count["kernel"], 1.0))
        found.setdefault(count["name"], f"{1e6 * time.total:.1f}")
    return found


def markdown(kernels: list[Kernel]) -> str:
    """The whole of KERNELS.md: one line a kernel, the architectures side by side."""
    names = " / ".join(dict.fromkeys(k.arch for k in kernels))
    local = ", ".join(dict.fromkeys(f"`{k.name}`" for k in kernels if k.local)) or "none"
    lines = [
        "# Kernels",
        "",
        f"Generated by `python -m benchmarks.kernel_table` from `nvcc -Xptxas -v` of CUDA {_release()};",
        f"{names}, one figure where they agree.",
        "Occupancy is theoretical: what registers, static shared memory and the block size allow. Dynamic",
        "shared memory is chosen at launch and not counted. Local: bytes a thread that did not fit in",
        "registers. Bytes are what must be moved, T bytes an element. Modelled: microseconds on an H100 by",
        "`benchmarks/model.py`, not measured, of a launch at 32 images, 8732 priors, 81 classes, 7 truths or",
        "10,000 boxes, where a card has counted the instructions.",
        "",
        f"Kernels with local memory on some architecture: {local}.",
        "",
        "Sources: " + ", ".join(f"{family} `{digest(family)}`" for family in families()) + ".",
        "",
        "| family | kernel | block | registers | local | static shared | occupancy | modelled | bytes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    modelled = modelled_times()
    for family, name in dict.fromkeys((k.family, k.name) for k in kernels):
        rows = [k for k in kernels if (k.family, k.name) == (family, name)]
        local = _side_by_side(k.local for k in rows)
        lines.append(
            f"| {family} | `{name}` | {rows[0].block or ''} | {_side_by_side(k.registers for k in rows)} "
            f"| {'' if local == '0' else local} | {_side_by_side(k.shared for k in rows)} "
            f"| {_side_by_side(f'{100 * k.occupancy:.0f}%' for k in rows)} "
            f"| {modelled.get(name, '')} | {bytes_moved(rows[0])} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    if not find_nvcc():
        sys.exit("kernel_table: nvcc is not there: put it on PATH or set CUDA_HOME to the CUDA toolkit")
    TABLE.write_text(markdown(measure_all()))
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
