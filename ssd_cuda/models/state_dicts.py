"""The weights of a network in what a program has saved, without what it has put around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from .._names import name_list
from . import resnet
from .sources import SOURCES
from .vgg_weights import CLASSIFIERS
from .weights import read_content

__all__ = ["read_weights", "state_of"]


def read_weights(weights: Any) -> dict[str, Tensor]:
    """The state dict behind a file, torchvision's weight enum or a mapping; see :func:`read_content` and
    :func:`state_of`.

    Raises:
        ValueError: a file that is missing or not a state dict. TypeError: something else altogether.
    """
    return state_of(read_content(weights))[0]


def state_of(content: Mapping[Any, Any]) -> tuple[dict[str, Tensor], str]:
    """The state dict in what a program has saved, and, where there were two, which one that is.

    Wrappers such as ``state_dict`` and ``ema`` are taken off, and what DataParallel and torch.compile put
    into names. Of a model and its average it is the average, unless that lacks names of the model. Where a
    network is an attribute of something else, as in a LightningModule, its name is taken off, and what else
    there is is left out.

    Raises:
        ValueError: keys that are no names, several networks beside each other.
    """
    state, said = _unwrapped(content)
    if odd := [key for key in state if not isinstance(key, str)]:
        raise ValueError(f"weights must be a state dict, whose keys are names, got the key {odd[0]!r}")
    state = {_bare(key): value for key, value in state.items() if key != _COUNT}
    prefix = _prefix(state)
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if others := [key for key in state if not key.startswith(prefix)]:
        said = ", ".join(filter(None, (said, f"the weights under {prefix!r}, not {name_list(others, 3)}")))
    return found, said


_AVERAGES = ("average", "ema", "ema_state_dict", "model_ema", "state_dict_ema")
_MODELS = ("model", "state_dict", "model_state_dict", "weights")
_COUNT = "n_averaged"  # what torch's AveragedModel adds to the weights


def _unwrapped(content: Mapping[Any, Any], depth: int = 4) -> tuple[Mapping[Any, Any], str]:
    found = {}
    for wrapper in (*_AVERAGES, *_MODELS) if depth else ():  # a pickle may hold itself
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            state, said = _unwrapped(inner, depth - 1)
            if any(isinstance(value, Tensor) for value in state.values()):
                found[wrapper] = state, said
    average, model = (next((w for w in found if w in kind), None) for kind in (_AVERAGES, _MODELS))
    if average and model:
        names = [{_bare(str(key)) for key in found[wrapper][0]} for wrapper in (average, model)]
        taken, left = (average, model) if names[0] >= names[1] else (model, average)
        return found[taken][0], f"the weights {taken!r}, not {left!r}"
    return found.get(average or model or "", (content, ""))


def _bare(key: str) -> str:
    """A name without what DataParallel puts before it and torch.compile before each part it has compiled."""
    parts = [part for part in key.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        del parts[0]
    return ".".join(parts)


def _prefix(state: Mapping[str, Any]) -> str:
    """What stands before all names of the network in ``state``: nothing where they are known as they are, or
    not at all.

    Beside a detector there may be others, such as those of a loss. Names of a classification network are so
    common that all must have the same prefix.
    """
    networks = sorted({prefix for signs in _signs() for prefix in _before(signs, state)})
    if "" in networks:
        return ""
    if len(networks) > 1:
        raise ValueError(
            f"weights must be of one network, got several, under {name_list([*map(repr, networks)])}: "
            "save the state_dict() of one of them"
        )
    if networks:
        return networks[0]
    parts = next(iter(state), "").split(".")
    for count in range(1, len(parts)):
        prefix = ".".join(parts[:count]) + "."
        if not all(key.startswith(prefix) for key in state):
            break
        if _is_classifier({key.removeprefix(prefix): value for key, value in state.items()}):
            return prefix
    return ""


def _signs() -> Iterator[tuple[str, ...]]:
    """Names, or beginnings of names, which only a certain detector has all of."""
    yield "heads.0.conf_conv.", "backbone."  # one of this package
    for source in SOURCES.values():
        yield source.signs


def _before(signs: tuple[str, ...], state: Mapping[str, Any]) -> Iterator[str]:
    """Each prefix with which ``state`` has all ``signs``."""
    first = re.compile(rf"(|.*\.){re.escape(signs[0])}{'.*' * signs[0].endswith('.')}")
    for prefix in {match[1] for match in map(first.fullmatch, state) if match}:
        whole = (prefix + sign for sign in signs)
        if all(any(key.startswith(s) for key in state) if s.endswith(".") else s in state for s in whole):
            yield prefix


def _is_classifier(state: Mapping[str, Any]) -> bool:
    first_and_last = ((sign, sign.replace("0.", "28.")) for sign in CLASSIFIERS.values())
    return resnet.is_classification(state) or any(state.keys() >= {*both} for both in first_and_last)
