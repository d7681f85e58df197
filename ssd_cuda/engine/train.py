"""Training: one loop. An epoch depends on the seed and its number only, so that a run resumes exactly."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .checkpoint import ModelSpec, save_checkpoint
from .checkpoint_check import check_state
from .optimizer import set_rate
from .processes import ALONE, Processes
from .progress import warn_if_cold, warn_if_idle, warn_if_late, warn_if_slow
from .recipe import TrainConfig, learning_rate, total_steps
from .resume import bring_best, resume_from
from .step import Batch, Speed, TrainStep
from .validation import Validation

if TYPE_CHECKING:
    from ..data import BatchLoader
    from ..models import SSD

__all__ = ["TrainConfig", "Trainer", "learning_rate", "train"]

_LOOK = 100  # steps; an epoch may take hours, and a look waits for the device
Report = Callable[[int, dict[str, float]], None]


class Trainer:
    """A model, its average, its optimiser and how far they are.

    Args:
        model: on the device to train on.
        config: the recipe.
        steps_per_epoch: steps of an epoch; the schedule ends after ``config.epochs`` of them, or after
            ``config.steps`` steps.
        processes: that share the steps.
        speed: how the network is run.

    Attributes:
        average: the averaged model, in ``eval()`` mode.
        epoch: epochs that are done.
        step: steps that are done.
        history: one ``[localization, classification]`` per step.
        rates: the learning rate of every step.
        scores: one row per look of a :class:`~ssd_cuda.engine.validation.Validation`.
        positives, pass_steps, pass_seconds, last_batch: of the last pass the matched priors, its steps,
        how long
            it took, and its last images.

    Example:
        >>> model = models.ssd_small(num_classes=6, image_size=(64, 64))
        >>> dataset = data.prepare(data.open_dataset("shapes", "train", length=4), (64, 64))
        >>> trainer = Trainer(model, TrainConfig(epochs=1, batch_size=2), steps_per_epoch=2)
        >>> mean = trainer.run_epoch(data.BatchLoader(dataset, 2, train=True, workers=0))
        >>> trainer.epoch, trainer.step, len(trainer.history)
        (1, 2, 2)
    """

    def __init__(
        self,
        model: SSD,
        config: TrainConfig,
        steps_per_epoch: int,
        *,
        processes: Processes = ALONE,
        speed: Speed | None = None,
    ) -> None:
        self.model, self.config, self.processes = model, config, processes
        self.steps_per_epoch, self.total_steps = steps_per_epoch, total_steps(config, steps_per_epoch)
        # Before the step changes modules for its own ends: compiled ones, norms over all processes.
        average = copy.deepcopy(model)
        self.trained = TrainStep(model, config, processes, speed)
        average.loss_config = model.loss_config
        average.class_weights = model.class_weights
        self.average: SSD = average.eval().requires_grad_(False)
        self.optimizer = self.trained.optimizer
        self.epoch = self.step = self.positives = self.pass_steps = 0
        self.pass_seconds = 0.0
        self.last_batch: Batch
        self.history: list[list[float]] = []
        self.rates: list[float] = []
        self.scores: list[dict[str, Any]] = []

    @property
    def is_done(self) -> bool:
        return self.step >= self.total_steps

    def run_epoch(
        self,
        batches: Iterable[Batch],
        report: Report | None = None,
        *,
        stop: Callable[[], bool] | None = None,
        skip: int = 0,
    ) -> float:
        """One pass; returns the mean loss. The losses are read from the device once, at the end, but for a
        look every hundred steps whether they are finite still.

        Args:
            batches: ``(images, GroundTruth)``, ``config.accumulate`` a step.
            report: called every ten steps with the step and the losses, for a progress bar.
            stop: asked after every step; true ends the pass there, and the epoch is not counted.
            skip: steps that were taken before the pass was ended by ``stop``; ``batches`` begin after them.

        Raises:
            FloatingPointError: the loss is not finite, or the weights that its last step left.
        """
        self.model.train()
        losses: list[Tensor] = []
        rates: list[float] = []
        ended = False
        start = time.perf_counter()
        for parts in _groups(batches, self.config.accumulate):
            rate = learning_rate(self.step, self.total_steps, self.config, self.steps_per_epoch)
            set_rate(self.optimizer, rate)
            rates.append(rate)
            losses.append(self.trained(parts))
            self.last_batch = parts[-1]
            self._update_average()
            self.step += 1
            if report is not None and self.step % 10 == 0:
                localization, classification, _ = losses[-1].tolist()
                report(self.step, {"loc": localization, "cls": classification, "lr": rate})
            asked = stop is not None and self._any_asked(stop)
            if self.step % _LOOK == 0 and not losses[-1].isfinite().all():
                break  # in all processes, which have the same losses: the rest of the pass would mend nothing
            if asked or self.is_done:
                ended = skip + len(losses) < self.steps_per_epoch
                break
        rows = torch.stack(losses).tolist() if losses else []
        self._check_finite(rows)
        self.pass_steps, self.pass_seconds = len(rows), time.perf_counter() - start
        self.positives = int(sum(row[2] for row in rows))
        self.history += [row[:2] for row in rows]
        self.rates += rates
        self.epoch += not ended
        done = self.history[len(self.history) - len(rows) - skip :]
        return sum(map(sum, done)) / max(len(done), 1)

    def _any_asked(self, stop: Callable[[], bool]) -> bool:
        """Whether a process was asked to stop; asking the others waits for the card, so not every time."""
        device = self.model.priors.device
        due = self.processes.count == 1 or device.type == "cpu" or self.step % 10 == 0
        return due and self.processes.any(stop(), device)

    def _check_finite(self, rows: list[list[float]]) -> None:
        bad = [i for i, row in enumerate(rows) if not all(math.isfinite(v) for v in row)]
        if bad:
            raise FloatingPointError(
                f"the loss must stay finite, got {rows[bad[0]][:2]} at step {len(self.history) + bad[0]} "
                f"(epoch {self.epoch + 1}); lower lr={self.config.lr}"
            )
        # No loss tells of the last step, whose weights go into the checkpoint. The average holds them too.
        floats = [v for v in self.average.state_dict().values() if v.is_floating_point()]
        if not torch.stack([v.isfinite().all() for v in floats]).all():
            raise FloatingPointError(
                f"the weights must stay finite, got others after step {len(self.history) + len(rows)} "
                f"(epoch {self.epoch + 1}); lower lr={self.config.lr}"
            )

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
            **self.trained.state(),
            "epoch": self.epoch,
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "history": self.history,
            "rates": self.rates,
            "scores": self.scores,
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
        if self.trained.scaler.is_enabled() and "scaler" in state:
            self.trained.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.history = [list(row) for row in state["history"]]
        self.scores = [dict(row) for row in state.get("scores", [])]
        self.rates = list(state["rates"]) if "rates" in state else self._former_rates(state["config"])

    def _former_rates(self, config: dict[str, Any]) -> list[float]:
        """Of a file of an earlier version, which does not tell them: by its own recipe, not by this one's."""
        former = TrainConfig(**config)
        total = total_steps(former, self.steps_per_epoch)
        return [learning_rate(step, total, former, self.steps_per_epoch) for step in range(self.step)]

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


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group


def train(
    loader: BatchLoader,
    spec: ModelSpec,
    config: TrainConfig,
    checkpoint: str | Path,
    *,
    resume: str | Path | None = None,
    extend: bool = False,
    initial: Callable[[SSD], Any] | None = None,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
    speed: Speed | None = None,
    progress: Callable[..., Any] | None = None,
    validation: Validation | None = None,
    on_epoch: Callable[[Trainer, float], bool | None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Trainer:
    """Train ``spec`` on the batches of ``loader``, writing ``checkpoint`` after every epoch.

    Args:
        loader: the training batches.
        spec: the model.
        config: the recipe.
        checkpoint: the file to write.
        resume: a checkpoint to go on from; spec and config must be the ones it was made with.
        extend: of ``resume``: the recipe may be another one in how long it goes on, at which rate and in
        which
            precision.
        initial: called with the new model, to put other weights into it.
        device: to train on.
        processes: that share the steps; each calls this function, the first one writes.
        speed: how the network is run.
        progress: ``tqdm`` or the like, or None.
        validation: looks at the model after an epoch, or None.
        on_epoch: called after every epoch, whose checkpoint is written, with the trainer and the mean
        loss; true
            ends the run there.
        stop: asked after every step; true ends the run there, with its checkpoint written. Resumed, such a
            run goes through the same batches as one that was not ended.

    Raises:
        CheckpointError: ``resume`` is no checkpoint, or one of another model, recipe or number of images.
        FloatingPointError: the loss is not finite.
        ValueError: a recipe that does not fit the model, the loader or the device.
    """
    torch.manual_seed(config.seed)
    model = spec.build()
    if initial is not None:
        initial(model)
    _check_loader(loader, config)
    trainer = Trainer(model.to(device), config, loader.steps, processes=processes, speed=speed)

    def save(path: str | Path = checkpoint) -> None:
        if processes.is_first:
            save_checkpoint(path, spec, trainer.state())

    if resume is not None:
        resume_from(trainer, spec, resume, device, extend=extend)
        ended = validation is not None and validation.was_enough(trainer)
        if (ended or trainer.is_done) and not _is_same_file(resume, checkpoint):
            save()  # a finished run, into a new folder
        if validation is not None and validation.best is not None and processes.is_first:
            bring_best(trainer, resume, validation.best)
        if ended:
            return trainer
    if processes.is_first and not trainer.is_done:
        warn_if_cold(trainer)
        warn_if_late(trainer)
        warn_if_slow(config, device)
    warned = False
    while not trainer.is_done:
        # An epoch depends on the seed and its number only, whatever this process did before.
        torch.manual_seed(1_000_003 * config.seed + trainer.epoch + 1)
        epoch, skip = trainer.epoch, trainer.step - trainer.epoch * trainer.steps_per_epoch
        loader.set_epoch(epoch, skip)
        total = -(-trainer.total_steps // trainer.steps_per_epoch)
        bar, report = _bar(loader, progress, f"epoch {epoch + 1}/{total}")
        mean = trainer.run_epoch(bar, report, stop=stop, skip=skip)
        whole = trainer.epoch > epoch or trainer.is_done
        warned = warned or warn_if_idle(trainer)
        best = whole and validation is not None and validation.look(trainer)
        # The best one first: a run that ends between the two goes on from before the look, and has it again.
        if best and validation is not None and validation.best is not None:
            save(validation.best)
        save()
        enough = whole and on_epoch is not None and on_epoch(trainer, mean)
        if enough or (stop is not None and processes.any(stop(), trainer.model.priors.device)):
            break
    return trainer


def _check_loader(loader: BatchLoader, config: TrainConfig) -> None:
    if not loader.steps:
        raise ValueError("loader must have at least one image to train on, got none")
    if loader.parts != config.accumulate:
        raise ValueError(
            f"loader must give accumulate = {config.accumulate} batches a step, got {loader.parts}"
        )


def _is_same_file(one: str | Path, other: str | Path) -> bool:
    return Path(other).exists() and Path(one).samefile(other)


def _bar(
    loader: BatchLoader, progress: Callable[..., Any] | None, title: str
) -> tuple[Iterable[Batch], Report | None]:
    if progress is None:
        return loader, None
    bar = progress(loader, desc=title, leave=False)

    def report(step: int, values: dict[str, float]) -> None:
        bar.set_postfix({key: f"{value:.3g}" for key, value in values.items()})

    return bar, report
