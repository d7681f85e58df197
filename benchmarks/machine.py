"""The machine of a run: what it is, and whether others worked on it meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import ssd_cuda

BUSY = 0.1  # of the cores: from here on others disturb a measurement


class Neighbours:
    """Share of the cores that other processes take while this one measures; 0 where Linux does not tell."""

    def __init__(self) -> None:
        self.start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds since some moment: of the clock, of all cores at work, of this process and its children."""
        stat = Path("/proc/stat")
        own = sum(os.times()[:4])
        if not stat.exists():
            return time.monotonic(), own, own
        user, nice, system, _, _, irq, softirq, steal, *_ = map(
            int, stat.read_text().split("\n")[0].split()[1:]
        )
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, own

    def share(self) -> float:
        wall, busy, own = (now - then for now, then in zip(self._now(), self.start, strict=True))
        if wall < 0.1:  # the kernel counts in hundredths of a second
            return 0.0
        return min(1.0, max(0.0, (busy - own) / (wall * (os.cpu_count() or 1))))


def _shell(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit, "dirty" where files differ from it; without git, a hash of the sources."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    own = (root / ".git").exists()  # a copy without one may lie inside another repository
    found = _shell("git", "describe", "--always", "--dirty", "--exclude=*") if own else ""
    if found := found or os.environ.get("SSD_COMMIT", ""):
        return found
    for path in sorted([*root.glob("csrc/**/*"), *root.glob("ssd_cuda/**/*.py")]):
        if path.is_file():
            digest.update(path.read_bytes())
    return f"unknown, sources {digest.hexdigest()[:10]}"


def _card() -> dict[str, str]:
    """Name, driver and clocks (now, and at most) of the card."""
    names = {
        "driver_version": "driver",
        "clocks.sm": "SM clock",
        "clocks.max.sm": "of",
        "clocks.mem": "memory",
    }
    found = _shell("nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader").split("\n")[0]
    values = [value.strip() for value in found.split(",")]
    told = dict(zip(names.values(), values, strict=True)) if len(values) == len(names) else {}
    return {"card": torch.cuda.get_device_name(), **told}


def environment() -> dict[str, Any]:
    """The conditions of a run: machine, card, versions, commit, build, and how busy the machine was."""
    build = ssd_cuda.build_info()
    header = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "build": {key: build[key] for key in ("torch_built_with", "cuda", "cuda_archs", "simd", "compiler")},
    }
    if torch.cuda.is_available():
        header["gpu"] = _card()
    return header


if __name__ == "__main__":  # for gpu_check, whose own process was there before the build
    print(json.dumps(environment()))
