"""Trained weights of other codebases under this package's names.

The layers of :class:`~ssd_cuda.models.vgg.VGGBackbone` stand in the order that both sources use, so that
renaming is all there is to do:

================================= ====================== ==================================
here                              amdegroot/ssd.pytorch  torchvision ssd300_vgg16
================================= ====================== ==================================
``backbone.vgg.<0..22>``          ``vgg.<same>``         ``backbone.features.<same>``
``backbone.vgg.<23..29>``         ``vgg.<same>``         ``backbone.extra.0.<less 23>``
``backbone.vgg.<30..34>``         ``vgg.<same>``         ``backbone.extra.0.7.<less 30>``
``backbone.norm.weight``          ``L2Norm.weight``      ``backbone.scale_weight``
``backbone.extras.conv<k>_1``     ``extras.<2(k-8)>``    ``backbone.extra.<k-7>.0``
``backbone.extras.conv<k>_2``     ``extras.<2(k-8)+1>``  ``backbone.extra.<k-7>.2``
``heads.<n>.loc_conv``            ``loc.<n>``            ``head.regression_head.module_list.<n>``
``heads.<n>.conf_conv``           ``conf.<n>``           ``head.classification_head.module_list.<n>``
================================= ====================== ==================================

VGG-16 without an SSD around it is for :mod:`ssd_cuda.models.vgg_weights`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._extras import require
from .._names import name_list
from .unreadable import check_file, damaged_part, looks_like, refused_pickle

__all__ = [
    "check_kinds",
    "check_tensors",
    "fill",
    "is_checkpoint",
    "load_plain",
    "read_content",
    "recognise",
    "rename",
    "warn_if_blank",
]

_HEADS = {
    "loc": "loc_conv",
    "conf": "conf_conv",
    "regression_head": "loc_conv",
    "classification_head": "conf_conv",
}


def extra_name(index: int) -> str:
    """conv8_1, conv8_2, conv9_1 ... counted from 0."""
    return f"backbone.extras.conv{8 + index // 2}_{1 + index % 2}"


# layout -> (pattern, our name for its groups), tried in order; a name that none fits stays as it is
_RULES: dict[str, list[tuple[str, Callable[..., str]]]] = {
    "amdegroot": [
        (r"vgg\.(\d+)\.(\w+)", lambda n, kind: f"backbone.vgg.{n}.{kind}"),
        (r"L2Norm\.weight", lambda: "backbone.norm.weight"),
        (r"extras\.(\d+)\.(\w+)", lambda n, kind: f"{extra_name(int(n))}.{kind}"),
        (r"(loc|conf)\.(\d+)\.(\w+)", lambda part, n, kind: f"heads.{n}.{_HEADS[part]}.{kind}"),
    ],
    "torchvision": [
        (r"backbone\.features\.(\d+)\.(\w+)", lambda n, kind: f"backbone.vgg.{n}.{kind}"),
        (r"backbone\.extra\.0\.7\.(\d+)\.(\w+)", lambda n, kind: f"backbone.vgg.{int(n) + 30}.{kind}"),
        (r"backbone\.extra\.0\.(\d+)\.(\w+)", lambda n, kind: f"backbone.vgg.{int(n) + 23}.{kind}"),
        (
            r"backbone\.extra\.(\d+)\.([02])\.(\w+)",
            lambda k, half, kind: f"{extra_name(2 * int(k) - 2 + int(half) // 2)}.{kind}",
        ),
        (r"backbone\.scale_weight", lambda: "backbone.norm.weight"),
        (
            r"head\.(\w+_head)\.module_list\.(\d+)\.(\w+)",
            lambda part, n, kind: f"heads.{n}.{_HEADS[part]}.{kind}",
        ),
    ],
}
_SIGNS = {
    "own": "backbone.vgg.0.weight",
    "amdegroot": "vgg.0.weight",
    "torchvision": "backbone.features.0.weight",
}


def recognise(state: Mapping[str, Any]) -> str:
    """``"own"``, ``"amdegroot"`` or ``"torchvision"``, by the name of the first convolution.

    Raises:
        ValueError: none of them.
    """
    for layout, sign in _SIGNS.items():
        if sign in state:
            return layout
    raise ValueError(
        "weights must be a VGG-16 SSD of this package, of torchvision or in amdegroot's layout, "
        f"got names like {', '.join(list(state)[:3]) or 'none'}"
    )


def rename(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The same tensors under our names."""
    return {_our_name(key, layout): value for key, value in state.items()}


def _our_name(key: str, layout: str) -> str:
    for pattern, name in _RULES.get(layout, []):
        match = re.fullmatch(pattern, key)
        if match:
            return name(*match.groups())
    return key


def check_tensors(state: Mapping[str, Any]) -> None:
    """Raise for what is no tensor, before its shape is asked for."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"weights must be tensors, got {type(value).__name__} for {name}")


def check_kinds(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise for what a model's ``own`` tensors cannot take: what has no numbers, and what is quantised, whose
    whole numbers torch would copy as they are, without the scale that is kept elsewhere."""
    for name, value in state.items():
        if value.layout is not torch.strided or value.is_meta:
            found = "none, on meta" if value.is_meta else str(value.layout).removeprefix("torch.")
            raise ValueError(f"weights must be dense numbers, got {found} for {name}")
        if name in own and own[name].is_floating_point() and not value.is_floating_point():
            found = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"weights must be floating-point numbers, got {found} for {name}")


def fill(model: nn.Module, state: Mapping[str, Tensor], words: str) -> None:
    """Load all weights of ``model``, which is ``words``.

    Raises:
        ValueError: others than its own, or with numbers that no network is left with by training.
    """
    check_tensors(state)
    check_kinds(state, model.state_dict())
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise ValueError(f"weights must fit {words}, got others: {detail}") from error
    for name, value in model.state_dict().items():  # as loaded: float64 may be too large for the model
        if not torch.isfinite(value).all():
            found = value[~torch.isfinite(value)][0].item()
            raise ValueError(f"weights must be finite, got {found} in {name}")
        if name.endswith("running_var") and (value < 0).any():
            raise ValueError(f"weights must have no negative variance, got {value.min().item()} in {name}")
    warn_if_blank(state, words)


def warn_if_blank(state: Mapping[str, Tensor], words: str) -> None:
    """Warn of layers without any number but 0: no training ends so, a file that was cut off and filled up
    to its length may."""
    read = {name: value for name, value in state.items() if value.is_floating_point() and not value.is_meta}
    blank = [name for name, value in read.items() if value.dim() > 1 and value.numel() and not value.any()]
    if blank:
        warnings.warn(
            f"weights of {words} are all 0 in {name_list(blank, 3)}: a download that was not finished?",
            stacklevel=2,
        )


def read_content(weights: Any) -> Mapping[Any, Any]:
    """What a file, torchvision's weight enum or a mapping holds, wrappers and all.

    A file is read with ``weights_only=True``; torchvision's enum downloads its file if torchvision has not
    done so before.

    Raises:
        ValueError: a file that is missing or holds no mapping. TypeError: something else altogether.
    """
    if hasattr(weights, "get_state_dict"):
        content: Any = weights.get_state_dict(progress=True, check_hash=True)
    elif isinstance(weights, (str, Path)):
        content = read_file(weights)
    else:
        content = weights
    if not isinstance(content, Mapping):
        raise TypeError(
            f"weights must be a file, a weight enum or a state dict, got {type(weights).__name__}"
        )
    return content


def is_checkpoint(content: Mapping[Any, Any]) -> bool:
    """Whether this is what a file of ours holds, which says what model its weights are of."""
    return str(content.get("format", "")).startswith("ssd_cuda ")


def read_file(path: str | Path) -> Mapping[Any, Any]:
    """What lies in a file of torch, by the unpickler that builds tensors and plain values alone.

    Raises:
        ValueError: no such file, one that it does not read, or one that holds something else than a mapping.
    """
    check_file("weights file", path)
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = load_plain(path, f"weights file {path} must be a state dict that torch.save wrote")
    if not isinstance(content, Mapping):
        raise ValueError(f"weights file {path} must hold a state dict, got {type(content).__name__}")
    return content


def load_plain(path: Path, must: str, device: torch.device | str = "cpu") -> Any:
    """What ``torch.load`` gives with ``weights_only=True``.

    Args:
        path: a file that is there.
        must: what it must be, for the message.
        device: of its tensors.

    Raises:
        ValueError: what ``must`` says, and what it is instead.
    """
    try:
        with warnings.catch_warnings():  # torch's own, of pickles and archives that are refused all the same
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises whatever its readers do: pickle, zip, runtime, EOF errors
        raise ValueError(f"{must}, got {looks_like(path) or refused_pickle(path, error)}") from error
    if part := damaged_part(path):
        warnings.warn(
            f"{path} is not as it was written: the checksum of {part} is another; download or copy it again",
            stacklevel=1,  # one place, so that a file which is read twice is told once
        )
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    load_file = require("safetensors.torch", "reading .safetensors").load_file
    try:
        return load_file(path)
    except Exception as error:  # its reader is another language's and raises its own errors
        found = looks_like(path) or type(error).__name__
        raise ValueError(f"weights file {path} must be of safetensors, got {found}") from error
