"""Prior generation: a spec becomes the ``[P, 4]`` tensor that every other op takes."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._extension import register_fake, require
from ..config import PriorSpec
from ._checks import REAL
from ._shared import SharedTensor, is_tracing


def generate_priors(
    spec: PriorSpec, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """The priors of a spec, on a device, generated once: later calls return the same tensor.

    The tensor is shared, so it must not be written to (clone it first). On CUDA nothing is copied from
    the host, and a call on another stream than the first makes that stream wait for the first, not the host;
    a call inside a graph capture works and is not remembered.

    Args:
        spec: see :class:`~ssd_cuda.PriorSpec`.
        device: CPU or CUDA.
        dtype: float32, or float64.

    Returns:
        ``[P, 4]``, level after level, row by row, in the format and units of the spec.

    Raises:
        ValueError, TypeError: no spec, another device or dtype.

    Example:
        >>> ops.generate_priors(ssd_cuda.PriorSpec.preset("paper")).shape
        torch.Size([8732, 4])
    """
    _check_spec(spec)
    if dtype not in REAL:
        raise TypeError(f"dtype must be float32 or float64, got {str(dtype).removeprefix('torch.')}")
    place = _indexed(torch.device(device))
    if is_tracing() or _capturing(place):
        return _generate(spec, place, dtype)
    return _cached(spec, place, dtype).for_current_stream()


def _check_spec(spec: object) -> None:
    if not isinstance(spec, PriorSpec):
        raise TypeError(f"spec must be a PriorSpec, got {type(spec).__name__}")


def prior_variances(spec: PriorSpec, device: torch.device | str = "cpu") -> Tensor:
    """``[P, 4]`` float32: the spec's four variances in every row, as caffe stores them beside its priors.

    Example:
        >>> ops.prior_variances(ssd_cuda.PriorSpec.preset("paper"))[0]
        tensor([0.1000, 0.1000, 0.2000, 0.2000])
    """
    _check_spec(spec)
    rows = torch.tensor(spec.variances, dtype=torch.float32, device=device)
    return rows.expand(spec.num_priors, 4).contiguous()


def _indexed(device: torch.device) -> torch.device:
    """cuda means the current card: not the same place after the current card changes."""
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@lru_cache(maxsize=64)
def _cached(spec: PriorSpec, device: torch.device, dtype: torch.dtype) -> SharedTensor:
    return SharedTensor.made_by(lambda: _generate(spec, device, dtype))


def _generate(spec: PriorSpec, device: torch.device, dtype: torch.dtype) -> Tensor:
    parts = []
    for part in _of_one_offset(spec):
        # Its own tensor, no slice of one: no exported graph then writes into a view.
        output = torch.empty(part.num_priors, 4, device=device, dtype=dtype)
        require("generate_priors", output)
        torch.ops.ssd_cuda.fill_priors(output, **op_options(part))
        parts.append(output)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _of_one_offset(spec: PriorSpec) -> list[PriorSpec]:
    """The spec cut into runs of levels with the same offset, which is one number for the op."""
    if not isinstance(spec.offset, tuple):
        return [spec]
    parts = []
    levels = range(spec.num_levels)
    for offset, run in itertools.groupby(levels, key=spec.offset.__getitem__):
        own = list(run)
        names = ("feature_maps", "sizes", "larger_sizes", "ratios", "steps", "boxes")
        cut = slice(own[0], own[-1] + 1)
        rows = {name: value[cut] for name in names if (value := getattr(spec, name)) is not None}
        parts.append(spec.replace(offset=offset, **rows))
    return parts


def op_options(spec: PriorSpec) -> dict[str, Any]:
    """The options of ``torch.ops.ssd_cuda.fill_priors``: the table of csrc/priors/priors_rule.h."""
    assert spec.feature_maps is not None and not isinstance(spec.offset, tuple)
    boxes = spec.cell_boxes()
    grid: list[int] = []
    for (rows, columns), row in zip(spec.feature_maps, boxes, strict=True):
        grid += [int(rows), int(columns), len(row)]
    height, width = spec.image_size if spec.pixels else (1.0, 1.0)
    return {
        "grid": grid,
        "divisors": [v for y, x in spec.divisors() for v in (x, y)],
        "sizes": [v for row in boxes for pair in row for v in pair],
        "offset": float(spec.offset),
        "scale_x": float(width),
        "scale_y": float(height),
        "clip": spec.clip,
        "corners": spec.format == "xyxy",
        "box_major": spec.layout == "box_major",
        "single": spec.arithmetic == "float32",
    }


@register_fake("fill_priors")
def _(output, **_):
    return None
