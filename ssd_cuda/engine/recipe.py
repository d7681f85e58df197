"""The recipe of a training run, and the schedule and the groups of parameters that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..config import check_choice, check_integer, check_range
from ..data.transforms import PRESETS

__all__ = ["TrainConfig", "learning_rate", "parameter_groups"]

# name -> lowest and highest; the highest ones keep seeds and sums of them within 64 bits
_COUNTS = {
    "epochs": (1, 10**6),
    "batch_size": (1, 10**6),
    "warmup_steps": (0, 10**9),
    "seed": (0, 10**12),
    "workers": (0, 1024),
    "min_negatives": (0, 10**9),
}
_RATES = {"lr": (1e-12, 1e6), "weight_decay": (0, 1e6), "clip_norm": (1e-12, 1e12), "average_decay": (0, 1)}


@dataclass(frozen=True)
class TrainConfig:
    """The recipe: AdamW, linear warm-up, cosine decay to zero, averaged weights.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        lr: peak learning rate.
        weight_decay: of weights; biases and norms are not decayed.
        warmup_steps: steps of linear warm-up.
        clip_norm: gradients are cut at this global norm.
        average_decay: decay of the exponential moving average of the weights, which is what is evaluated
            and shipped; 0 makes it the last weights.
        augment: preset of :func:`ssd_cuda.data.make_transform`.
        seed: of initial weights, order of images and augmentation.
        workers: data loading processes; 0 and more than 0 draw different augmentations.
        min_negatives: priors that an image trains as background even when it has no object; 0 leaves images
            without objects without effect, as in the paper.

    Example:
        >>> TrainConfig(epochs=3, lr=1e-3).batch_size
        8
    """

    epochs: int = 12
    batch_size: int = 8
    lr: float = 2e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 100
    clip_norm: float = 5.0
    average_decay: float = 0.99
    augment: str = "flips"
    seed: int = 0
    workers: int = 1
    min_negatives: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _COUNTS.items():
            check_integer(name, getattr(self, name))
            check_range(name, getattr(self, name), low, high)
        for name, bounds in _RATES.items():
            check_range(name, getattr(self, name), *bounds)
        check_choice("augment", self.augment, PRESETS)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """The rate of step 0 .. total - 1: warm-up times half a cosine.

    Example:
        >>> config = TrainConfig(lr=1e-3, warmup_steps=1)
        >>> learning_rate(0, 100, config), round(learning_rate(50, 100, config), 6)  # then the cosine
        (0.0005, 0.0005)
    """
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * step / total))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters that are decayed, and the others.

    Example:
        >>> model = models.ssd_small(num_classes=2, image_size=(64, 64))
        >>> [group["weight_decay"] for group in parameter_groups(model, 0.01)]  # weights, others
        [0.01, 0.0]
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
