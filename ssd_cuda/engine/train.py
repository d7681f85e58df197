"""Training: one loop. An epoch depends on the seed and its number only, so that a run resumes exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError, ModelSpec, load_checkpoint, save_checkpoint
from .checkpoint_check import check_state
from .recipe import TrainConfig, learning_rate, parameter_groups

if TYPE_CHECKING:
    from ..data import BatchLoader
    from ..models import SSD
    from ..ops import GroundTruth

__all__ = ["TrainConfig", "Trainer", "learning_rate", "train"]

Batch = tuple[Tensor, "GroundTruth"]
Report = Callable[[int, dict[str, float]], None]


class Trainer:
    """A model, its average, its optimiser and how far they are.

    Args:
        model: on the device to train on.
        config: the recipe.
        steps_per_epoch: batches of an epoch; the schedule ends after ``epochs * steps_per_epoch`` steps.

    Attributes:
        average: the averaged model, in ``eval()`` mode.
        epoch: epochs that are done.
        step: steps that are done.
        history: one ``[localization, classification]`` per step.

    Example:
        >>> model = models.ssd_small(num_classes=6, image_size=(64, 64))
        >>> dataset = data.prepare(data.open_dataset("shapes", "train", length=4), (64, 64))
        >>> trainer = Trainer(model, TrainConfig(epochs=1, batch_size=2), steps_per_epoch=2)
        >>> mean = trainer.run_epoch(data.BatchLoader(dataset, 2, train=True, workers=0))
        >>> trainer.epoch, trainer.step, len(trainer.history)
        (1, 2, 2)
    """

    def __init__(self, model: SSD, config: TrainConfig, steps_per_epoch: int) -> None:
        mining = replace(model.loss_config.mining, min_negatives=config.min_negatives)
        model.loss_config = replace(model.loss_config, mining=mining)
        self.model, self.config = model, config
        self.steps_per_epoch, self.total_steps = steps_per_epoch, config.epochs * steps_per_epoch
        self.average: SSD = copy.deepcopy(model).eval().requires_grad_(False)
        # fused: one pass over the weights instead of a dozen operators for each of them
        groups = parameter_groups(model, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
        self.epoch = self.step = 0
        self.history: list[list[float]] = []

    def run_epoch(
        self,
        batches: Iterable[Batch],
        report: Report | None = None,
        *,
        stop: Callable[[], bool] | None = None,
        skip: int = 0,
    ) -> float:
        """One pass; returns the mean loss. The losses are read from the device once, at the end.

        Args:
            batches: ``(images, GroundTruth)``.
            report: called every ten steps with the step and the losses, for a progress bar.
            stop: asked after every step; true ends the pass there, and the epoch is not counted.
            skip: batches that were trained on before the pass was ended by ``stop``.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self.model.train()
        device = self.model.priors.device
        losses: list[Tensor] = []
        ended = False
        for images, gt in islice(batches, skip, None):
            rate = learning_rate(self.step, self.total_steps, self.config)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            losses.append(self._step(images.to(device, non_blocking=True), gt.to(device, non_blocking=True)))
            self.step += 1
            if report is not None and self.step % 10 == 0:
                localization, classification = losses[-1].tolist()
                report(self.step, {"loc": localization, "cls": classification, "lr": rate})
            if stop is not None and stop():
                ended = skip + len(losses) < self.steps_per_epoch
                break
        rows = torch.stack(losses).tolist() if losses else []
        self._check_finite(rows)
        self.history += rows
        self.epoch += not ended
        done = self.history[len(self.history) - len(rows) - skip :]
        return sum(map(sum, done)) / max(len(done), 1)

    def _check_finite(self, rows: list[list[float]]) -> None:
        bad = [i for i, row in enumerate(rows) if not all(math.isfinite(v) for v in row)]
        if bad:
            raise FloatingPointError(
                f"the loss must stay finite, got {rows[bad[0]]} at step {len(self.history) + bad[0]} "
                f"(epoch {self.epoch + 1}); lower lr={self.config.lr}"
            )

    def _step(self, images: Tensor, gt: GroundTruth) -> Tensor:
        """[2] localization, classification, detached."""
        losses = self.model.loss(images, gt)
        self.optimizer.zero_grad(set_to_none=True)
        (losses.localization + losses.classification).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self._update_average()
        return torch.stack([losses.localization.detach(), losses.classification.detach()])

    @torch.no_grad()
    def _update_average(self) -> None:
        """A short memory at first, so that the random start is soon forgotten."""
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        averaged, current = self.average.state_dict(), self.model.state_dict()
        floating = [key for key, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([averaged[k] for k in floating], [current[k] for k in floating], 1 - decay)
        for key, value in current.items():
            if not value.is_floating_point():
                averaged[key].copy_(value)

    def state(self) -> dict[str, Any]:
        """What :func:`~ssd_cuda.engine.checkpoint.save_checkpoint` writes."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "history": self.history,
            "config": asdict(self.config),
        }

    def loss_rows(self) -> list[dict[str, float]]:
        """The history as :func:`ssd_cuda.engine.draw.save_loss_curve` takes it."""
        return [
            {"step": step, "loss": loc + cls, "localization": loc, "classification": cls}
            for step, (loc, cls) in enumerate(self.history, 1)
        ]

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            CheckpointError: a part of it does not fit the model.
        """
        check_state("state", state, self.model)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._load_moments(state["optimizer"]["state"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.history = [list(row) for row in state["history"]]

    def _load_moments(self, saved: dict[int, dict[str, Tensor]]) -> None:
        """Copies in the memory layout of the weights, which the fused optimizer takes for granted."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            index: {
                name: value.clone() if name == "step" else torch.empty_like(parameters[index]).copy_(value)
                for name, value in entry.items()
            }
            for index, entry in saved.items()
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def train(
    loader: BatchLoader,
    spec: ModelSpec,
    config: TrainConfig,
    checkpoint: str | Path,
    *,
    resume: str | Path | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[..., Any] | None = None,
    on_epoch: Callable[[Trainer, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Trainer:
    """Train ``spec`` on the batches of ``loader``, writing ``checkpoint`` after every epoch.

    Args:
        loader: the training batches.
        spec: the model.
        config: the recipe.
        checkpoint: the file to write.
        resume: a checkpoint to go on from; spec and config must be the ones it was made with.
        device: to train on.
        progress: ``tqdm`` or the like, or None.
        on_epoch: called after every epoch with the trainer and the mean loss.
        stop: asked after every step; true ends the run there, with its checkpoint written. Resumed, such a
            run goes through the same batches as one that was not ended.

    Raises:
        CheckpointError: ``resume`` is no checkpoint, or one of another model, recipe or number of images.
        FloatingPointError: the loss is not finite.
    """
    torch.manual_seed(config.seed)
    trainer = Trainer(spec.build().to(device), config, len(loader))
    if resume is not None:
        _resume(trainer, spec, resume, device)
        if trainer.epoch >= config.epochs and not _is_same_file(resume, checkpoint):
            save_checkpoint(checkpoint, spec, trainer.state())  # a finished run, into a new folder
    while trainer.epoch < config.epochs:
        # An epoch depends on the seed and its number only, whatever this process did before.
        torch.manual_seed(1_000_003 * config.seed + trainer.epoch + 1)
        loader.set_epoch(trainer.epoch)
        bar, report = _bar(loader, progress, f"epoch {trainer.epoch + 1}/{config.epochs}")
        epoch, skip = trainer.epoch, trainer.step - trainer.epoch * trainer.steps_per_epoch
        mean = trainer.run_epoch(bar, report, stop=stop, skip=skip)
        save_checkpoint(checkpoint, spec, trainer.state())
        if trainer.epoch > epoch and on_epoch is not None:
            on_epoch(trainer, mean)
        if stop is not None and stop():
            return trainer
    return trainer


def _is_same_file(one: str | Path, other: str | Path) -> bool:
    return Path(other).exists() and Path(one).samefile(other)


def _resume(trainer: Trainer, spec: ModelSpec, path: str | Path, device: torch.device | str) -> None:
    found, state = load_checkpoint(path, device)
    if found != spec:
        raise CheckpointError(f"{path} must hold the model that is to be trained, {spec}, got {found}")
    config = asdict(trainer.config)
    other = {key: value for key, value in state["config"].items() if config.get(key) != value}
    if other:
        raise CheckpointError(f"{path} must have been made with the same recipe, got {other}")
    steps, epoch, step = trainer.steps_per_epoch, state["epoch"], state["step"]
    whole = step == epoch * steps  # what files that do not tell their steps an epoch hold
    if state.get("steps_per_epoch", steps if whole else None) != steps:
        raise CheckpointError(
            f"{path} must have been made with the same data, {steps} steps an epoch, "
            f"got {step} steps in {epoch} epochs"
        )
    trainer.load_state(state)


def _bar(
    loader: BatchLoader, progress: Callable[..., Any] | None, title: str
) -> tuple[Iterable[Batch], Report | None]:
    if progress is None:
        return loader, None
    bar = progress(loader, desc=title, leave=False)

    def report(step: int, values: dict[str, float]) -> None:
        bar.set_postfix({key: f"{value:.3g}" for key, value in values.items()})

    return bar, report
