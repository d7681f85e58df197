"""The recipe of a training run, and the learning rate that follows from it."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..config import MultiBoxConfig, check_choice, check_flag, check_integer, check_range
from ..data.transforms import PRESETS

__all__ = ["TrainConfig", "learning_rate", "total_steps"]

# name -> lowest and highest; the highest ones keep seeds and sums of them within 64 bits
_COUNTS = {
    "epochs": (1, 10**6),
    "steps": (1, 10**9),
    "batch_size": (1, 10**6),
    "accumulate": (1, 10**6),
    "warmup_steps": (0, 10**9),
    "freeze": (0, 1000),
    "seed": (0, 10**12),
    "workers": (0, 1024),
    "min_negatives": (0, 10**9),
}
_RATES: dict[str, tuple[float, float]] = {
    "lr": (1e-12, 1e6),
    "momentum": (0, 1),
    "weight_decay": (0, 1e6),
    "bias_lr": (0, 1e6),
    "backbone_lr": (0, 1e6),
    "gamma": (0, 1),
    "warmup_start": (0, 1),
    "clip_norm": (1e-12, 1e12),
    "average_decay": (0, 1),
}
_OPTIONAL = ("steps", "warmup_start", "clip_norm")
Amp = Literal["none", "bf16", "fp16"]
_CHOICES: dict[str, tuple[Any, ...]] = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "steps", "constant"),
    "amp": get_args(Amp),
    "augment": PRESETS,
}


@dataclass(frozen=True)
class TrainConfig:
    """The recipe. As it stands: AdamW, linear warm-up, cosine decay to zero, averaged weights.

    Attributes:
        epochs: passes over the training images.
        steps: steps of the whole run instead, as the paper counts; None: ``epochs`` says it.
        batch_size: images a step, over all processes and parts.
        accumulate: parts in which a process takes its share of a step, for batches larger than memory.
        optimizer: ``"adamw"`` or ``"sgd"``.
        lr: peak learning rate.
        momentum: of SGD.
        weight_decay: of weights.
        decay_all: decay biases and norms too (torchvision); else weights of two dimensions and more alone.
        bias_lr: factor on the rate of biases (caffe: 2).
        backbone_lr: factor on the rate of the stages of the backbone, for fine-tuning.
        freeze: stages of the backbone that are not trained, counted from the image
            (:meth:`ssd_cuda.models.SSD.freeze`).
        freeze_norms: every batch norm stays as it is.
        schedule: what becomes of the rate after the warm-up: half a ``"cosine"`` to zero, times ``gamma`` at
            every one of ``milestones`` (``"steps"``), or nothing (``"constant"``).
        milestones: in epochs, or in steps where ``steps`` is given; ascending.
        gamma: factor at a milestone.
        warmup_steps: steps of linear warm-up.
        warmup_start: where it starts, as a part of ``lr``; None: ``1 / (warmup_steps + 1)``.
        clip_norm: gradients are cut at this global norm; None: not cut.
        average_decay: decay of the exponential moving average of the weights, which is what is evaluated
            and shipped; 0 makes it the last weights.
        amp: ``"bf16"`` or ``"fp16"``: convolutions in half precision, weights and loss in float32.
        sync_batchnorm: statistics of batch norms over all processes; CUDA only.
        augment: preset of :func:`ssd_cuda.data.make_transform`.
        seed: of initial weights, order of images and augmentation.
        workers: data loading processes.
        min_negatives: priors that an image trains as background even when it has no object; 0 leaves images
            without objects without effect, as in the paper.
        label_smoothing: of the classification loss, as in :class:`ssd_cuda.MultiBoxConfig`.
        class_weights: of the classification loss, one a class with the background first, as in
            :func:`ssd_cuda.ops.multibox_loss`; None: 1 each.

    Example:
        >>> TrainConfig(epochs=3, lr=1e-3).batch_size
        8
    """

    epochs: int = 12
    steps: int | None = None
    batch_size: int = 8
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 1e-2
    decay_all: bool = False
    bias_lr: float = 1.0
    backbone_lr: float = 1.0
    freeze: int = 0
    freeze_norms: bool = False
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_steps: int = 100
    warmup_start: float | None = None
    clip_norm: float | None = 5.0
    average_decay: float = 0.99
    amp: Amp = "none"
    sync_batchnorm: bool = False
    augment: str = "flips"
    seed: int = 0
    workers: int = 1
    min_negatives: int = 0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in _COUNTS.items():
            if getattr(self, name) is not None or name not in _OPTIONAL:
                check_integer(name, getattr(self, name))
                check_range(name, getattr(self, name), least, most)
        for name, bounds in _RATES.items():
            if getattr(self, name) is not None or name not in _OPTIONAL:
                check_range(name, getattr(self, name), *bounds)
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("decay_all", "freeze_norms", "sync_batchnorm"):
            check_flag(name, getattr(self, name))
        self._check_milestones()
        MultiBoxConfig(label_smoothing=self.label_smoothing)
        self._check_weights()

    def _check_weights(self) -> None:
        if self.class_weights is None:
            return
        if not isinstance(self.class_weights, (list, tuple)) or len(self.class_weights) < 2:
            raise TypeError(
                f"class_weights must be a list of numbers, the background's first, got {self.class_weights!r}"
            )
        for weight in self.class_weights:
            check_range("class_weights", weight, 0)
        object.__setattr__(self, "class_weights", tuple(map(float, self.class_weights)))

    def _check_milestones(self) -> None:
        if not isinstance(self.milestones, (list, tuple)):
            raise TypeError(f"milestones must be a list of counts, got {self.milestones!r}")
        for count in self.milestones:
            check_integer("milestones", count, 1)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must ascend, got {list(self.milestones)}")
        if self.milestones and self.schedule != "steps":
            raise ValueError(
                f"milestones are of the schedule 'steps', got {list(self.milestones)} with {self.schedule!r}"
            )
        object.__setattr__(self, "milestones", tuple(self.milestones))


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """How many steps a run has.

    Example:
        >>> total_steps(TrainConfig(epochs=3), 10), total_steps(TrainConfig(steps=25), 10)
        (30, 25)
    """
    return config.epochs * steps_per_epoch if config.steps is None else config.steps


def learning_rate(step: int, total: int, config: TrainConfig, steps_per_epoch: int = 1) -> float:
    """The rate of step 0 .. total - 1: the schedule times the warm-up.

    Args:
        steps_per_epoch: of the milestones that are epochs.

    Example:
        >>> config = TrainConfig(lr=1e-3, warmup_steps=1)
        >>> learning_rate(0, 100, config), round(learning_rate(50, 100, config), 6)  # then the cosine
        (0.0005, 0.0005)
    """
    return config.lr * _warm_up(step, config) * _schedule(step, total, config, steps_per_epoch)


def _warm_up(step: int, config: TrainConfig) -> float:
    if config.warmup_start is None:
        return min(1.0, (step + 1) / (config.warmup_steps + 1))
    if step >= config.warmup_steps:
        return 1.0
    return config.warmup_start + (1 - config.warmup_start) * step / config.warmup_steps


def _schedule(step: int, total: int, config: TrainConfig, steps_per_epoch: int) -> float:
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / total))
    if config.schedule == "constant":
        return 1.0
    unit = steps_per_epoch if config.steps is None else 1
    return config.gamma ** bisect_right([unit * milestone for milestone in config.milestones], step)
