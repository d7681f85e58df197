"""Going on with a run: what must be as it was, and what may be another."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch

from .._names import counted
from .checkpoint import CheckpointError, ModelSpec, load_checkpoint
from .outputs import write_file
from .validation import best_row

if TYPE_CHECKING:
    from .train import Trainer

__all__ = ["bring_best", "resume_from"]

# No number of a run depends on these.
_FREE = {"workers"}
# What may change when a run goes on longer or otherwise; the others decide which weights there are,
# which of them are trained, and which images belong to a step.
_EXTENDED = {
    "epochs", "steps", "lr", "schedule", "milestones", "gamma", "warmup_steps", "warmup_start",
    "weight_decay", "clip_norm", "average_decay", "amp", "accumulate", "augment", "min_negatives",
    "label_smoothing", "class_weights",
}  # fmt: skip


def resume_from(
    trainer: Trainer, spec: ModelSpec, path: str | Path, device: torch.device | str, *, extend: bool = False
) -> None:
    """Load the run of ``path`` into ``trainer``.

    Args:
        trainer: new, of the run that is to go on.
        spec: its model.
        path: the checkpoint.
        device: of the trainer.
        extend: let the recipe differ in how long the run is, at which rate and precision it goes on.

    Raises:
        CheckpointError: no checkpoint, another model or recipe, another number of images, a run that is
            longer than the new one.
    """
    found, state = load_checkpoint(path, device)
    if found != spec:
        raise CheckpointError(f"{path} must hold the model that is to be trained, {spec}, got {found}")
    config, allowed = asdict(trainer.config), _FREE | (_EXTENDED if extend else set())
    # What a file of an earlier version does not name, it did as the defaults do.
    before = {**asdict(type(trainer.config)()), **state["config"]}
    other = {key: value for key, value in before.items() if key not in allowed and config[key] != value}
    if other:
        advice = "" if extend or not other.keys() <= _EXTENDED else "; --extend lets these differ"
        raise CheckpointError(f"{path} must have been made with the same recipe, got {other}{advice}")
    steps, epoch, step = trainer.steps_per_epoch, state["epoch"], state["step"]
    whole = step == epoch * steps  # what files that do not tell their steps an epoch hold
    if state.get("steps_per_epoch", steps if whole else None) != steps:
        raise CheckpointError(
            f"{path} must have been made with the same data, {counted(steps, 'step')} an epoch, "
            f"got {counted(step, 'step')} in {counted(epoch, 'epoch')}"
        )
    if step > trainer.total_steps:
        raise CheckpointError(f"{path} must be of at most {counted(trainer.total_steps, 'step')}, got {step}")
    trainer.load_state(state)


def bring_best(trainer: Trainer, resume: str | Path, best: Path) -> None:
    """Copy the checkpoint of the best look to ``best``, where a run goes on in a folder that has none: a
    later look may never be better. Warns if it does not lie beside the one that the run goes on from.

    Args:
        trainer: of the run that goes on.
        resume: the checkpoint that it goes on from, which may be the best one itself.
        best: the file that is to hold it.
    """
    if not trainer.scores or best.exists():
        return
    scores = trainer.scores[: best_row(trainer.scores) + 1]
    for path in (Path(resume), Path(resume).with_name(best.name)):
        try:
            state = load_checkpoint(path)[1]
        except CheckpointError:
            continue
        if (state["step"], state.get("scores")) == (scores[-1]["step"], scores):
            write_file(best, partial(_copy, path))
            return
    warnings.warn(
        f"{best} must wait for a look that is better than AP50 {scores[-1]['ap50'] or 0.0:.3f}, that of step "
        f"{scores[-1]['step']}: the checkpoint of it is not beside {resume}",
        stacklevel=3,
    )


def _copy(path: Path, file: IO[bytes]) -> None:
    with path.open("rb") as source:
        shutil.copyfileobj(source, file)
