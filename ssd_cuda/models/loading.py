"""Weights of other codebases as models of this one: what a file is, is seen from what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .caffe import caffe_ssd, read_caffe
from .caffe.reader import VGG_MEAN
from .class_names import default_names
from .detector import SSD
from .registry import build_model
from .sources import SOURCES, recognise
from .weights import read_content, state_of

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
        >>> state = models.ssd300_vgg16(num_classes=3).state_dict()
        >>> models.load(state).num_classes
        3
    """
    return import_weights(weights, **options).model


def import_weights(
    weights: Any,
    *,
    prototxt: str | Path | None = None,
    classes: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] = VGG_MEAN,
    scale: float = 1.0,
) -> Imported:
    """Recognise weights, build their network and load them.

    Args:
        weights: a file (.pth of torch, read with weights_only; .safetensors; .caffemodel), a state dict, or
            torchvision's weight enum.
        prototxt: of a caffemodel; None: the file beside it with the ending .prototxt, if there is one.
        classes: names of labels 1, 2, ...; None: those of VOC or COCO where their number is right.
        image_size: (height, width) of a network that takes any; None: the one that its codebase uses.
        mean: blue, green and red that a caffemodel was trained with, of pixels in [0, 255].
        scale: factor after that.

    Raises:
        ValueError: a file that cannot be read, or whose names are none of the known; the message says
            which those are. Weights that do not fit. ImportError: no protobuf or safetensors where they
            are needed.

    Example:
        >>> found = models.import_weights(models.ssd300_vgg16(num_classes=21).state_dict())
        >>> found.name, found.classes[14]
        ('ssd300_vgg16', 'person')
    """
    path = Path(weights) if isinstance(weights, (str, Path)) else None
    if path is not None and path.suffix == ".caffemodel":
        return _from_caffe(path, prototxt, classes, mean, scale)
    if prototxt is not None:
        raise ValueError(f"prototxt is for a .caffemodel, got {path or 'weights of torch'}")
    state, taken = state_of(read_content(weights))
    source = SOURCES[recognise(state)]
    num_classes, size = source.facts(state)
    if source.image_size is None:
        size = image_size or size
    elif image_size not in (None, source.image_size):
        raise ValueError(f"image_size of {source.model} must be {source.image_size}, got {image_size}")
    model = build_model(source.model, num_classes, size)
    _fill(model, source.rename(state), source.words)
    names = _names(classes, num_classes, source.single)
    words = f"{source.words}, {taken}" if taken else source.words
    return Imported(model.eval(), source.model, names, "", words)


def _names(classes: Sequence[str] | None, num_classes: int, single: str) -> tuple[str, ...]:
    if classes is None:
        return default_names(num_classes - 1, single)
    if len(classes) != num_classes - 1:
        raise ValueError(
            f"classes must name the {num_classes - 1} classes of the weights, got {len(classes)}"
        )
    return tuple(classes)


def _fill(model: SSD, state: dict[str, Tensor], words: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise ValueError(f"weights must fit the network of {words}, got others: {detail}") from error


def _from_caffe(
    path: Path,
    prototxt: str | Path | None,
    classes: Sequence[str] | None,
    mean: Sequence[float],
    scale: float,
) -> Imported:
    if prototxt is None:
        prototxt = path.with_suffix(".prototxt")
        if not prototxt.is_file():
            raise ValueError(f"{path} needs its prototxt, the one with a DetectionOutput: name it")
    options, weights, num_classes, size = read_caffe(prototxt, path, mean, scale)
    model = caffe_ssd(num_classes, size, options)
    _fill(model, weights, "the prototxt")
    return Imported(model.eval(), "caffe", _names(classes, num_classes, "object"), options, "a Caffe SSD")
