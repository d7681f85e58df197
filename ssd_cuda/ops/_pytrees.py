"""The records that go into and come out of ops, as pytrees that ``torch.export.save`` can write."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from torch.serialization import add_safe_globals
from torch.utils import _pytree as pytree

T = TypeVar("T")


def _public_name(cls: type) -> str:
    """The name in a saved program: where users find the class, whichever file holds it."""
    return f"ssd_cuda.ops.{cls.__name__}"


def register_named_tuple(cls: type[T]) -> type[T]:
    """Decorator: a named tuple is a pytree anyhow, but only with a name can a program with it be saved."""
    pytree._register_namedtuple(cls, serialized_type_name=_public_name(cls))
    add_safe_globals([cls])  # torch.load(weights_only=True), as of a saved program's example inputs
    return cls


def register_record(cls: type[T]) -> type[T]:
    """Decorator: a dataclass of tensors as a pytree of its fields.

    ``torch.export.register_dataclass`` would build it anew through its constructor, whose checks refuse what
    torch puts into the leaves: shapes, dimensions, stand-ins.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]

    def flatten(record: T) -> tuple[list[Any], None]:
        return [getattr(record, name) for name in names], None

    def flatten_with_keys(record: T) -> tuple[list[tuple[Any, Any]], None]:
        return [(pytree.GetAttrKey(name), getattr(record, name)) for name in names], None

    def unflatten(leaves: Any, context: None) -> T:
        record = object.__new__(cls)
        for name, leaf in zip(names, leaves, strict=True):
            object.__setattr__(record, name, leaf)
        return record

    pytree.register_pytree_node(
        cls,
        flatten,
        unflatten,
        serialized_type_name=_public_name(cls),
        flatten_with_keys_fn=flatten_with_keys,
    )
    add_safe_globals([cls])
    return cls
