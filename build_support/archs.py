"""Which CUDA architectures are compiled: TORCH_CUDA_ARCH_LIST as torch means it, or all that are served."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .switches import stop

# Binaries run on later minors of their major (8.6 serves 8.9, 10.0 serves 10.3); Tegra needs its own, or PTX.
SERVED = ("7.5", "8.0+PTX", "8.6", "9.0", "10.0", "12.0")
SERVED_ON_ARM = ("8.7", "11.0")  # Orin and Thor, whose hosts are Arm
# The names of torch.utils.cpp_extension and of CMake's FindCUDA; an nvcc that lacks a number says so.
NAMES = {
    "kepler+tesla": "3.7",
    "kepler": "3.5+PTX",
    "maxwell+tegra": "5.3",
    "maxwell": "5.0;5.2+PTX",
    "pascal": "6.0;6.1+PTX",
    "volta+tegra": "7.2",
    "volta": "7.0+PTX",
    "turing": "7.5+PTX",
    "ampere+tegra": "8.7",
    "ampere": "8.0;8.6+PTX",
    "ada": "8.9+PTX",
    "hopper": "9.0+PTX",
    "blackwell+tegra": "11.0",
    "blackwell": "10.0;10.3;12.0;12.1+PTX",
    "rubin": "10.7+PTX",
}
NUMBER = re.compile(r"(\d{1,2})\.?(\d)([af]?)(\+PTX)?", re.IGNORECASE)
Version = tuple[int, int]


def parse_known(listed: str) -> list[Version]:
    """The answer of ``nvcc --list-gpu-arch`` as versions, oldest first."""
    return sorted((int(a), int(b)) for a, b in re.findall(r"compute_(\d+)(\d)\b", listed))


def served(known: Sequence[Version], machine: str) -> list[str]:
    """All architectures of a build that is given away: those this nvcc knows, with PTX of the newest."""
    wanted = SERVED + (SERVED_ON_ARM if machine in ("aarch64", "arm64") else ())
    found = sorted((arch for arch in wanted if _version(arch) in known), key=_version)
    if not found:
        stop(
            f"this nvcc compiles {_names(known) or 'no architecture'}, none of which is served by default "
            f"({', '.join(wanted)}): name yours in TORCH_CUDA_ARCH_LIST"
        )
    return [*found[:-1], found[-1].removesuffix("+PTX") + "+PTX"]


def native(known: Sequence[Version], cards: Sequence[Version]) -> list[str]:
    """The architectures of the cards, PTX of the newest; for a card newer than nvcc knows, nvcc's newest."""
    if not cards:
        stop(
            "TORCH_CUDA_ARCH_LIST=native needs a card that this torch can use, and there is none: name its "
            "architecture, as in TORCH_CUDA_ARCH_LIST=8.6"
        )
    found = [f"{a}.{b}" for a, b in sorted({min(card, max(known)) for card in cards})]
    return [*found[:-1], found[-1] + "+PTX"]


def parse(listed: str, known: Sequence[Version], cards: Sequence[Version] = ()) -> list[str]:
    """TORCH_CUDA_ARCH_LIST as a list of "9.0", "9.0a", "10.0f", "8.6+PTX"; any other word ends the build.

    listed: numbers with or without a dot, torch's names, ``All`` and ``native``, between ";", "," or spaces.
    """
    found: list[str] = []
    for word in filter(None, re.split(r"[;, ]+", listed)):
        if word.lower() == "all":
            found += [f"{a}.{b}" for a, b in known[:-1]] + ["{}.{}+PTX".format(*known[-1])]
        elif word.lower() == "native":
            found += native(known, cards)
        elif word.lower() in NAMES:
            found += NAMES[word.lower()].split(";")
        else:
            found.append(_number(word, known))
    for arch in found:
        if _version(arch) not in known:
            stop(f"TORCH_CUDA_ARCH_LIST names {arch}, but this nvcc compiles {_names(known)}")
    if not found:
        stop(f"TORCH_CUDA_ARCH_LIST names no architecture, got {listed!r}")
    return list(dict.fromkeys(found))


def gencode(archs: Sequence[str]) -> list[str]:
    """nvcc's flags: a binary of each, PTX where it is asked for."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        codes = [f"sm_{number}"] + [f"compute_{number}"] * arch.endswith("+PTX")
        flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
    return flags


def _number(word: str, known: Sequence[Version]) -> str:
    matched = NUMBER.fullmatch(word)
    if not matched:
        stop(
            "TORCH_CUDA_ARCH_LIST must hold numbers like 8.6, 9.0a or 12.0+PTX, names like Hopper, All or "
            f"native, got {word!r}; this nvcc compiles {_names(known)}"
        )
    major, minor, kind, ptx = matched.groups()
    kind = kind.lower()
    oldest = {"": 0, "a": 9, "f": 10}[kind]
    if int(major) < oldest:
        stop(f"TORCH_CUDA_ARCH_LIST names {word}, but '{kind}' exists from {oldest}.0 on")
    return f"{major}.{minor}{kind}{'+PTX' if ptx else ''}"


def _version(arch: str) -> Version:
    major, minor = re.match(r"(\d+)\.(\d)", arch).groups()  # type: ignore[union-attr]
    return int(major), int(minor)


def _names(known: Sequence[Version]) -> str:
    return ", ".join(f"{a}.{b}" for a, b in known)
