"""What is told of a run: a line an epoch, ``metrics.csv``, TensorBoard."""

from __future__ import annotations

import csv
import io
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._names import counted
from .outputs import write_text
from .recipe import TrainConfig
from .validation import Validation

if TYPE_CHECKING:
    from ..models import SSD
    from ..ops import GroundTruth
    from .train import Trainer

__all__ = [
    "COLUMNS",
    "RunLog",
    "core_seconds",
    "warn_if_cold",
    "warn_if_idle",
    "warn_if_late",
    "warn_if_slow",
]

COLUMNS = (
    "epoch", "step", "lr", "loss", "localization", "classification", "val_loss", "val_localization",
    "val_classification", "ap50", "map", "images_per_second", "core_share", "seconds",
)  # fmt: skip
_MEASURED = COLUMNS[-3:]  # of the machine, not of the run: kept from an earlier file


class RunLog:
    """Writes and says what an epoch brought.

    Args:
        folder: gets ``metrics.csv``, one row an epoch, and with ``tensorboard`` its files in ``tensorboard``.
        say: takes a line.
        validation: of the run, or None.
        tensorboard: write for TensorBoard too.

    Raises:
        ImportError: TensorBoard is asked for and not installed.

    Example:
        >>> RunLog(Path("runs"), print).path.name
        'metrics.csv'
    """

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], Any],
        validation: Validation | None = None,
        *,
        tensorboard: bool = False,
    ) -> None:
        self.path, self.say, self.validation = folder / "metrics.csv", say, validation
        self.writer = _summary_writer(folder / "tensorboard") if tensorboard else None
        self.measured: dict[int, dict[str, float]] = {}

    def on_epoch(self, trainer: Trainer, mean: float) -> bool:
        """For ``on_epoch`` of :func:`~ssd_cuda.engine.train.train`: true where the run has brought enough."""
        if not self.measured:
            self.measured = _read_measured(self.path)
        number = -(-trainer.step // trainer.steps_per_epoch)
        self.measured[number] = _measure(trainer)
        rows = [_row(trainer, epoch) | self.measured.get(epoch, {}) for epoch in range(1, number + 1)]
        row = rows[-1]
        if trainer.processes.is_first:
            write_text(self.path, _as_csv(rows))
        if self.writer is not None:
            for key in COLUMNS[2:]:
                if row.get(key) is not None:
                    self.writer.add_scalar(key, row[key], trainer.step)
            self.writer.flush()
        self.say(_line(row, -(-trainer.total_steps // trainer.steps_per_epoch), mean))
        if self.validation is None or not trainer.scores or not self.validation.is_enough(trainer.scores):
            return False
        self.say(f"no better AP50 in {counted(self.validation.patience or 0, 'look')}: it is enough")
        return True


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"--tensorboard needs tensorboard ({error}): type `pip install tensorboard`"
        ) from error
    return SummaryWriter(str(folder))


def _line(row: dict[str, Any], epochs: int, mean: float) -> str:
    parts = [f"epoch {row['epoch']}/{epochs}", f"loss {mean:.3f}"]
    if row["val_loss"] is not None:
        scores = [
            f"{name} {row[key]:.3f}"
            for name, key in (("AP50", "ap50"), ("mAP", "map"))
            if row[key] is not None
        ]
        parts += [f"validation {row['val_loss']:.3f}", *scores]
    parts += [f"{row['images_per_second']:.1f} images/s, {100 * row['core_share']:.1f}% of it in the core"]
    return "  ".join(parts)


def _row(trainer: Trainer, epoch: int) -> dict[str, Any]:
    """What the run itself knows of an epoch."""
    end = min(epoch * trainer.steps_per_epoch, trainer.step)
    losses = trainer.history[(epoch - 1) * trainer.steps_per_epoch : end]
    localization, classification = (statistics.fmean(column) for column in zip(*losses, strict=True))
    row = dict.fromkeys(COLUMNS) | {
        "epoch": epoch,
        "step": end,
        "lr": trainer.rates[end - 1],  # --extend may have brought another since
        "loss": localization + classification,
        "localization": localization,
        "classification": classification,
    }
    for scores in trainer.scores:
        if scores["step"] == end:
            row |= {"ap50": scores["ap50"], "map": scores["map"]}
            row |= {f"val_{key}": scores[key] for key in ("localization", "classification")}
            row["val_loss"] = scores["localization"] + scores["classification"]
    return row


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def _read_measured(path: Path) -> dict[int, dict[str, float]]:
    """What an earlier part of the run measured; nothing where the file is not of this kind."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                int(row["epoch"]): {key: float(row[key]) for key in _MEASURED if row[key]}
                for row in csv.DictReader(file)
            }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _measure(trainer: Trainer) -> dict[str, float]:
    """Images a second of the last pass, and the part of its time that matching and loss take."""
    seconds = max(trainer.pass_seconds, 1e-9)
    images, gt = trainer.last_batch
    device = trainer.average.priors.device
    core = core_seconds(trainer.average, images.to(device), gt.to(device))
    batches = trainer.pass_steps * trainer.config.accumulate
    return {
        # counted, since of fewer images than batch_size a step has them all
        "images_per_second": batches * trainer.processes.count * len(images) / seconds,
        "core_share": min(1.0, core * batches / seconds),
        "seconds": seconds,
    }


def core_seconds(model: SSD, images: Tensor, gt: GroundTruth, repeats: int = 3) -> float:
    """Seconds of matching, loss and its backward for a batch, on the predictions of ``model``: a median.

    Args:
        model: in ``eval()`` mode.
        images: as the model takes them, on its device.
        gt: their ground truth.
        repeats: how often it is measured.

    Example:
        >>> model = models.ssd_small(num_classes=3, image_size=(64, 64)).eval()
        >>> gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.6]])], [torch.tensor([1])])
        >>> core_seconds(model, torch.rand(1, 3, 64, 64), gt) > 0
        True
    """
    with torch.no_grad():
        loc, conf = model(images)
    loc, conf = (value.detach().requires_grad_() for value in (loc, conf))
    times = []
    for _ in range(repeats):
        _wait(loc.device)
        start = time.perf_counter()
        losses = model.loss_of(loc, conf, gt)
        torch.autograd.grad(losses.localization + losses.classification, (loc, conf))
        _wait(loc.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warn_if_idle(trainer: Trainer) -> bool:
    """Warn if the last pass of ``trainer`` cannot have taught anything; whether it did.

    Example:
        >>> model = models.ssd_small(num_classes=3, image_size=(64, 64))
        >>> from ssd_cuda.engine.train import TrainConfig, Trainer
        >>> warn_if_idle(Trainer(model, TrainConfig(), 1))  # no pass yet
        False
    """
    losses = trainer.history[len(trainer.history) - trainer.pass_steps :]
    if not losses:
        return False
    zero = all(value == 0 for row in losses for value in row)
    if trainer.positives == 0:
        what = f"no prior matched an object in {counted(len(losses), 'step')}{', and the loss was 0' * zero}"
        advice = "the images have no objects, or none that the priors reach: see `ssd-cuda data`"
    elif zero:
        what, advice = f"the loss was 0 in {counted(len(losses), 'step')}", "nothing is learned any more"
    else:
        return False
    warnings.warn(f"{what}: {advice}", stacklevel=2)
    return True


def warn_if_cold(trainer: Trainer) -> bool:
    """Warn if the run of ``trainer`` ends in its warm-up, with a rate that teaches little; whether it does.

    Example:
        >>> model = models.ssd_small(num_classes=3, image_size=(64, 64))
        >>> from ssd_cuda.engine.train import TrainConfig, Trainer
        >>> warn_if_cold(Trainer(model, TrainConfig(steps=101, warmup_steps=100), 1))
        False
    """
    config, steps = trainer.config, trainer.total_steps
    if config.warmup_steps < steps:
        return False
    warnings.warn(
        f"warm-up takes {counted(config.warmup_steps, 'step')} and the run has {steps}: the rate never "
        f"reaches {config.lr:g}; see --warmup-steps (warmup_steps)",
        stacklevel=3,
    )
    return True


def warn_if_late(trainer: Trainer) -> bool:
    """Warn of milestones that the run of ``trainer`` does not reach; whether there are any.

    Example:
        >>> model = models.ssd_small(num_classes=3, image_size=(64, 64))
        >>> from ssd_cuda.engine.train import TrainConfig, Trainer
        >>> warn_if_late(Trainer(model, TrainConfig(epochs=2, schedule="steps", milestones=(2,)), 1))
        False
    """
    config = trainer.config
    unit = trainer.steps_per_epoch if config.steps is None else 1
    late = [milestone for milestone in config.milestones if unit * milestone > trainer.total_steps]
    if late:
        end = counted(trainer.total_steps // unit, "epoch" if config.steps is None else "step")
        warnings.warn(
            f"the run ends after {end}, before the rate falls at {', '.join(map(str, late))}; see "
            "--milestones (milestones)",
            stacklevel=3,
        )
    return bool(late)


def warn_if_slow(config: TrainConfig, device: torch.device | str) -> bool:
    """Warn of a precision that ``device`` has no instructions for; whether it does.

    Example:
        >>> warn_if_slow(TrainConfig(amp="bf16"), "cpu")
        False
    """
    slow = config.amp == "fp16" and torch.device(device).type == "cpu"
    if slow:
        warnings.warn(
            "fp16 runs at a small part of the speed of float32 on a CPU: --amp bf16 or none (amp=) suits it",
            stacklevel=3,
        )
    return slow
