"""A prototxt and a caffemodel as a description and weights under the names of the network here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .description import describe
from .schema import read_blobs, read_text

__all__ = ["read_caffe"]

VGG_MEAN = (104.0, 117.0, 123.0)  # blue, green, red: what nearly every SSD of Caffe subtracts


def read_caffe(
    prototxt: str | Path, caffemodel: str | Path, mean: Sequence[float] = VGG_MEAN, scale: float = 1.0
) -> tuple[str, dict[str, Tensor], int, tuple[int, int]]:
    """What :func:`caffe_ssd` takes (options, then classes and image size at the end) and the weights for it.

    Args:
        prototxt: the network for detection, with a DetectionOutput layer.
        caffemodel: its weights.
        mean: blue, green and red, subtracted from pixels in [0, 255].
        scale: multiplies after that.

    Raises:
        ValueError: files that are missing or something else, a layer or an option that is not served,
            weights that do not fit. ImportError: no protobuf.
    """
    if len(mean) != 3 or not all(math.isfinite(value) for value in mean):
        raise ValueError(f"mean must be three numbers (blue, green, red), got {tuple(mean)}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number, got {scale}")
    description = describe(read_text(Path(prototxt)), str(prototxt))
    description.update(mean=[float(value) for value in mean], scale=float(scale))
    blobs = {layer.name: layer.blobs for layer in read_blobs(Path(caffemodel)).layer if layer.blobs}
    height, width = description["image_size"]
    weights = _weights(description, blobs, str(caffemodel))
    return json.dumps(description), weights, description["num_classes"], (height, width)


def _weights(description: dict[str, Any], blobs: dict[str, Any], path: str) -> dict[str, Tensor]:
    named = [(f"backbone.layers.{k}", layer) for k, layer in enumerate(description["layers"])]
    for k, head in enumerate(description["heads"]):
        named += [(f"heads.{k}.loc_conv", head["loc"]), (f"heads.{k}.conf_conv", head["conf"])]
    found: dict[str, Tensor] = {}
    for key, layer in named:
        kind = layer["type"]
        if kind not in ("Convolution", "BatchNorm", "Scale", "Normalize"):
            continue
        if layer["name"] not in blobs:
            raise ValueError(f"{path} must have the weights of layer {layer['name']}, got none")
        parts = [_tensor(blob, path, layer["name"]) for blob in blobs[layer["name"]]]
        names = _names(kind, layer)
        if len(parts) != len(names):
            raise ValueError(
                f"layer {layer['name']} must have {len(names)} blobs in {path}, got {len(parts)}"
            )
        if kind == "BatchNorm":
            factor = parts[2].flatten()[0]
            factor = torch.where(factor == 0, torch.zeros_like(factor), 1 / factor)
            parts = [parts[0].flatten() * factor, parts[1].flatten() * factor, torch.tensor(0)]
        elif kind != "Convolution":
            parts = [part.flatten() for part in parts]
        for name, part in zip(names, parts, strict=True):
            found[f"{key}.{name}"] = part.flatten() if name == "bias" else part
    return found


def _names(kind: str, layer: dict[str, Any]) -> list[str]:
    if kind == "BatchNorm":
        return ["running_mean", "running_var", "num_batches_tracked"]
    return ["weight", "bias"] if layer.get("bias") else ["weight"]


def _tensor(blob: Any, path: str, layer: str) -> Tensor:
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    values = np.array(blob.data or blob.double_data, dtype=np.float32)
    if values.size != math.prod(shape):
        raise ValueError(f"layer {layer} must have {math.prod(shape)} numbers in {path}, got {values.size}")
    return torch.from_numpy(values).view(shape)
