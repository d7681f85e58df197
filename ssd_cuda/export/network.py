"""What is exported: a network, its priors and its rule of detection, whatever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._names import counted
from ..config import DetectConfig
from ..models import SSD, LandmarkSSD
from ..nn import PostProcess

__all__ = ["Network", "describe", "network_of"]


@dataclass
class Network:
    """Args of every exporter.

    Attributes:
        module: the inputs -> loc ``[B, P, 4]`` and conf ``[B, P, C]``, or as the layout ``"bcp"`` has them;
            and of a :class:`~ssd_cuda.models.LandmarkSSD` codes ``[B, P, 10]``.
        priors: ``[P, 4]``.
        config: rule of detection.
        scale: ``[4]``, which the boxes are divided by, or None.
        inputs: names of the inputs.
        example: a batch of two of them.
        facts: what the metadata says beside the rule.
    """

    module: nn.Module
    priors: Tensor
    config: DetectConfig
    scale: Tensor | None
    inputs: tuple[str, ...]
    example: tuple[Tensor, ...]
    facts: dict[str, Any]
    landmarks: bool = False


class _ModelNetwork(nn.Module):
    """All that the heads of a model give."""

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model.predict(images)


class _TorchvisionNetwork(nn.Module):
    """Images of the one size of a torchvision SSD, normalised as its transform does."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        for name in ("image_mean", "image_std"):
            values = torch.tensor(getattr(model.transform, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values.to(next(model.parameters())), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.dtype == torch.uint8:
            images = images.to(self.image_mean.dtype) / 255
        features = self.backbone((images - self.image_mean) / self.image_std)
        features = [features] if isinstance(features, Tensor) else list(features.values())
        outputs = self.head(features)
        return outputs["bbox_regression"], outputs["cls_logits"]


class _Given(nn.Module):
    """The offsets and logits of a network that is not here."""

    def forward(self, loc: Tensor, conf: Tensor) -> tuple[Tensor, Tensor]:
        return loc, conf


def network_of(
    model: nn.Module,
    *,
    input: str = "float32",
    config: DetectConfig | None = None,
    classes: Sequence[str] | None = None,
    priors: Tensor | None = None,
    num_classes: int | None = None,
) -> Network:
    """The parts of ``model``; the arguments are those of :func:`ssd_cuda.export.to_onnx`."""
    if input not in ("float32", "uint8"):
        raise ValueError(f"input must be 'float32' or 'uint8', got {input!r}")
    if model.training and not isinstance(model, PostProcess):  # whose modes are one
        raise ValueError("model must be in eval() mode to be exported, got one in train() mode")
    if isinstance(model, PostProcess):
        network = _post_process(model, priors, num_classes)
    else:
        if priors is not None or num_classes is not None:
            raise ValueError("priors and num_classes are for a PostProcess; a model has its own")
        network = _of_model(model, input) if isinstance(model, SSD) else _of_torchvision(model, input)
    if config is not None:
        if not isinstance(config, DetectConfig):
            raise TypeError(f"config must be a DetectConfig, got {type(config).__name__}")
        network.config = config
    if network.priors.dtype == torch.float64 or any(t.dtype == torch.float64 for t in network.example):
        raise ValueError("model must not be float64 to be exported; convert it with .float()")
    return replace(network, facts={**network.facts, **_class_names(classes, network.facts["num_classes"])})


def _class_names(classes: Sequence[str] | None, num_classes: int) -> dict[str, Any]:
    if classes is None:
        return {}
    if len(classes) != num_classes - 1:
        raise ValueError(
            f"classes must name the {counted(num_classes - 1, 'class')} of the model, got {len(classes)}"
        )
    return {"classes": list(classes)}


def dtype_of(tensor: Tensor) -> str:
    """``"float32"`` and so on."""
    return str(tensor.dtype).removeprefix("torch.")


def _images(size: Sequence[int], input: str, like: Tensor) -> Tensor:
    shape = (2, 3, *size)
    if input == "uint8":
        return torch.zeros(shape, dtype=torch.uint8, device=like.device)
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


def _facts(images: Tensor, num_classes: int) -> dict[str, Any]:
    size = images.shape[2:]
    values = "0 to 255" if images.dtype == torch.uint8 else "0 to 1"
    return {
        "image_size": list(size),
        "input": f"images [batch, 3, {size[0]}, {size[1]}], {dtype_of(images)}, {values}, RGB",
        "boxes": "x1, y1, x2, y2 in fractions of the image",
        "num_classes": num_classes,
    }


def _of_model(model: SSD, input: str) -> Network:
    height, width = model.image_size
    scale = model.priors.new_tensor([width, height, width, height]) if model.spec.pixels else None
    example = _images(model.image_size, input, model.mean)
    facts = {**_facts(example, model.num_classes), "prior_spec": asdict(model.spec)}
    module, landmarks = _ModelNetwork(model).eval(), isinstance(model, LandmarkSSD)
    return Network(
        module, model.priors, model.detect_config, scale, ("images",), (example,), facts, landmarks
    )


def _of_torchvision(model: Any, input: str) -> Network:
    from ..compat import torchvision as compat

    try:
        compat.check_supported(model)
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            "model must be a model of ssd_cuda.models, a torchvision SSD or an nn.PostProcess, "
            f"got {type(model).__name__} ({error})"
        ) from None
    width, height = model.transform.fixed_size
    network = _TorchvisionNetwork(model).eval()
    example = _images((height, width), input, network.image_mean)
    with torch.no_grad():
        _, conf = network(example)
        priors = compat.priors_of(model, example)
    config = replace(compat.detect_config(model), clip_size=(float(width), float(height)))
    scale = priors.new_tensor([width, height, width, height])
    facts = _facts(example, conf.shape[2])
    return Network(network, priors, config, scale, ("images",), (example,), facts)


def _post_process(model: PostProcess, priors: Tensor | None, num_classes: int | None) -> Network:
    if not isinstance(priors, Tensor) or priors.dim() != 2 or priors.shape[1] != 4:
        raise ValueError("priors must be the [P, 4] priors of the network whose PostProcess is exported")
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(f"num_classes must count the columns of conf, got {num_classes!r}")
    loc, conf = torch.zeros(2, len(priors), 4), torch.zeros(2, len(priors), num_classes)
    if model.config.layout == "bcp":
        loc, conf = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()
    facts = {
        "input": f"loc {['batch', *loc.shape[1:]]}, conf {['batch', *conf.shape[1:]]}".replace("'", ""),
        "boxes": "x1, y1, x2, y2 in the units of the priors",
        "num_classes": num_classes,
    }
    example = (loc.to(priors.device), conf.to(priors.device))
    return Network(_Given(), priors.detach(), model.config, None, ("loc", "conf"), example, facts)


def describe(network: Network, form: str) -> dict[str, Any]:
    """Plain values that travel with the file: names of classes, priors, thresholds, where it comes from."""
    from .. import __version__

    return {
        "ssd_cuda": __version__,
        "form": form,
        **network.facts,
        "num_priors": len(network.priors),
        "detect_config": asdict(network.config),
    }
