"""Tensors whose numbers lie somewhere: not sparse ones, nested ones or those of another library."""

from __future__ import annotations

import torch
from torch import Tensor


def check_dense(name: str, value: Tensor) -> None:
    """Raise for a layout that no kernel reads; before its shape is asked for, which nested ones have not."""
    if value.layout is not torch.strided or value.is_nested:
        found = "a nested tensor" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor, got {found}")
