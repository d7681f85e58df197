"""Which cards a build serves, and what on a machine keeps its kernels from running. Nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

Version = tuple[int, int]
# Tegra (Xavier, Orin, Thor ...) runs no binary compiled for another card, and no other card runs Tegra's.
TEGRA = frozenset({(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0)})
ARCH = re.compile(r"(\d+)\.(\d)([af]?)(\+PTX)?")


class Service(NamedTuple):
    """How a build serves a card: with a binary, with PTX that the driver compiles, or not at all."""

    binary: bool
    ptx: bool

    def __bool__(self) -> bool:
        return self.binary or self.ptx


def service(archs: Sequence[str], capability: Version) -> Service:
    """How binaries and PTX of ``archs`` ("8.6", "9.0a", "10.0f", "12.0+PTX") run on a card.

    A binary runs on its own major version from its minor on, on Tegra on its own version alone. PTX runs
    on everything newer. "a" binds both to one version, "f" to one major version.
    (CUDA programming guide, "Compute capabilities" and "Family-specific features".)
    """
    binary = ptx = False
    for arch in archs:
        matched = ARCH.fullmatch(arch)
        if not matched:
            continue  # a build of other sources; a card that nothing else serves is told so
        own = int(matched[1]), int(matched[2])
        same = own == capability
        later = own[0] == capability[0] and own[1] <= capability[1]
        if matched[3] == "a":
            reach = same
        elif matched[3] == "f":
            reach = later
        else:
            reach = own <= capability
        exact = matched[3] == "a" or own in TEGRA or capability in TEGRA
        binary |= same if exact else later
        ptx |= reach and matched[4] is not None
    return Service(binary, ptx)


def driver_version() -> Version | None:
    """The CUDA version that the driver is for, or None without a driver or without CUDA in torch."""
    try:
        number = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
    except Exception:
        return None
    return (number // 1000, number % 1000 // 10) if number > 0 else None


def driver_problem(cuda: str | None, card: Service | None = None) -> str | None:
    """Why the driver cannot run kernels of a build with CUDA ``cuda``, with the remedy, or None.

    The build holds its CUDA runtime, which runs with any driver of its own major version; PTX of the build
    needs a driver as new as the build.
    """
    driver, built = driver_version(), _version(cuda)
    if driver is None or built is None or driver >= built:
        return None
    if driver[0] == built[0] and (card is None or card.binary or not card.ptx):
        return None
    return (
        f"the driver of this machine is for CUDA {driver[0]}.{driver[1]}, older than the CUDA {cuda} of this "
        f"build: update the driver, or rebuild with a CUDA toolkit of at most {driver[0]}.{driver[1]}"
    )


def problem(cuda: str | None, archs: Sequence[str], capability: Version) -> str | None:
    """Why a build cannot run on a card, with the remedy, or None."""
    arch = "{}.{}".format(*capability)
    if cuda is None:
        return (
            "this build of ssd_cuda has CPU kernels only: rebuild with nvcc on PATH or FORCE_CUDA=1, or keep "
            "the tensors on the CPU"
        )
    found = service(archs, capability)
    if not found:
        return (
            f"this build of ssd_cuda has kernels for {', '.join(archs)}, but the card is {arch}: rebuild "
            f"with TORCH_CUDA_ARCH_LIST={arch}"
        )
    return driver_problem(cuda, found)


def describe(cuda: str | None, archs: Sequence[str]) -> list[dict[str, Any]]:
    """One dict a card: ``name``, ``arch``, ``served``, and ``problem``, why its kernels cannot run."""
    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except Exception:
        return []
    return [_describe(index, cuda, archs) for index in range(count)]


def _describe(index: int, cuda: str | None, archs: Sequence[str]) -> dict[str, Any]:
    try:
        name = torch.cuda.get_device_name(index)
        capability = torch.cuda.get_device_capability(index)
    except Exception as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        return {
            "name": f"card {index}",
            "arch": None,
            "served": False,
            "problem": f"torch cannot ask it: {told}",
        }
    found = problem(cuda, archs, capability)
    arch = "{}.{}".format(*capability)
    return {"name": name, "arch": arch, "served": bool(service(archs, capability)), "problem": found}


def _version(text: str | None) -> Version | None:
    matched = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(matched[1]), int(matched[2])) if matched else None
