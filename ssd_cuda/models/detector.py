"""The single-shot detector: feature maps, one head per map, priors; loss and detection through the ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import ops
from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from ..nn._scripting import NotScriptable
from .layers import SSDHead

if TYPE_CHECKING:
    from ..ops import Detections, GroundTruth
    from ..ops.multibox import MultiBoxLosses

__all__ = ["SSD"]


def _make_constants_anew(model: SSD, keys: object) -> None:
    model._make_constants()


class SSD(NotScriptable, nn.Module):
    """A backbone that gives feature maps, a :class:`SSDHead` on each, and the priors of all of them.

    Args:
        backbone: ``[B, 3, H, W]`` -> a list of feature maps; its ``out_channels`` lists their channels.
        spec: of the priors, one level per feature map; ``forward`` takes images of its size only.
        num_classes: classes, background included.
        mean: per channel, subtracted from images in [0, 1].
        std: per channel, divides after that.
        loss_config: rule of :meth:`loss`.
        detect_config: rule of :meth:`detect`.
        heads: one per map, ``[B, channels, H, W]`` -> offsets ``[B, P, 4]`` and logits ``[B, P, C]``; None:
            an :class:`SSDHead` each.

    Attributes:
        priors: ``[P, 4]``, a buffer outside the state dict: it moves with the model and is never loaded.
            float64 in a float64 model, float32 in any other, since in half precision boxes would move.
        mean: ``[1, 3, 1, 1]``, in the dtype of the model, as the priors outside the state dict; and so is
        std.

    All three follow from the arguments, so a model that is made under ``torch.device("meta")`` has them after
    ``to_empty()`` as well as after ``load_state_dict()``, with or without ``assign=True``.

    Example:
        >>> model = models.ssd_small(num_classes=4, image_size=(64, 64))
        >>> boxes, labels = torch.tensor([[0.1, 0.1, 0.5, 0.6]]), torch.tensor([3])
        >>> gt = ops.GroundTruth.from_list([boxes] * 2, [labels] * 2)
        >>> losses = model.loss(torch.rand(2, 3, 64, 64), gt)  # images in [0, 1], boxes in fractions of them
        >>> found = model.eval().detect(torch.rand(1, 3, 64, 64))
        >>> found.boxes.shape
        torch.Size([1, 200, 4])
    """

    priors: Tensor
    class_weights: Tensor | None
    mean: Tensor
    std: Tensor
    frozen_stages = 0
    frozen_norms = False

    def __init__(
        self,
        backbone: nn.Module,
        spec: PriorSpec,
        num_classes: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        loss_config: MultiBoxConfig | dict | str,
        detect_config: DetectConfig | dict | str,
        heads: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(f"num_classes must count the background and be at least 2, got {num_classes!r}")
        channels: list[int] = backbone.out_channels  # type: ignore[assignment]
        if len(channels) != spec.num_levels:
            raise ValueError(
                f"spec must have one level per feature map ({len(channels)}), got {spec.num_levels}"
            )
        self.backbone = backbone
        if heads is None:
            cells = zip(channels, spec.boxes_per_cell(), strict=True)
            heads = [SSDHead(width, boxes, num_classes) for width, boxes in cells]
        self.heads = nn.ModuleList(heads)
        self.num_classes = num_classes
        self.spec = spec
        self.image_size = (int(spec.image_size[0]), int(spec.image_size[1]))
        self.loss_config = MultiBoxConfig.of(loss_config, "loss_config")
        self.detect_config = DetectConfig.of(detect_config, "detect_config")
        self._mean_std = tuple(map(float, mean)), tuple(map(float, std))
        for name in ("priors", "mean", "std", "class_weights"):
            self.register_buffer(name, None, persistent=False)
        self._make_constants(torch.empty(0))  # as new parameters are: of the default device and dtype
        self.register_load_state_dict_post_hook(_make_constants_anew)

    def _make_constants(self, like: Tensor | None = None) -> None:
        """Priors, mean and std anew, on the device and in the dtype of ``like``; None: of the parameters."""
        if like is None:
            like = next(self.parameters())
        device, dtype = like.device, like.dtype
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.priors = ops.generate_priors(self.spec, device, wide).clone()
        self.mean, self.std = (
            torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1) for values in self._mean_std
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SSD:
        """What ``to``, ``half`` and ``to_empty`` come to: the constants are made, not converted."""
        before = self.mean
        super()._apply(fn, recurse)
        if (before.device, before.dtype) != (self.mean.device, self.mean.dtype):
            self._make_constants(self.mean)
        return self

    def stages(self) -> list[list[nn.Module]]:
        """The parts of the backbone that weights of another task fill, from the image on: what can be frozen.

        A backbone names them by a method or a list of modules ``stages``. Of another one they are the
        parts of its first child, which most have their classification network in, or else its children.
        """
        named = getattr(self.backbone, "stages", None)
        if named is not None and not isinstance(named, nn.ModuleList):
            return named()
        first = next(self.backbone.children(), self.backbone)
        parts = named or list(first.children()) or self.backbone.children()
        return [[child] for child in parts]

    def batch_norms(self) -> list[nn.Module]:
        """Every batch norm of the model."""
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]

    def freeze(self, stages: int, norms: bool = False) -> SSD:
        """Train all but the first ``stages`` of :meth:`stages`: their weights and norms stay as they are.

        Their batch norms stay in ``eval()`` mode, whatever :meth:`train` says; 0 frees everything.

        Args:
            stages: how many, from the image on.
            norms: every batch norm stays as it is, of the other stages too.

        Raises:
            ValueError: fewer than 0, more than there are.

        Example:
            >>> model = models.ssd_small(num_classes=4, image_size=(64, 64)).freeze(2).train()
            >>> [stage[0].training for stage in model.stages()]
            [False, False, True, True, True, True]
        """
        there = self.stages()
        if isinstance(stages, bool) or not isinstance(stages, int) or not 0 <= stages <= len(there):
            raise ValueError(f"stages must be a number from 0 to {len(there)}, got {stages!r}")
        self.frozen_stages, self.frozen_norms = stages, norms
        for number, stage in enumerate(there):
            for module in stage:
                module.requires_grad_(number >= stages)
        if norms:
            for module in self.batch_norms():
                module.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> SSD:
        """As of every module, but for what is frozen, which stays in ``eval()`` mode."""
        super().train(mode)
        for stage in self.stages()[: self.frozen_stages]:
            for module in stage:
                module.eval()
        for module in self.batch_norms() if self.frozen_norms else ():
            module.eval()
        return self

    def to_empty(self, *, device: torch.device | str | int | None, recurse: bool = True) -> SSD:
        """As of every module; on the device that the model is on already the constants would be lost."""
        super().to_empty(device=device, recurse=recurse)
        self._make_constants(self.mean)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw predictions, one row per prior.

        Args:
            images: ``[B, 3, H, W]``, uint8, or floating point in [0, 1]; (H, W) is ``image_size``.

        Returns:
            loc ``[B, P, 4]`` (encoded offsets) and conf ``[B, P, C]`` (logits).

        Raises:
            TypeError: not a tensor, or another dtype.
            ValueError: another shape.
        """
        return self.predict(images)[:2]  # type: ignore[return-value]

    def predict(self, images: Tensor) -> tuple[Tensor, ...]:
        """:meth:`forward`, and behind loc and conf what else the heads give: ``[B, P, n]`` landmarks."""
        self._check_images(images)
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        features = self.backbone((images - self.mean) / self.std)
        outputs = [head(feature) for head, feature in zip(self.heads, features, strict=True)]
        return tuple(torch.cat(parts, 1) for parts in zip(*outputs, strict=True))

    def loss(self, images: Tensor, gt: GroundTruth) -> MultiBoxLosses:
        """The MultiBox loss of a batch.

        Args:
            images: as :meth:`forward` takes them.
            gt: boxes in fractions of the image, whatever the priors are in; labels from 1, 0 is background.

        Returns:
            ``(localization, classification, num_positives)``; train on the sum of the first two.
        """
        loc, conf = self(images)
        return self.loss_of(loc, conf, gt)

    def loss_of(self, loc: Tensor, conf: Tensor, gt: GroundTruth) -> MultiBoxLosses:
        """:meth:`loss` of what :meth:`forward` gave."""
        if self.spec.pixels:
            gt = replace(gt, boxes=gt.boxes * self._pixels(gt.boxes))
        return ops.multibox_loss(
            loc, conf, gt, self.priors, self.loss_config, class_weights=self.class_weights
        )

    @torch.no_grad()
    def detect(self, images: Tensor, config: DetectConfig | None = None) -> Detections:
        """Detections of a batch, boxes in fractions of the image; put the model in ``eval()`` first.

        Args:
            images: as :meth:`forward` takes them.
            config: rule of the post-process; None: the model's own ``detect_config``.
        """
        return self.post_process(self.predict(images), config)

    def post_process(self, outputs: tuple[Tensor, ...], config: DetectConfig | None = None) -> Detections:
        """:meth:`detect` of what :meth:`predict` gave."""
        return self._detections(outputs[0], outputs[1], config)

    @torch.no_grad()
    def detections_of(self, loc: Tensor, conf: Tensor, config: DetectConfig | None = None) -> Detections:
        """:meth:`detect` of what :meth:`forward` gave."""
        return self._detections(loc, conf, config)

    def _detections(self, loc: Tensor, conf: Tensor, config: DetectConfig | None) -> Detections:
        """One no_grad is around it, not two: torch.export cannot save a program with one in another."""
        found = ops.detect(loc, conf, self.priors, config or self.detect_config)
        if self.spec.pixels:
            found = ops.Detections(found.boxes / self._pixels(found.boxes), *found[1:])
        return found

    def _pixels(self, like: Tensor) -> Tensor:
        """[4] from fractions of the image to pixels."""
        height, width = self.image_size
        return like.new_tensor([width, height, width, height])

    def _check_images(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a tensor, got {type(images).__name__}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images must be uint8 or floating point, got {images.dtype}")
        wider = torch.promote_types(images.dtype, self.mean.dtype) != self.mean.dtype
        if wider and not torch.is_autocast_enabled(images.device.type):  # else torch speaks of a bias
            raise TypeError(f"images must be uint8 or {self.mean.dtype}, as the model is, got {images.dtype}")
        if images.dim() != 4 or images.shape[1] != 3 or tuple(images.shape[2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(f"images must have shape [B, 3, {height}, {width}], got {list(images.shape)}")
