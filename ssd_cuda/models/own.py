"""State dicts under this package's own names. Several models may have the same, with other priors and
rules: which one it is, a checkpoint says and a state dict alone does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .registry import MODELS, build_model
from .sources import SOURCES
from .weights import check_tensors

__all__ = ["is_own", "own_model"]

Size = tuple[int, int]


def is_own(state: Mapping[str, Any]) -> bool:
    """Whether a state dict is of a model of this package: no other codebase has heads of that name."""
    return any(name.startswith("heads.0.conf_conv.") for name in state)


def own_model(
    state: Mapping[str, Tensor], model: str | None, image_size: Size | None
) -> tuple[str, int, Size]:
    """The key of ``MODELS``, the classes with the background and the image size for an own state dict.

    Args:
        state: weights by our names.
        model: the key; None: the only one that has weights of these names and shapes.
        image_size: of a model that takes any; None: the one that its codebase uses.

    Raises:
        ValueError: no model that fits or several, a size that the model does not take or that is not known.
    """
    check_tensors(state)
    num_classes = _classes(state)
    if model is None:
        fitting = [name for name in MODELS if _fits(state, name, num_classes)]
        if not fitting:
            raise ValueError(
                "weights with this package's names must fit one of its models, got none: name it by model= "
                "(--model) to see what differs; a network of Caffe needs its checkpoint"
            )
        if len(fitting) > 1:
            raise ValueError(
                f"model (--model) must be one of {', '.join(fitting)}, whose priors and rules differ "
                "but not their weights, got none"
            )
        (model,) = fitting
    if model == "caffe":
        raise ValueError("model must be another than caffe for a state dict: only a checkpoint describes one")
    only = MODELS[model][1]
    size = only or image_size or next((s.usual for s in SOURCES.values() if s.model == model), None)
    if size is None:
        raise ValueError(f"image_size (--size) must be given for a state dict of {model}, got none")
    return model, num_classes, size


def _classes(state: Mapping[str, Tensor]) -> int:
    """By the rows of the layers that predict, the last of each kind: offsets have four a box."""
    rows = {}
    for kind in ("loc", "conf"):
        start = f"heads.0.{kind}_conv."
        biases = [value for name, value in state.items() if name.startswith(start) and name.endswith("bias")]
        rows[kind] = len(biases[-1]) if biases and biases[-1].dim() == 1 else 0
    boxes = rows["loc"] // 4
    if not boxes or rows["conf"] % boxes or rows["conf"] // boxes < 2:
        raise ValueError(
            f"weights must have logits of {boxes} boxes a cell in heads.0.conf_conv, got {rows['conf']}"
        )
    return rows["conf"] // boxes


def _fits(state: Mapping[str, Tensor], name: str, num_classes: int) -> bool:
    if name == "caffe":  # a network of its prototxt's making
        return False
    with torch.device("meta"):  # no memory, no time
        own = build_model(name, num_classes, MODELS[name][1] or (300, 300)).state_dict()
    return own.keys() == state.keys() and all(own[key].shape == state[key].shape for key in own)
