"""One fault."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``old``: a place of the sources, what is replaced between « and ». A native expression or, when it ends
    in a semicolon, a statement; in Python an expression. ``tests``: arguments of pytest."""

    family: str
    what: str
    old: str
    new: str
    tests: str

    def parts(self) -> tuple[str, str, str]:
        before, rest = self.old.split("«")
        old, after = rest.split("»")
        return before, old, after
