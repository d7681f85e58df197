"""Checkpoints: everything a run needs to go on, as plain values and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .._names import check_distinct, counted
from ..models import MODELS, SSD, build_model
from ..models.class_names import default_ids
from ..models.registry import check_model
from ..models.unreadable import check_file
from ..models.weights import load_plain
from .checkpoint_check import CheckpointError, check_state, check_weights
from .outputs import write_file

__all__ = ["CheckpointError", "ModelSpec", "load_checkpoint", "load_model", "save_checkpoint", "save_model"]

FORMAT = "ssd_cuda checkpoint 1"
MODEL_FORMAT = "ssd_cuda model 1"  # a model alone: nothing to resume
_KEYS = ("spec", "model", "average", "optimizer", "epoch", "step", "config", "history")
_MODEL_KEYS = ("spec", "weights")
_OPTIONAL = ("options", "category_ids")  # of a spec: in files only where there are any
_MUST = "must be a checkpoint of ssd_cuda"
_ADVICE = ": `ssd-cuda import` makes a checkpoint of weights"
_WEIGHTS = (".safetensors", ".caffemodel")  # of other programs, never a checkpoint
_MOST_PIXELS = 1 << 26  # of an image: 8192 x 8192 has 5.6 million priors


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to build the model of a checkpoint before its weights are loaded.

    Attributes:
        name: a key of ``ssd_cuda.models.MODELS``.
        classes: names of labels 1, 2, ...; the model has one class more, the background.
        image_size: (height, width), of at most 2^26 pixels.
        options: what else :func:`~ssd_cuda.models.build_model` needs.
        category_ids: what the COCO data that it was trained on calls labels 1, 2, ...; empty where no data
            says. The network does not depend on them, so specs that differ in them alone are equal.

    Raises:
        ValueError: none of the models, no class or one twice, a size that is none, ids that are not one a
            class.

    Example:
        >>> ModelSpec("ssd_small", ("cell",), (64, 64)).build().num_classes
        2
    """

    name: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    options: str = ""
    category_ids: tuple[int | str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        check_model("model", self.name)
        named = isinstance(self.classes, tuple) and all(
            isinstance(n, str) and n.strip() for n in self.classes
        )
        if not named or not self.classes:
            raise ValueError(f"classes must be names, at least one, got {str(self.classes)[:80]}")
        check_distinct("classes", self.classes)
        if not isinstance(self.options, str):
            raise ValueError(f"options must be text, got {type(self.options).__name__}")
        self._check_ids()
        size = self.image_size
        whole = isinstance(size, tuple) and all(type(side) is int and side >= 1 for side in size)
        if not whole or len(size) != 2 or size[0] * size[1] > _MOST_PIXELS:
            raise ValueError(
                f"image_size must be two sides of at most {_MOST_PIXELS} pixels in all, got {str(size)[:60]}"
            )
        only = MODELS[self.name][1]
        if only is not None and size != only:
            raise ValueError(f"image_size of {self.name} must be {only}, got {size}")

    def _check_ids(self) -> None:
        ids = self.category_ids
        plain = isinstance(ids, tuple) and all(type(number) in (int, str) for number in ids)
        if not plain or len(ids) not in (0, len(self.classes)) or len(set(ids)) < len(ids):
            raise ValueError(
                "category_ids must be an integer or a text for each of "
                f"{counted(len(self.classes), 'class')}, each once, got {str(ids)[:80]}"
            )

    def coco_ids(self) -> tuple[int | str, ...]:
        """The category ids of labels 1, 2, ... in COCO results: ``category_ids``, or else COCO's own for its
        80 names, or else 1, 2, ...

        Example:
            >>> ModelSpec("ssd_small", ("cell",), (64, 64), category_ids=(7,)).coco_ids()
            (7,)
        """
        return self.category_ids or default_ids(self.classes)

    def build(self) -> SSD:
        """A model with new weights."""
        return build_model(self.name, len(self.classes) + 1, self.image_size, self.options)


def save_checkpoint(path: str | Path, spec: ModelSpec, state: dict[str, Any]) -> None:
    """Write the state of a :class:`~ssd_cuda.engine.train.Trainer` so that no half-written file can stay.

    Raises:
        OutputError: there is no room, or no folder to write in.
    """
    content = {"format": FORMAT, "spec": _plain(spec), **state}
    write_file(path, lambda file: torch.save(content, file))


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> tuple[ModelSpec, dict[str, Any]]:
    """The spec and the state of a checkpoint; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: no such file, a file that torch cannot read safely, a file that is something else,
            and any part that does not fit the model of the spec.
    """
    return _load(path, device)[:2]


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[SSD, ModelSpec]:
    """The model of a checkpoint (its averaged weights) or of :func:`save_model`, in ``eval()`` mode, and
    its spec.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
    """
    return model_of(_read(Path(path), device, MODEL_FORMAT), path, device)


def model_of(
    content: Mapping[Any, Any], path: str | Path, device: torch.device | str = "cpu"
) -> tuple[SSD, ModelSpec]:
    """:func:`load_model` of what such a file holds, read already; ``path`` is its name in messages.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
    """
    content = _check_content(dict(content), path, MODEL_FORMAT)
    part = "weights" if content["format"] == MODEL_FORMAT else "average"
    spec, model = _build(path, content, part, device)
    if part == "weights":
        check_weights(str(path), part, content[part], model.state_dict())
    else:
        check_state(str(path), content, model)
    model.load_state_dict(content[part])
    return model.eval(), spec


def save_model(path: str | Path, spec: ModelSpec, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a model alone, for :func:`load_model`: what there is to detect, nothing to go on training from.

    Raises:
        OutputError: there is no room, or no folder to write in.
    """
    content = {"format": MODEL_FORMAT, "spec": _plain(spec), "weights": dict(weights)}
    write_file(path, lambda file: torch.save(content, file))


def _plain(spec: ModelSpec) -> dict[str, Any]:
    found = {**asdict(spec), "classes": list(spec.classes), "category_ids": list(spec.category_ids)}
    return {key: value for key, value in found.items() if key not in _OPTIONAL or value}


def _load(path: str | Path, device: torch.device | str) -> tuple[ModelSpec, dict[str, Any], SSD]:
    content = _read(Path(path), device)
    spec, model = _build(path, content, "model", device)
    check_state(str(path), content, model)
    return spec, content, model


def _build(
    path: str | Path, content: dict[str, Any], part: str, device: torch.device | str
) -> tuple[ModelSpec, SSD]:
    """The spec of a file and a new model of it, if the weights in ``part`` are of as many classes."""
    found = content.pop("spec")
    keys = ("name", "classes", "image_size")
    if not isinstance(found, dict) or {*found, *_OPTIONAL} != {*keys, *_OPTIONAL}:
        raise CheckpointError(f"{path} must have a spec of {', '.join(keys)}, got {str(found)[:80]}")
    try:
        lists = (found["classes"], found["image_size"], found.get("category_ids", ()))
        classes, size, ids = (tuple(v) if isinstance(v, list) else v for v in lists)
        spec = ModelSpec(found["name"], classes, size, found.get("options", ""), ids)
    except ValueError as error:
        raise CheckpointError(f"{path} must have a spec of a model that there is: {error}") from error
    rows = _class_rows(content[part])
    if not rows or rows % (len(spec.classes) + 1):  # before a model of as many classes is built
        raise CheckpointError(
            f"{path} must hold the weights of {counted(len(spec.classes), 'class')} and the background, "
            f"got {rows} rows"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            model = spec.build().to(device)
    except ValueError as error:
        raise CheckpointError(f"{path} must have a spec of a model that there is: {error}") from error
    return spec, model


def _class_rows(weights: Any) -> int:
    """The logits of a cell of the first map: the bias of the last layer that ``heads.0.conf_conv`` is made
    of.
    """
    rows = 0
    for name, value in weights.items() if isinstance(weights, dict) else ():
        if str(name).startswith("heads.0.conf_conv.") and str(name).endswith("bias"):
            rows = value.shape[0] if isinstance(value, torch.Tensor) and value.dim() else 0
    return rows


def _read(path: Path, device: torch.device | str, *others: str) -> dict[str, Any]:
    """The content of a checkpoint, or of a file of one of the ``others`` among our formats."""
    try:
        check_file("checkpoint", path)
        content = load_plain(path, f"{path} {_MUST}", device)
    except ValueError as error:
        if path.suffix in _WEIGHTS and path.is_file():
            raise CheckpointError(f"{path} {_MUST}, got weights{_ADVICE}") from error
        raise CheckpointError(str(error)) from error
    return _check_content(content, path, *others)


def _check_content(content: Any, path: str | Path, *others: str) -> dict[str, Any]:
    if not isinstance(content, dict) or content.get("format") not in (FORMAT, *others):
        raise CheckpointError(f"{path} {_MUST}, got {_describe(content)}")
    keys = _KEYS if content["format"] == FORMAT else _MODEL_KEYS
    missing = [key for key in keys if key not in content]
    if missing:
        raise CheckpointError(f"{path} must hold {', '.join(keys)}, got no {', '.join(missing)}")
    return content


def _describe(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a saved {type(content).__name__}"
    if "format" in content:
        return f"the format {str(content['format'])[:60]!r}"
    keys = ", ".join(str(key) for key in list(content)[:3])
    return f"a saved dict with {keys[:80]}, ...{_ADVICE}" if keys else "an empty dict"
