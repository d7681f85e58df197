"""The losses of several runs on one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._names import printable
from .draw import class_colour, figure_class, running_mean
from .fonts import set_names
from .outputs import write_file

__all__ = ["save_curves"]


def save_curves(path: str | Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the training loss of every run, and below it what was seen of validation, if anything was.

    Args:
        path: of the picture.
        runs: name to state, as :func:`~ssd_cuda.engine.checkpoint.load_checkpoint` gives it: ``history`` and
            ``scores``.

    Raises:
        ValueError: no run, or one that has not begun.

    Example:
        >>> save_curves("x.png", {"new": {"history": []}})
        Traceback (most recent call last):
        ValueError: run 'new' must have at least one step, got none
    """
    if not runs:
        raise ValueError("runs must have at least one, got none")
    for name, state in runs.items():
        if not state["history"]:
            raise ValueError(f"run {printable(name)!r} must have at least one step, got none")
    looked = any(state.get("scores") for state in runs.values())
    figure = figure_class("the curves")(figsize=(8.4, 6.4 if looked else 4.2), dpi=150)
    panels = figure.subplots(1 + looked, 1, sharex=True, squeeze=False)[:, 0]
    top, told = 0.0, [[] for _ in panels]  # type: tuple[float, list[list[str]]]
    for index, (name, state) in enumerate(runs.items()):
        hue = tuple(part / 255 for part in class_colour(index))
        # Dashes of growing gaps: a run that lies on another one leaves it to be seen.
        dashes = (0, ()) if index == 0 else (0, (4, 2 + 2 * index))
        losses = np.array(state["history"]).sum(1)
        smooth = running_mean(losses, max(1, len(losses) // 40))
        steps = range(1, len(losses) + 1)
        panels[0].plot(steps, losses, color=hue, alpha=0.15, linewidth=0.8)
        panels[0].plot(steps, smooth, color=hue, linewidth=2.0, linestyle=dashes, label="run")
        told[0].append(f"{name}: {smooth[-1]:.3f}")
        top = max(top, float(np.quantile(losses, 0.98)))
        if state.get("scores"):
            rows = state["scores"]
            total = [row["localization"] + row["classification"] for row in rows]
            panels[1].plot(
                [row["step"] for row in rows], total, color=hue, linestyle=dashes, marker="o", label="run"
            )
            told[1].append(f"{name}: AP50 {max(row['ap50'] or 0.0 for row in rows):.3f}")
    panels[0].set(ylabel="training loss", ylim=(0, 1.1 * top or 1.0))
    if looked:
        panels[1].set(ylabel="validation loss")
    panels[-1].set(xlabel="step")
    for panel, names in zip(panels, told, strict=True):
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        set_names(panel.legend(frameon=False).get_texts(), names)
    figure.tight_layout()
    write_file(path, lambda file: figure.savefig(file, format=Path(path).suffix[1:] or "png"))
