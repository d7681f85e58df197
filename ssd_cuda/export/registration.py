"""Makes the ops known to ``torch.onnx.export`` without an argument."""

from __future__ import annotations

import importlib.util

from .._extension import is_available
from .onnx_file import translation_table

__all__ = ["register"]

_done = False


def register() -> bool:
    """Add the ops to the exporter's own table; False where this torch, or the extension, has no place for it.

    torch has no public way to do so; whoever needs one hands :func:`translation_table` over.
    """
    global _done
    if _done or not is_available() or importlib.util.find_spec("onnxscript") is None:
        return _done
    try:
        from torch.onnx._internal.exporter import _registration
        from torch.onnx._internal.exporter._torchlib import _torchlib_registry

        for op, function in translation_table().items():
            entry = _registration.OnnxDecompMeta(function, op, None, skip_signature_inference=True)
            _torchlib_registry._registry.append(entry)
    except (ImportError, AttributeError, TypeError):
        return False
    _done = True
    return True
