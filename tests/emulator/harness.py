"""Calls emulated launchers from tests: torch tensors in and out, every call under several schedules."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from .build import load

SEEDS = (0, 1, 2, 3, 4)


class Kernels:
    """The launchers of a family: ``kernels("boxes").iou(a, b, 0.0)`` runs under every seed and demands
    the same bits. A bfloat16 tensor travels as the uint16 of its bits; such a result comes back as bfloat16
    where some argument was.
    """

    def __init__(self, family: str, seeds: Sequence[int] = SEEDS, variant: str | None = None):
        self.module = load(family, variant)
        self.seeds = tuple(seeds)
        self.architecture, self.last_blocks = 90, 0

    def _changed(self, **changes: Any) -> Kernels:
        other = object.__new__(Kernels)
        other.__dict__.update(self.__dict__ | changes)
        return other

    def with_seeds(self, *seeds: int) -> Kernels:
        return self._changed(seeds=seeds)

    def on(self, architecture: int) -> Kernels:
        """The same on a card of this compute capability: 75, 80, 86, 87, 89, 90, 100, 110 or 120."""
        return self._changed(architecture=architecture)

    def with_last_blocks(self, count: int) -> Kernels:
        """Only the last blocks of each grid run: what the others would write keeps its poison."""
        return self._changed(last_blocks=count)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self.module, name)

        def call(*args: Any, **options: Any) -> Any:
            bfloat16 = any(isinstance(a, torch.Tensor) and a.dtype == torch.bfloat16 for a in args)
            arrays = [to_numpy(a) for a in args]
            named = {key: to_numpy(value) for key, value in options.items()}
            first = None
            self.module.set_architecture(self.architecture)
            self.module.set_last_blocks(self.last_blocks)
            for seed in self.seeds:
                self.module.set_seed(seed)
                result = function(*arrays, **named)
                if first is None:
                    first = result
                elif bits(first) != bits(result):
                    where = difference(first, result)
                    raise AssertionError(f"{name}: seeds {self.seeds[0]} and {seed} differ: {where}")
            return to_torch(first, bfloat16)

        return call


@functools.cache
def kernels(family: str) -> Kernels:
    return Kernels(family)


def to_numpy(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.bfloat16:
        return value.contiguous().view(torch.int16).numpy().view(np.uint16)
    return value.contiguous().numpy()


def to_torch(value: Any, bfloat16: bool) -> Any:
    if isinstance(value, tuple):
        return tuple(to_torch(part, bfloat16) for part in value)
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == np.uint16 and bfloat16:
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)


def bits(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(bits(part) for part in result)
    return result.tobytes() if isinstance(result, np.ndarray) else result


def difference(a: Any, b: Any) -> str:
    """Where two results first differ."""
    if isinstance(a, tuple):
        parts = [i for i in range(len(a)) if bits(a[i]) != bits(b[i])]
        return f"result {parts[0]}: {difference(a[parts[0]], b[parts[0]])}"
    if not isinstance(a, np.ndarray):
        return f"{a} and {b}"
    rows_a = np.frombuffer(a.tobytes(), np.uint8).reshape(a.size, -1)
    rows_b = np.frombuffer(b.tobytes(), np.uint8).reshape(b.size, -1)
    places = np.nonzero((rows_a != rows_b).any(1))[0]
    index = np.unravel_index(places[0], a.shape)
    return f"{len(places)} of {a.size} elements, first {tuple(map(int, index))}: {a[index]} and {b[index]}"


def reports(module: ModuleType, name: str, *args: Any, seeds: Sequence[int] = range(8)) -> list[str]:
    """What the emulator says of a kernel under each seed; fails where it says nothing."""
    messages = []
    for seed in seeds:
        module.set_seed(seed)
        with pytest.raises(RuntimeError) as error:
            getattr(module, name)(*args)
        messages.append(str(error.value))
    return messages


def fuzz_examples(default: int = 25) -> int:
    """The number of cases of a fuzz test; SSD_FUZZ_EXAMPLES overrides it."""
    return int(os.environ.get("SSD_FUZZ_EXAMPLES", default))
