"""One fault."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``old``: a place of the sources, what is replaced between « and ». A native expression or, when it ends
    in a semicolon, a statement; in Python an expression. A fault of the width of numbers replaces the whole
    product: ``?:`` gives both of its sides one type. ``tests``: arguments of pytest."""

    family: str
    what: str
    old: str
    new: str
    tests: str

    def parts(self) -> tuple[str, str, str]:
        before, rest = self.old.split("«")
        old, after = rest.split("»")
        return before, old, after


def rows_of(family: str, tests: str, *rows: tuple[str, str, str] | tuple[str, str, str, str]) -> list[Mutant]:
    """Rows of what, old, new and, where a few tests are enough, an expression for pytest's -k."""
    return [
        Mutant(family, what, old, new, f"{tests} -k '{only[0]}'" if only else tests)
        for what, old, new, *only in rows
    ]
