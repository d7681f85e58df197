"""Weights to start from: of a run here, of another codebase's SSD, of a classification network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._names import name_list
from ..models import SSD, import_weights, resnet
from ..models.state_dicts import state_of
from ..models.vgg_weights import CLASSIFIERS, from_classification
from ..models.weights import check_kinds, read_file, warn_if_blank
from .checkpoint import FORMAT, MODEL_FORMAT, ModelSpec, load_model

__all__ = ["Pretrained", "read_pretrained"]


@dataclass(frozen=True)
class Pretrained:
    """Weights by our names, for models of the same backbone.

    Attributes:
        source: the file, for messages; where it holds more than the weights, which were taken.
        state: name to tensor.
        classes: names of its labels 1, 2, ...; None: not known.
        spec: of a file of ours, or None.

    Example:
        >>> model = models.ssd_small(num_classes=4, image_size=(64, 64))
        >>> Pretrained("x.pt", model.state_dict()).load_into(models.ssd_small(3, (64, 64)), ["cat", "dog"])
        'weights of x.pt: 62 of 70 tensors; new are the class heads (4 classes there, 3 here)'
    """

    source: str
    state: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None
    spec: ModelSpec | None = None

    def load_into(self, model: SSD, classes: object = ()) -> str:
        """Copy what fits into ``model``; a sentence that says what, and what stays new.

        The backbone must fit. The class heads stay new where the classes are others, all heads where a
        cell has other boxes; so does what the source does not have.

        Args:
            model: with new weights.
            classes: names of its labels 1, 2, ...

        Raises:
            ValueError: weights of another backbone, or with a number that is not finite.
        """
        own = model.state_dict()
        new, why = self._renewed(model, tuple(classes))  # type: ignore[arg-type]
        taken = {name: value for name, value in self.state.items() if name in own and name not in new}
        self._check(own, taken)
        model.load_state_dict(taken, strict=False)
        missing = own.keys() - taken.keys() - new
        if any(name.startswith("heads.") for name in missing):
            why.append("the heads")
        rest = sorted({".".join(name.split(".")[:3]) for name in missing if not name.startswith("heads.")})
        why += [name_list(rest, 4)] if rest else []
        told = f"; new are {' and '.join(why)}" if why else ""
        return f"weights of {self.source}: {len(taken)} of {len(own)} tensors{told}"

    def _renewed(self, model: SSD, classes: tuple[str, ...]) -> tuple[set[str], list[str]]:
        """The names of heads that are there and yet not taken, and why."""
        boxes, rows = [], []
        for level, head in enumerate(model.heads):
            loc, conf = (self._last_bias(f"heads.{level}.{kind}_conv.") for kind in ("loc", "conf"))
            if loc is None or conf is None:
                return set(), []
            boxes.append((len(loc) // 4, head.num_boxes))
            rows.append(len(conf) // max(1, len(loc) // 4))
        heads = {name for name in self.state if name.startswith("heads.")}
        own = model.state_dict()
        if any(
            name in own and own[name].shape != self.state[name].shape
            for name in heads
            if ".loc_conv." not in name and ".conf_conv." not in name
        ):
            return heads, ["all heads (they see other maps)"]
        if any(there != here for there, here in boxes):
            return heads, ["all heads (a cell has other boxes)"]
        differ = ""
        if any(count != model.num_classes for count in rows):
            differ = f"{rows[0]} classes there, {model.num_classes} here"
        elif classes and self.classes is not None and self.classes != classes:
            differ = f"its classes are {name_list(self.classes, 6)}"
        if not differ:
            return set(), []
        return {name for name in heads if ".conf_conv." in name}, [f"the class heads ({differ})"]

    def _last_bias(self, start: str) -> Tensor | None:
        """Of the layer that predicts: a head may be several layers."""
        names = [name for name in self.state if name.startswith(start) and name.endswith("bias")]
        return self.state[names[-1]] if names else None

    def _check(self, own: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> None:
        first = next(name for name in own if name.startswith("backbone."))
        if first not in taken:
            found = name_list(sorted(self.state), 3) or "none"
            raise ValueError(
                f"weights of {self.source} must be of the model's backbone, got names like {found}"
            )
        check_kinds(taken, own)
        for name, value in taken.items():
            if value.shape != own[name].shape:
                raise ValueError(
                    f"weights of {self.source} must fit the model, got {list(value.shape)} for {name}, "
                    f"which is {list(own[name].shape)}"
                )
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise ValueError(f"weights of {self.source} must be finite, got another number in {name}")


def read_pretrained(path: str | Path) -> Pretrained:
    """The weights of a file: a checkpoint or a model of ours (the averaged weights), VGG-16 or
    a ResNet as a classification network, or whatever :func:`ssd_cuda.models.import_weights` knows.

    Raises:
        CheckpointError: a damaged checkpoint. ValueError: something else altogether.
    """
    path = Path(path)
    if path.suffix == ".caffemodel":
        return Pretrained(str(path), import_weights(path).model.state_dict())
    content = read_file(path)
    if content.get("format") in (FORMAT, MODEL_FORMAT):
        model, spec = load_model(path)
        return Pretrained(str(path), model.state_dict(), spec.classes, spec)
    found, taken = state_of(content)
    state = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    source = f"{path} ({taken})" if taken else str(path)
    if any(name.startswith("heads.") for name in state):
        own = state
    elif resnet.is_classification(state):
        own = resnet.from_classification(state)
    elif layout := next((name for name in CLASSIFIERS if CLASSIFIERS[name] in state), None):
        own = from_classification(state, layout)
    else:
        return Pretrained(source, import_weights(content).model.state_dict())  # which warns by itself
    warn_if_blank(state, source)
    return Pretrained(source, own)
