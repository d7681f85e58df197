"""Counts what a step asks of the host, on any machine: dispatched operators, and waits for the card.

A wait is an operator that on CUDA needs a value or a size on the host (nonzero, boolean indexing, item, NMS),
a read (tolist, cpu, numpy), or a copy of unpinned host memory to the card (torch.tensor and as_tensor with a
device). On a CPU nothing waits, but the same calls are made, so they are counted there: run with the model on
the CPU, and the count is that of a card, less each .to(device): here it moves nothing, and does not tell.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {"aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "torchvision::nms"}
_BY_MASK = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_DOWNLOADS = {Tensor.tolist, Tensor.cpu, Tensor.numpy}
_UPLOADS = {torch.tensor, torch.as_tensor}


class _Dispatched(TorchDispatchMode):
    def __init__(self, count: Counter[str]):
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.count["operators"] += 1
        if name in _READS or (name in _BY_MASK and _has_mask(args)):
            self.count["waits"] += 1
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(args: tuple[Any, ...]) -> bool:
    """Boolean indices go through nonzero, except where a scalar is assigned (masked_fill)."""
    masks = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    scalar = len(args) > 2 and isinstance(args[2], Tensor) and args[2].dim() == 0
    return masks and not scalar


class _Called(TorchFunctionMode):
    def __init__(self, count: Counter[str]):
        super().__init__()
        self.count = count

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _UPLOADS and kwargs.get("device") is not None and not isinstance(args[0], Tensor):
            self.count["waits"] += 1
            self.count["upload"] += 1
        elif func in _DOWNLOADS:
            self.count["waits"] += 1
            self.count["download"] += 1
        return func(*args, **kwargs)


def count(step) -> Counter[str]:
    """``operators`` and ``waits`` of one call of ``step``, and the waits by kind."""
    found: Counter[str] = Counter()
    with _Called(found), _Dispatched(found):
        step()
    return found
