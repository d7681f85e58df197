"""Checks of single options: each failure is one sentence."""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any, Literal

import numpy as np
from torch import Tensor

BoxFormat = Literal["cxcywh", "xyxy"]


def check_choice(argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if isinstance(value, (np.ndarray, Tensor)) or value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{argument} must be one of {names}, got {value!r}")


def check_list(argument: str, value: Any, of: str) -> None:
    """Raise ``TypeError`` for what has no length: a number, an iterator, a tensor of no dimension."""
    if not hasattr(value, "__len__") or (isinstance(value, Tensor) and value.dim() == 0):
        raise TypeError(f"{argument} must be a list {of}, got {type(value).__name__}")


def to_number(value: Any) -> Any:
    """A numpy scalar or a tensor of no dimension as the Python number in it; anything else as it is."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.item()
    if isinstance(value, (bool, int, float)) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def check_number(argument: str, value: Any) -> None:
    """Raise unless ``value`` is an int or a float (and no bool)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a number, got {type(value).__name__}")


def check_range(
    argument: str, value: Any, low: float, high: float = math.inf, *, finite: bool = True
) -> None:
    """Raise unless ``value`` is a number with ``low <= value <= high``, and no infinite one (``finite``)."""
    check_number(argument, value)
    if not low <= value <= high:
        raise ValueError(f"{argument} must lie in [{low}, {high}], got {value}")
    if (finite or isinstance(value, int)) and not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError(f"{argument} must be finite, got {value}")


def check_each(argument: str, value: Any, low: float, high: float = math.inf, *, finite: bool = True) -> None:
    """As :func:`check_range`; ``value`` may also be a tuple of such numbers, not an empty one."""
    if not isinstance(value, tuple):
        check_range(argument, value, low, high, finite=finite)
    elif not value:
        raise ValueError(f"{argument} must be a number or one for each class, got none")
    else:
        for index, part in enumerate(value):
            check_range(f"{argument}[{index}]", part, low, high, finite=finite)


def check_integer(argument: str, value: Any, low: float = -math.inf) -> None:
    """Raise unless ``value`` is an integer ``>= low`` that fits in 64 bits."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument} must be an integer, got {value!r}")
    if value < low:
        raise ValueError(f"{argument} must be at least {low}, got {value}")
    if not -(2**63) <= int(value) < 2**63:
        raise ValueError(f"{argument} must fit in 64 bits, got {value}")


def check_flag(argument: str, value: Any) -> None:
    """Raise unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, got {value!r}")


def is_positive(value: Any) -> bool:
    """Whether ``value`` is a number above 0 and finite (and no bool)."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 < value <= sys.float_info.max


def check_variances(value: Any, counts: tuple[int, ...] = (2, 4)) -> None:
    """Raise unless ``value`` is two or four positive finite numbers."""
    parts = list(value) if isinstance(value, (tuple, list, np.ndarray)) else []
    if len(parts) not in counts or not all(is_positive(to_number(part)) for part in parts):
        wanted = " or ".join(str(count) for count in counts)
        raise ValueError(f"variances must be {wanted} positive numbers, got {value!r}")
