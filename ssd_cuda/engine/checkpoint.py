"""Checkpoints: everything a run needs to go on, as plain values and tensors."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..models import SSD, build_model

__all__ = ["CheckpointError", "ModelSpec", "load_checkpoint", "load_model", "save_checkpoint"]

FORMAT = "ssd_cuda checkpoint 1"
_KEYS = ("spec", "model", "average", "optimizer", "epoch", "step", "config", "history")


class CheckpointError(ValueError):
    """A checkpoint file that is missing or unusable; the message is one sentence that names it."""


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to build the model of a checkpoint before its weights are loaded.

    Attributes:
        name: a key of ``ssd_cuda.models.MODELS``.
        classes: names of labels 1, 2, ...; the model has one class more, the background.
        image_size: (height, width).
    """

    name: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]

    def build(self) -> SSD:
        """A model with new weights."""
        return build_model(self.name, len(self.classes) + 1, self.image_size)


def save_checkpoint(path: str | Path, spec: ModelSpec, state: dict[str, Any]) -> None:
    """Write the state of a :class:`~ssd_cuda.engine.train.Trainer` so that no half-written file can stay."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    content = {"format": FORMAT, "spec": {**asdict(spec), "classes": list(spec.classes)}, **state}
    torch.save(content, partial)
    os.replace(partial, path)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> tuple[ModelSpec, dict[str, Any]]:
    """The spec and the state of a checkpoint; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: no such file, a file that torch cannot read safely, a file that is something else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises whatever its readers do: pickle, zip, runtime, EOF errors
        reason = type(error).__name__
        raise CheckpointError(f"{path} must be a checkpoint of ssd_cuda, got a file that torch cannot "
                              f"load with weights_only=True ({reason})") from error  # fmt: skip
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} must be a checkpoint of ssd_cuda, got {_describe(content)}")
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise CheckpointError(f"{path} must hold {', '.join(_KEYS)}, got no {', '.join(missing)}")
    spec = content.pop("spec")
    size = (int(spec["image_size"][0]), int(spec["image_size"][1]))
    return ModelSpec(spec["name"], tuple(spec["classes"]), size), content


def _describe(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a saved {type(content).__name__}"
    if "format" in content:
        return f"the format {content['format']!r}"
    keys = ", ".join(str(key) for key in list(content)[:3])
    return f"a saved dict with {keys}, ..." if keys else "an empty dict"


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[SSD, ModelSpec]:
    """The trained model of a checkpoint (its averaged weights), in ``eval()`` mode, and its spec.

    Raises:
        CheckpointError: as :func:`load_checkpoint`, and weights that do not fit the model of the spec.
    """
    spec, state = load_checkpoint(path, device)
    model = spec.build().to(device)
    try:
        model.load_state_dict(state["average"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} must hold the weights of {spec.name}, got others") from error
    return model.eval(), spec
