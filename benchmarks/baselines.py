"""The contestants beside ours: each has one name, in tables, in charts and for ``--against``.

Their code is what the tests use as oracles, written once: ``tests/oracles`` (torchvision's methods on bare
tensors, the seed's classes, eager selections), ``ssd_cuda.reference`` and its ``dialects`` (the rule of each
codebase; ``nvidia`` is the loss of DeepLearningExamples, with two sorts), and torchvision's own ``ops``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import composed_loss, packages, seed, selection, torchvision_ssd

__all__ = [
    "NAMES",
    "chosen",
    "compiled",
    "composed_loss",
    "known",
    "packages",
    "seed",
    "selection",
    "torchvision_ssd",
]

NAMES = {
    "torchvision": "torchvision's own code for the same step",
    "torchvision-compile": "that code under torch.compile",
    "composed": "torch's and torchvision's functions for the same step, one after the other",
    "reference": "ssd_cuda.reference, plain PyTorch",
    "compile": "ssd_cuda.reference under torch.compile",
    "seed": "the seed's eager class",
    "sort": "two sorts of every row, as the SSD codebases mine",
    "topk": "torch.topk with one k for all rows",
    "amdegroot": "the rule of amdegroot/ssd.pytorch in plain PyTorch",
    "nvidia": "the rule of NVIDIA DeepLearningExamples (two sorts) in plain PyTorch",
    "lufficc": "the rule of lufficc/SSD in plain PyTorch",
    "qfgaohao": "the rule of qfgaohao/pytorch-ssd in plain PyTorch",
    "ensemble-boxes": "the package of that name, image by image",
    "retinaface": "the rule of Pytorch_Retinaface in plain PyTorch",
}


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile of a module-level function, once. Shapes stay static: every size gets its own kernels.

    Whatever differs between calls must be an argument: a closure would be compiled again for every contest,
    and past torch's limit of recompilations the eager code would run without a word.
    """
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=False)


def known(cases: Sequence[Any]) -> list[str]:
    """The names that these cases have, in the order of ``NAMES``."""
    present = {name for case in cases for name in case.against}
    return [name for name in NAMES if name in present]


def chosen(wanted: str | None, cases: Sequence[Any]) -> Collection[str] | None:
    """``--against`` as names, checked; None: all. A name that only other cases have is left out.

    Raises:
        ValueError: a name that there is not, or none that any of the cases has.
    """
    if wanted is None:
        return None
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    have = known(cases)
    wrong = next((name for name in names if name not in NAMES), None)
    fitting = [name for name in names if name in have]
    if wrong is not None or not fitting:
        raise ValueError(
            f"--against must name baselines of these cases ({', '.join(have) or 'they have none'}), "
            f"got {wrong or wanted!r}"
        )
    return fitting
