"""Runs something at every instruction set of this processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ssd_cuda


def at_every_level(call: Callable[[], Any]) -> list[Any]:
    """What ``call`` returns at each level, best first; the level that was in use before is in use after."""
    before, results = ssd_cuda.simd_level(), []
    try:
        for level in ssd_cuda.build_info()["simd_levels"]:
            ssd_cuda.set_simd_level(level)
            assert ssd_cuda.simd_level() == level
            results.append(call())
    finally:
        ssd_cuda.set_simd_level(before)
    return results
