"""Validation that the ops share: each failure is one sentence with argument, expectation and finding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..config import check_variances
from ._box_format import check_corners
from ._layout import check_dense

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
REAL = (torch.float32, torch.float64)
Config = TypeVar("Config")
_LARGEST = torch.finfo(torch.float32).max


def check_tensor(name: str, value: object, shape: Sequence[int | str], dtypes: Sequence[torch.dtype]) -> None:
    """Raise unless ``value`` is a tensor of this shape and one of these dtypes.

    A string in ``shape`` stands for any size and names it in the message; ``"..."`` first stands for
    any number of leading dimensions.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    check_dense(name, value)
    if type(value) is not Tensor:
        check_corners(name, value)
    sizes = list(value.shape)
    wanted = list(shape)
    tail = sizes
    if wanted and wanted[0] == "...":
        wanted = wanted[1:]
        tail = sizes[len(sizes) - len(wanted) :] if len(sizes) >= len(wanted) else [-1]
    matches = len(tail) == len(wanted) and all(
        isinstance(want, str) or want == size for want, size in zip(wanted, tail, strict=True)
    )
    if not matches:
        pattern = ", ".join(str(part) for part in shape)
        raise ValueError(f"{name} must have shape [{pattern}], got {sizes}")
    if value.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} must be {names}, got {str(value.dtype).removeprefix('torch.')}")


def finite(value: float | None, largest: float = _LARGEST) -> float:
    """The bound as a finite number, None (no bound) and infinities as the largest, of float32 if not said.

    It stands for all that lie above: exp of it is infinite. A program that AOTInductor packages cannot be
    loaded with an infinity among its constants.
    """
    return largest if value is None else min(max(float(value), -largest), largest)


def first_rows(count: Any, *tensors: Tensor) -> list[Tensor]:
    """The first ``count`` rows of each tensor, a number that was read, or the tensor that holds it within
    torch.jit.trace: there a number would be a constant of the program."""
    if not isinstance(count, Tensor):
        torch._check(count >= 0)
        torch._check(count <= tensors[0].shape[0])
    # narrow, not a slice: in an exported program each slice has a length of its own that nothing ties to the
    # count, and AOTInductor writes code that does not compile.
    return [tensor.narrow(0, 0, count) for tensor in tensors]


def config_or(default: Config, config: Config | None) -> Config:
    """``config``, or the default for None; raise for anything of another class than the default's.

    A default is made where its module is imported: a function that torch.compile traces cannot make one.
    """
    if config is None:
        return default
    kind = type(default)
    if not isinstance(config, kind):
        hint = f"; see {kind.__name__}.preset" if hasattr(kind, "preset") else ""
        raise TypeError(f"config must be a {kind.__name__}, got {type(config).__name__}{hint}")
    return config


def check_no_grad(name: str, value: Tensor | None, why: str) -> None:
    """Raise if a tensor that the op does not differentiate requires a gradient, of either mode."""
    if value is not None and value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} must not require a gradient ({why}), got requires_grad=True; use .detach()")
    check_no_tangent(name, value)


def check_no_tangent(name: str, value: Tensor | None) -> None:
    """Raise for a dual tensor, as ``torch.func.jvp`` makes it: torch would give its result the tangent 0.

    torch offers an op no rule of forward mode, and no way to say that there is none.
    """
    if value is None or forward_ad._current_level < 0:
        return
    if forward_ad.unpack_dual(value).tangent is not None:
        raise NotImplementedError(
            f"{name} must not carry a tangent (jvp): the ops have derivatives of reverse mode only"
        )


def four_variances(variances: Sequence[float]) -> list[float]:
    """The x, y, w, h variances from two (centre, size) or four numbers."""
    check_variances(variances)
    numbers = [float(v) for v in variances]
    return numbers if len(numbers) == 4 else [numbers[0], numbers[0], numbers[1], numbers[1]]
