"""Presets by name: the classmethods that configs share."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from .. import presets as _presets

__all__ = ["HasPresets"]

C = TypeVar("C", bound="HasPresets")


class HasPresets:
    """A dataclass whose presets are one table of :mod:`ssd_cuda.presets`."""

    _table: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, presets: str) -> None:
        cls._table = getattr(_presets, presets)

    @classmethod
    def preset(cls: type[C], name: str, **changes: Any) -> C:
        """The rule of one codebase, by a name of :meth:`preset_names`; ``changes`` replace single options."""
        if name not in cls._table:
            raise ValueError(f"preset must be one of {', '.join(cls._table)}, got {name!r}")
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        for key in changes:
            if key not in known:
                raise TypeError(f"{cls.__name__} has no option {key!r}; it has {', '.join(sorted(known))}")
        options = cls._table[name]
        if callable(options):
            options = options(**{k: changes[k] for k in ("image_size",) if k in changes})
        return cls(**{**options, **changes})

    @classmethod
    def preset_names(cls) -> tuple[str, ...]:
        """Names that :meth:`preset` takes: most are codebases, some a variant of one (``paper512``)."""
        return tuple(cls._table)
