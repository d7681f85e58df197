"""Which weights a recipe trains, at which rate, by which optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .recipe import TrainConfig

if TYPE_CHECKING:
    from ..models import SSD

__all__ = ["make_optimizer", "parameter_groups", "set_rate"]


def parameter_groups(model: SSD, config: TrainConfig) -> list[dict[str, Any]]:
    """What the optimiser takes: weights of two dimensions and more, then the others; by rate within both.

    Only these are decayed, unless ``config.decay_all``. A group's ``lr_factor`` is what its rate is
    multiplied by: ``config.backbone_lr`` for the stages of the backbone, ``config.bias_lr`` for biases.
    Those of the first ``config.freeze`` stages are left out, with ``config.freeze_norms`` all batch
    norms, and so is what needs no gradient otherwise.

    Example:
        >>> model = models.ssd_small(num_classes=2, image_size=(64, 64))
        >>> [group["weight_decay"] for group in parameter_groups(model, TrainConfig())]  # weights, others
        [0.01, 0.0]
    """
    stages = model.stages()
    frozen = _identities(stages[: config.freeze])
    if config.freeze_norms:
        frozen |= _identities([model.batch_norms()])
    backbone = _identities(stages)
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in frozen]
    for name, parameter in sorted(named, key=lambda entry: entry[1].dim() <= 1):  # stable
        weight = parameter.dim() > 1
        factor = config.backbone_lr if id(parameter) in backbone else 1.0
        factor *= config.bias_lr if name.endswith("bias") else 1.0
        decay = config.weight_decay if weight or config.decay_all else 0.0
        groups.setdefault((weight, factor, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (_, factor, decay), parameters in groups.items()
    ]


def _identities(stages: list[list[nn.Module]]) -> set[int]:
    return {id(p) for stage in stages for module in stage for p in module.parameters()}


def make_optimizer(model: SSD, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of the recipe on :func:`parameter_groups`.

    Example:
        >>> model = models.ssd_small(num_classes=2, image_size=(64, 64))
        >>> type(make_optimizer(model, TrainConfig(optimizer="sgd"))).__name__
        'SGD'
    """
    groups = parameter_groups(model, config)
    # fused: one pass over the weights instead of a dozen operators for each of them
    if config.optimizer == "sgd":
        sgd = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
        # torch makes them at the first step, and leaves them as memory was where GradScaler skips that one.
        for parameter in (p for group in groups for p in group["params"] if config.momentum):
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """``rate`` times its own factor for every group.

    Example:
        >>> model = models.ssd_small(num_classes=2, image_size=(64, 64))
        >>> optimizer = make_optimizer(model, TrainConfig(bias_lr=2.0))
        >>> set_rate(optimizer, 0.1)
        >>> sorted({group["lr"] for group in optimizer.param_groups})
        [0.1, 0.2]
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
