"""Switches of the environment, and the one way in which a build stops."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

ON, OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
NVCC_FLAGS = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
HOST_FLAGS = ("CFLAGS", "CXXFLAGS", "CPPFLAGS")
# What lets a compiler round otherwise than the source says. nvcc takes one dash or two, "=" or a space.
UNSAFE = re.compile(
    r"(?:^|[\s,=])(-{1,2}(?:use_fast_math|ftz[= ]true|prec-(?:div|sqrt)[= ]false)"
    r"|-ffast-math|-Ofast|-funsafe-math-optimizations|-fassociative-math|-freciprocal-math)(?=[\s,]|$)"
)


def stop(sentence: str) -> NoReturn:
    """End the build with one sentence and no traceback."""
    raise SystemExit(f"ssd_cuda: {sentence}")


def switch(env: Mapping[str, str], name: str) -> bool:
    """Whether the variable is on; a word that is neither on nor off is no guess to make."""
    value = env.get(name, "").strip()
    if value.lower() not in ON + OFF:
        stop(f"{name} must be one of {', '.join(ON)} or {', '.join(filter(None, OFF))}, got {value!r}")
    return value.lower() in ON


def refuse_unsafe_math(env: Mapping[str, str]) -> None:
    """The kernels promise the same bits on every device; a compiler told to approximate breaks that."""
    for name in NVCC_FLAGS + HOST_FLAGS:
        found = UNSAFE.search(env.get(name, ""))
        if found:
            stop(
                f"{name} has {found.group(1)}, with which the kernels would not give the same bits on every "
                "device, as they promise: take it out for this build"
            )
