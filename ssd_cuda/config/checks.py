"""Checks of single options: each failure is one sentence."""

from __future__ import annotations

import math
import numbers
from typing import Any, Literal

from torch import Tensor

BoxFormat = Literal["cxcywh", "xyxy"]


def check_choice(argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{argument} must be one of {names}, got {value!r}")


def to_number(value: Any) -> Any:
    """A numpy scalar or a tensor of no dimension as the Python number in it; anything else as it is."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.item()
    if isinstance(value, (bool, int, float)) or not isinstance(value, numbers.Real):
        return value
    return float(value)


def check_range(argument: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise unless ``value`` is a number with ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a number, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{argument} must lie in [{low}, {high}], got {value}")


def check_integer(argument: str, value: Any, low: float = -math.inf) -> None:
    """Raise unless ``value`` is an integer ``>= low``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an integer, got {value!r}")
    if value < low:
        raise ValueError(f"{argument} must be at least {low}, got {value}")


def check_variances(value: Any) -> None:
    """Raise unless ``value`` is two or four positive finite numbers."""
    numbers = list(value) if isinstance(value, (tuple, list)) else []
    valid = all(isinstance(v, (int, float)) and 0 < v < math.inf for v in numbers)
    if len(numbers) not in (2, 4) or not valid:
        raise ValueError(f"variances must be 2 or 4 positive numbers, got {value!r}")
