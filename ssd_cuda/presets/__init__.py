"""The options of every codebase, as data: one file a codebase, of the same name as its transcription in
:mod:`ssd_cuda.reference.dialects` and its drop-in in :mod:`ssd_cuda.compat`.

A file may have three tables, each from the name of a preset to its options, those that differ from the
defaults:

* ``MULTIBOX`` of :class:`ssd_cuda.MultiBoxConfig` (``match`` and ``mining`` are dicts themselves),
* ``DETECT`` of :class:`ssd_cuda.DetectConfig`,
* ``PRIORS`` of :class:`ssd_cuda.PriorSpec`; here a function of ``image_size`` may stand for options that
  follow it.

A new file is found by being here.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

__all__ = ["CODEBASES", "DETECT", "MULTIBOX", "PRIORS"]

CODEBASES = tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def _collect(table: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for codebase in CODEBASES:
        rows = getattr(importlib.import_module(f"{__name__}.{codebase}"), table, {})
        twice = found.keys() & rows.keys()
        assert not twice, f"{codebase} gives a second preset {twice}"
        found.update(rows)
    return dict(sorted(found.items()))


MULTIBOX, DETECT, PRIORS = _collect("MULTIBOX"), _collect("DETECT"), _collect("PRIORS")
