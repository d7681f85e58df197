"""Weights of other codebases as models of this one: what a file is, is seen from what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._names import counted
from .caffe import caffe_ssd, read_caffe
from .caffe.reader import VGG_MEAN
from .class_names import default_names
from .detector import SSD
from .own import is_own, own_model
from .registry import MODELS, build_model, check_model
from .sources import SOURCES, recognise
from .state_dicts import state_of
from .weights import check_tensors, fill, is_checkpoint, read_content

__all__ = ["Imported", "import_weights", "load"]


class Imported(NamedTuple):
    """What :func:`import_weights` found; a checkpoint is made of the same parts.

    Attributes:
        model: in ``eval()`` mode, with the weights.
        name: key of ``MODELS``.
        classes: names of labels 1, 2, ...
        options: of :func:`build_model`.
        source: the codebase, in words; of a file with two sets of weights, which was taken.
    """

    model: SSD
    name: str
    classes: tuple[str, ...]
    options: str
    source: str


def load(weights: Any, **options: Any) -> SSD:
    """The model of a file of weights, whatever codebase wrote it, in ``eval()`` mode.

    Args:
        weights: as of :func:`import_weights`, and so are the options.

    Raises:
        ValueError: as :func:`import_weights`.

    Example:
        >>> state = models.mb2_ssd_lite(num_classes=3).state_dict()
        >>> models.load(state).num_classes
        3
    """
    return import_weights(weights, **options).model


def import_weights(
    weights: Any,
    *,
    model: str | None = None,
    prototxt: str | Path | None = None,
    classes: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    scale: float | None = None,
) -> Imported:
    """Recognise weights, build their network and load them.

    Args:
        weights: a file (.pth of torch, read with weights_only; .safetensors; .caffemodel), a state dict, or
            torchvision's weight enum; of a checkpoint of this package, its model as it was saved.
        model: the key of ``MODELS``; needed where a state dict of this package fits several, else only
            checked.
        prototxt: of a caffemodel; None: the file beside it with the ending .prototxt, if there is one.
        classes: names of labels 1, 2, ...; None: those of VOC or COCO where their number is right.
        image_size: (height, width) of a network that takes any; None: the one that its codebase uses.
        mean: blue, green and red that a caffemodel was trained with, of pixels in [0, 255]; None: 104, 117
            and 123.
        scale: of a caffemodel, the factor after that; None: 1.

    Raises:
        ValueError: a file that cannot be read, or whose names are none of the known; the message says
            which those are. Weights that do not fit or are not finite, an argument that they leave no choice
            in. ImportError: no protobuf or safetensors where they are needed.

    Example:
        >>> state = models.ssd300_vgg16(num_classes=21).state_dict()
        >>> found = models.import_weights(state, model="ssd300_vgg16_torchvision")
        >>> found.name, found.classes[14]
        ('ssd300_vgg16_torchvision', 'person')
    """
    if model is not None:
        check_model("model", model)
    size = None if image_size is None else tuple(image_size)
    path = Path(weights) if isinstance(weights, (str, Path)) else None
    if path is not None and path.suffix == ".caffemodel":
        _check_choice("model", model, "caffe", "a .caffemodel")
        found = _from_caffe(
            path, prototxt, VGG_MEAN if mean is None else mean, 1.0 if scale is None else scale
        )
        _check_choice("image_size", size, found.model.image_size, "its prototxt")
    else:
        for name, value in (("prototxt", prototxt), ("mean", mean), ("scale", scale)):
            if value is not None:
                raise ValueError(f"{name} is for a .caffemodel, got {path or 'weights of torch'}")
        found = _from_torch(read_content(weights), str(path or "weights"), model, size)
    return found if classes is None else found._replace(classes=_names(classes, found.model.num_classes))


def _from_torch(content: Mapping[Any, Any], where: str, name: str | None, size: Any) -> Imported:
    if is_checkpoint(content):
        return _from_checkpoint(content, where, name, size)
    state, taken = state_of(content)
    if is_own(state):
        name, num_classes, own_size = own_model(state, name, size)
        source = next((s for s in SOURCES.values() if s.model == name), None)
        single, words = source.single if source else "object", f"this package's {name}"
    else:
        source = SOURCES[recognise(state)]
        _check_choice("model", name, source.model, f"weights of {source.words}")
        check_tensors(state)
        num_classes, own_size = source.facts(state)
        if MODELS[source.model][1] is None:
            own_size = size or own_size
        name, single, words, state = source.model, source.single, source.words, source.rename(state)
    _check_choice("image_size", size, own_size, name)
    model = build_model(name, num_classes, own_size)
    fill(model, state, f"the network of {words}")
    names = default_names(num_classes - 1, single)
    return Imported(model.eval(), name, names, "", ", ".join(filter(None, (words, taken))))


def _from_checkpoint(content: Mapping[Any, Any], where: str, name: str | None, size: Any) -> Imported:
    from ..engine.checkpoint import model_of  # it knows the models: not while these are being imported

    model, spec = model_of(content, where)
    _check_choice("model", name, spec.name, where)
    _check_choice("image_size", size, spec.image_size, where)
    return Imported(
        model, spec.name, spec.classes, spec.options, f"a checkpoint of this package: {spec.name}"
    )


def _check_choice(argument: str, given: Any, own: Any, of: str) -> None:
    """Raise if what is given, if anything, is not what the weights say themselves."""
    if given not in (None, own):
        raise ValueError(f"{argument} of {of} must be {own}, got {given}")


def _names(classes: Sequence[str], num_classes: int) -> tuple[str, ...]:
    if len(classes) != num_classes - 1:
        raise ValueError(
            f"classes must name the {counted(num_classes - 1, 'class')} of the weights, got {len(classes)}"
        )
    return tuple(classes)


def _from_caffe(path: Path, prototxt: str | Path | None, mean: Sequence[float], scale: float) -> Imported:
    if prototxt is None:
        prototxt = path.with_suffix(".prototxt")
        if not prototxt.is_file():
            raise ValueError(f"{path} needs its prototxt, the one with a DetectionOutput: name it")
    options, weights, num_classes, size = read_caffe(prototxt, path, mean, scale)
    model = caffe_ssd(num_classes, size, options)
    fill(model, weights, "the network of the prototxt")
    return Imported(model.eval(), "caffe", default_names(num_classes - 1), options, "a Caffe SSD")
