"""What all configs share: every option is held against its annotation, and presets have names."""

from __future__ import annotations

import types
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .. import presets as _presets
from .checks import check_choice, check_flag, check_integer, check_number, to_number

__all__ = ["HasPresets", "Options"]

C = TypeVar("C", bound="Options")
P = TypeVar("P", bound="HasPresets")


def freeze(value: Any) -> Any:
    """Lists become tuples all the way down, so that a config made from lists can be a cache key."""
    return tuple(freeze(part) for part in value) if isinstance(value, (list, tuple)) else to_number(value)


@dataclass(frozen=True)
class _Kind:
    """What an annotation asks of a value; plain data, so that torch.compile can trace the check."""

    name: str  # choice, tuple, config, flag, integer, number, or number or tuple
    optional: bool = False
    choices: tuple[Any, ...] = ()
    config: Any = None


def _kind(annotation: Any, optional: bool = False) -> _Kind:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if len(parts) == 1:
            return _kind(parts[0], optional=True)
        assert parts[0] is float and get_origin(parts[1]) is tuple, annotation  # one number, or one per level
        return _Kind("number or tuple", optional)
    if origin is Literal:
        choices = get_args(annotation)
        return _Kind("choice", choices=(None, *choices) if optional else choices)
    if origin is tuple:
        return _Kind("tuple", optional)
    if is_dataclass(annotation):
        return _Kind("config", optional, config=annotation)
    return _Kind({bool: "flag", int: "integer", float: "number"}[annotation], optional)


def _fit(name: str, kind: _Kind, value: Any) -> Any:
    """``value`` as an option of this kind holds it; raise where it is of another type."""
    if value is None and kind.optional:
        return None
    if kind.name == "choice":
        check_choice(name, value, kind.choices)
    elif kind.name == "number or tuple" and isinstance(value, (list, tuple)):
        return freeze(value)
    elif kind.name == "tuple":
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} must be a tuple or a list, got {type(value).__name__}")
        return freeze(value)
    elif kind.name == "config":
        if isinstance(value, dict):
            return kind.config(**value)
        if not isinstance(value, kind.config):
            expected = f"a {kind.config.__name__} or a dict of its options"
            raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")
    elif kind.name == "flag":
        check_flag(name, value)
    elif kind.name == "integer":
        check_integer(name, value)
        return int(value)
    else:
        value = value if type(value) is float else to_number(value)
        check_number(name, value)
    return value


class Options:
    """A frozen dataclass of options.

    Lists become tuples, dicts (from ``asdict`` or JSON) the configs they are of, numpy scalars numbers;
    anything else that is not of the option's type is refused by its name.
    """

    _kinds: ClassVar[dict[type, tuple[tuple[str, _Kind], ...]]] = {}  # of each class, read once

    def __post_init__(self) -> None:
        cls = type(self)
        if cls not in Options._kinds:
            hints = get_type_hints(cls)
            Options._kinds[cls] = tuple((f.name, _kind(hints[f.name])) for f in fields(self))  # type: ignore[arg-type]
        for name, kind in Options._kinds[cls]:
            # Set whether it changed or not: torch.compile cannot compare tuples of numbers that it was given.
            object.__setattr__(self, name, _fit(name, kind, getattr(self, name)))
        self._check()

    def _check(self) -> None:
        """Ranges, and what options say about each other."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickled values are checked like given ones."""
        self.__init__(**state)  # type: ignore[misc]

    @classmethod
    def of(cls: type[C], value: Any, argument: str = "config") -> C:
        """``value`` as a config of this class, as constructors take it: one, a dict of its options, the name
        of a preset where there are any, or None for the defaults."""
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if isinstance(value, dict):
            return cls(**value)
        if isinstance(value, str) and issubclass(cls, HasPresets):
            return cls.preset(value)
        names = " or the name of a preset" if issubclass(cls, HasPresets) else ""
        raise TypeError(f"{argument} must be a {cls.__name__}{names}, got {type(value).__name__}")


class HasPresets(Options):
    """Options whose presets are one table of :mod:`ssd_cuda.presets`."""

    _table: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, presets: str) -> None:
        cls._table = getattr(_presets, presets)

    @classmethod
    def preset(cls: type[P], name: str, **changes: Any) -> P:
        """The rule of one codebase, by a name of :meth:`preset_names`; ``changes`` replace single options.

        Of ``match`` and ``mining`` a dict replaces single options too, and a config all of them.
        """
        if name not in cls._table:
            raise ValueError(f"preset must be one of {', '.join(cls._table)}, got {name!r}")
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        for key in changes:
            if key not in known:
                raise TypeError(f"{cls.__name__} has no option {key!r}; it has {', '.join(sorted(known))}")
        options = cls._table[name]
        if callable(options):
            followed = {key: changes[key] for key in ("image_size",) if key in changes}
            options = options(**{key: getattr(cls(**followed), key) for key in followed})
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(options.get(key), dict):
                changes[key] = {**options[key], **value}
        return cls(**{**options, **changes})

    @classmethod
    def preset_names(cls) -> tuple[str, ...]:
        """Names that :meth:`preset` takes: most are codebases, some a variant of one (``paper512``)."""
        return tuple(cls._table)
