"""``ssd-cuda info``."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from .. import __version__
from .._extension import build_info, simd_level
from ..engine.console import say

HELP = "what was built, and what this machine runs"
PARENTS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """info has no options."""


def _simd(facts: dict[str, Any]) -> str:
    """The level in use and those there are, or why no op will run."""
    if not facts["simd_levels"]:
        return "-"
    try:
        return f"{simd_level()} (of {', '.join(facts['simd_levels'])})"
    except ValueError as error:
        return str(error)


def run(_: argparse.Namespace) -> None:
    facts = build_info()
    gpus = [
        f"{gpu['name']} ({gpu['arch'] or '?'}, {gpu['problem'] or 'served by this build'})"
        for gpu in facts["gpus"]
    ]
    rows = [
        ("ssd_cuda", __version__),
        ("extension", "loaded" if facts["available"] else f"not loaded: {facts['error']}"),
        ("torch", facts["torch"]),
        ("built with torch", facts["torch_built_with"] or "-"),
        ("CUDA of the build", facts["cuda"] or "none, CPU kernels only"),
        ("architectures", ", ".join(facts["cuda_archs"]) or "-"),
        ("compiler", facts["compiler"] or "-"),
        ("CPU instructions", _simd(facts)),
        ("CPU threads", str(torch.get_num_threads())),
        ("driver", facts["driver_problem"] or (f"for CUDA {facts['driver']}" if facts["driver"] else "none")),
        ("cards", "; ".join(gpus) or "none"),
    ]
    width = max(len(name) for name, _ in rows)
    say(*(f"{name:<{width}}  {value}" for name, value in rows))
