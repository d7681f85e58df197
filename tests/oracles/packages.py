"""Modules of the package ensemble-boxes, whose ``__init__`` needs numba; what is compared does not."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any


def ensemble_boxes(name: str) -> Any:
    """The module of that name, its jit taken away where there is no numba; None without the package."""
    package = importlib.util.find_spec("ensemble_boxes")
    if package is None:
        return None
    if "numba" not in sys.modules and importlib.util.find_spec("numba") is None:
        plain: Any = types.ModuleType("numba")
        plain.jit = lambda *args, **_: args[0] if args else lambda function: function
        sys.modules["numba"] = plain
    path = f"{package.submodule_search_locations[0]}/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
