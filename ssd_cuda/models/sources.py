"""Which weights there are: how each is recognised, which network here takes it, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from . import weights as vgg

__all__ = ["SOURCES", "Source", "recognise"]

State = Mapping[str, Tensor]


class Source(NamedTuple):
    """Weights of one network of one codebase.

    Attributes:
        words: what it is, for people.
        model: the key of ``MODELS`` that takes it.
        signs: names that its state dict has, and no other's has all of them.
        rename: the state dict under the names here.
        facts: the state dict -> (classes with the background, image size where it is free or (0, 0)).
        image_size: the only one, or None where any is taken.
        usual: where any is taken, the one that the codebase uses.
        single: name of a single class.
    """

    words: str
    model: str
    signs: tuple[str, ...]
    rename: Callable[[State], dict[str, Tensor]]
    facts: Callable[[State], tuple[int, tuple[int, int]]]
    image_size: tuple[int, int] | None
    single: str = "object"
    usual: tuple[int, int] | None = None


def classes_by(
    name: str, boxes: int, size: tuple[int, int]
) -> Callable[[State], tuple[int, tuple[int, int]]]:
    """``facts`` from the bias of the first classifying convolution, which has ``boxes`` boxes a cell."""

    def facts(state: State) -> tuple[int, tuple[int, int]]:
        bias = state.get(name)
        rows = len(bias) if isinstance(bias, Tensor) and bias.dim() == 1 else 0
        if not rows or rows % boxes or rows // boxes < 2:
            raise ValueError(f"weights must have logits of {boxes} boxes a cell in {name}, got {rows}")
        return rows // boxes, size

    return facts


def _vgg(words: str, model: str, layout: str, sign: str, bias: str) -> Source:
    def rename(state: State) -> dict[str, Tensor]:
        return vgg.rename(state, layout)

    size = (300, 300)
    return Source(words, model, (sign, bias), rename, classes_by(bias, 4, size), size)


SOURCES: dict[str, Source] = {
    "ssd300_vgg16": _vgg(
        "this package's ssd300_vgg16",
        "ssd300_vgg16",
        "own",
        "backbone.vgg.0.weight",
        "heads.0.conf_conv.bias",
    ),
    "amdegroot": _vgg(
        "amdegroot/ssd.pytorch: SSD300", "ssd300_vgg16_amdegroot", "amdegroot", "vgg.0.weight", "conf.0.bias"
    ),
    "torchvision": _vgg(
        "torchvision: ssd300_vgg16",
        "ssd300_vgg16_torchvision",
        "torchvision",
        "backbone.features.0.weight",
        "head.classification_head.module_list.0.bias",
    ),
}


def recognise(state: Mapping[str, Any]) -> str:
    """The key of ``SOURCES`` whose signs ``state`` has.

    Raises:
        ValueError: none of them; the sentence says what there would be, and what comes nearest.
    """
    for key, source in SOURCES.items():
        if all(sign in state for sign in source.signs):
            return key
    near = [s for s in SOURCES.values() if any(sign in state for sign in s.signs)]
    if near:
        missing = next(sign for sign in near[0].signs if sign not in state)
        raise ValueError(f"weights look like {near[0].words}, but {missing} is missing")
    known = "; ".join(source.words for source in SOURCES.values())
    names = ", ".join(str(name)[:40] for name in list(state)[:3]) or "none"
    raise ValueError(f"weights must be of one of these: {known}; got names like {names}")
