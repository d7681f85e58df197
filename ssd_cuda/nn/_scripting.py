"""What torch.jit.script is told of modules that it cannot compile."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["NotScriptable"]


class NotScriptable:
    """Mixed into a module: refused by name, also as a part of another one, before the compiler stops at the
    first line that it does not know."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise TypeError(
            f"torch.jit.script cannot take {type(self).__name__}, whose options are dataclasses: use "
            "torch.export, or torch.jit.trace of a function from tensors to tensors"
        )
