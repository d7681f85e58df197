"""Names of one codebase's weights as names here, by patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

__all__ = ["renamed_by"]

Rule = tuple[str, "str | Callable[[re.Match[str]], str]"]


def renamed_by(
    *rules: Rule, without: tuple[str, ...] = ()
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A function from a state dict to the same tensors under other names.

    Args:
        rules: (pattern of a whole name, what it becomes), tried in order; a name that none fits stays.
        without: beginnings of names that are left out: priors, classifiers of the backbone alone.

    Example:
        >>> renamed_by((r"fc\\.(.*)", r"head.\\1"))({"fc.bias": torch.ones(1)})
        {'head.bias': tensor([1.])}
    """
    compiled = [(re.compile(pattern), name) for pattern, name in rules]

    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for key, value in state.items():
            if key.startswith(without or ("\0",)):
                continue
            for pattern, name in compiled:
                match = pattern.fullmatch(key)
                if match:
                    key = name(match) if callable(name) else match.expand(name)
                    break
            found[key] = value
        return found

    return rename
