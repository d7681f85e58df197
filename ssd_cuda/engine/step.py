"""One step of training, however it is cut: into parts, over processes, in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .optimizer import make_optimizer
from .processes import ALONE, Processes
from .recipe import TrainConfig

if TYPE_CHECKING:
    from ..models import SSD
    from ..ops import GroundTruth

__all__ = ["Speed", "TrainStep"]

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Batch = tuple[Tensor, "GroundTruth"]


@dataclass(frozen=True)
class Speed:
    """How the network is run, which changes no rule of the recipe.

    Attributes:
        channels_last: weights and images in that order of memory.
        compile: a mode of ``torch.compile`` (``"default"``, ``"reduce-overhead"``, which replays CUDA graphs
            ...), or None.

    Example:
        >>> Speed().compile is None
        True
    """

    channels_last: bool = False
    compile: str | None = None


class _Losses(nn.Module):
    """The losses of a model as its forward, which is what DistributedDataParallel watches."""

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, gt: GroundTruth) -> tuple[Tensor, Tensor, Tensor]:
        losses = self.model.loss(images, gt)
        return losses.localization, losses.classification, losses.num_positives


class TrainStep:
    """Gradients of a whole step and the update of the weights.

    The loss is a sum over images, divided by the positives of the step (or by its images,
    ``"per_image"``). Where the step is cut, each piece gives the gradient of its sum and its share of
    the divisor, and the whole divides once at the end: the gradient is that of one process with the joint
    batch, up to rounding and to batch norms, whose statistics are of the pieces.

    Args:
        model: on its device. Its loss never divides by nothing: ``clamp_normalizer`` is switched on.
        config: the recipe.
        processes: that share the steps.
        speed: how the network is run.

    Raises:
        ValueError: a loss that cannot be cut, weights of other classes, more frozen stages than there are,
            SyncBatchNorm on a CPU.
    """

    def __init__(
        self, model: SSD, config: TrainConfig, processes: Processes = ALONE, speed: Speed | None = None
    ) -> None:
        speed = speed or Speed()
        self.model, self.config, self.processes = model, config, processes
        self.device = model.priors.device
        self.channels_last = speed.channels_last
        normalizer = model.loss_config.normalizer
        if normalizer == "global":  # the sum over the processes is taken here
            normalizer = "batch"
        self.cut = config.accumulate > 1 or processes.count > 1
        if self.cut and normalizer not in ("batch", "per_image"):
            raise ValueError(
                f"a loss that is divided by {normalizer!r} cannot be cut into parts or over processes; "
                "'batch' and 'per_image' can"
            )
        mining = replace(model.loss_config.mining, min_negatives=config.min_negatives)
        model.loss_config = replace(
            model.loss_config,
            mining=mining,
            normalizer=normalizer,
            clamp_normalizer=True,
            label_smoothing=config.label_smoothing or model.loss_config.label_smoothing,
        )
        if config.class_weights is not None:
            if len(config.class_weights) != model.num_classes:
                raise ValueError(
                    f"class_weights must be of {model.num_classes} classes, the background's first, got "
                    f"{len(config.class_weights)}"
                )
            model.class_weights = torch.tensor(config.class_weights, device=self.device)
        there = len(model.stages())
        if config.freeze > there:
            raise ValueError(f"freeze must be at most {there}, the stages of the model, got {config.freeze}")
        if config.freeze or config.freeze_norms:
            model.freeze(config.freeze, config.freeze_norms)
        if speed.channels_last:
            model.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.network = self._network(speed)

    def _network(self, speed: Speed) -> nn.Module:
        model: nn.Module = self.model
        if self.config.sync_batchnorm:
            if self.device.type != "cuda":
                raise ValueError(f"sync_batchnorm needs CUDA, got {self.device}")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if speed.compile is not None:
            model.compile(mode=speed.compile)
        network = _Losses(model)  # type: ignore[arg-type]
        if self.processes.count == 1:
            return network
        return DistributedDataParallel(network)

    def __call__(self, parts: Sequence[Batch]) -> Tensor:
        """Train on the batches of this process; ``[3]`` losses and positives of the whole step."""
        self.optimizer.zero_grad(set_to_none=True)
        if not self.cut and len(parts) == 1:
            losses = self._forward(*parts[0])
            self.scaler.scale(losses[0] + losses[1]).backward()
            result = torch.stack([losses[0].detach(), losses[1].detach(), losses[2].to(losses[0].dtype)])
            self._update(None)
            return result
        sums = [self._add_gradient(part, last=i == len(parts) - 1) for i, part in enumerate(parts)]
        localization, classification, mass, positives = self.processes.sum(torch.stack(sums).sum(0))
        mass = mass.clamp(min=1)
        # DistributedDataParallel has taken the mean over the processes, not the sum.
        self._update(self.config.batch_size * self.processes.count / mass)
        return torch.stack([localization / mass, classification / mass, positives])

    def _add_gradient(self, part: Batch, last: bool) -> Tensor:
        """Adds the gradient of the part's sum over ``batch_size``; its sums, its divisor, its positives."""
        images, gt = part
        # The processes meet once a step.
        alone = not last and isinstance(self.network, DistributedDataParallel)
        with self.network.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
            localization, classification, positives = self._forward(images, gt)
            count = positives.to(localization.dtype)
            per_image = self.model.loss_config.normalizer == "per_image"
            mass = torch.full_like(count, len(images)) if per_image else count.clamp(min=1)
            total = (localization + classification) * (mass / self.config.batch_size)
            self.scaler.scale(total).backward()
        share = mass if per_image else count
        return torch.stack(
            [localization.detach() * mass, classification.detach() * mass, share, count]
        ).double()

    def _forward(self, images: Tensor, gt: GroundTruth) -> tuple[Tensor, Tensor, Tensor]:
        images = images.to(self.device, non_blocking=True)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        gt = gt.to(self.device, non_blocking=True)
        if self.config.amp == "none":
            return self.network(images, gt)
        with torch.autocast(self.device.type, _HALVES[self.config.amp]):
            return self.network(images, gt)

    def _update(self, factor: Tensor | None) -> None:
        """Weights, from gradients that are still to be multiplied by ``factor``."""
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if factor is not None:
            for parameter in trained:
                assert parameter.grad is not None
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(trained, self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        """What goes on with the run: the optimiser, and the scale of fp16."""
        scaler = {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        return {"optimizer": self.optimizer.state_dict(), **scaler}
