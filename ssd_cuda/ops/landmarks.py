"""Landmarks that travel with their priors (RetinaFace): from codes to points."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import BoxFormat, check_choice, check_range
from ._checks import FLOATING, check_tensor
from .detect import Detections


def decode_landmarks(
    found: Detections, priors: Tensor, variance: float = 0.1, *, prior_format: BoxFormat = "cxcywh"
) -> Tensor:
    """The points of what :func:`ssd_cuda.ops.detect` found with their codes as ``extra``.

    A point is ``prior centre + code * variance * prior size``: RetinaFace's ``decode_landm``.

    Args:
        found: its ``extra`` holds ``[B, K, 2 n]`` codes, x and y of n points in turn.
        priors: the priors that ``found`` came from: ``[P, 4]``, or ``[B, P, 4]``, in ``prior_format``.
        variance: factor of the codes; RetinaFace's first variance.

    Returns:
        ``[B, K, 2 n]`` points in the units of the priors, float32 (float64 for float64 codes); 0 past the
        count.

    Raises:
        ValueError, TypeError: no codes in ``found``, wrong shapes, dtypes or options.

    Example:
        >>> priors = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
        >>> logits, codes = torch.tensor([[[0.0, 4.0]]]), torch.full((1, 1, 10), 5.0)
        >>> config = ssd_cuda.DetectConfig.preset("retinaface", pixel_offset=0.0)
        >>> found = ops.detect(torch.zeros(1, 1, 4), logits, priors, config, extra=codes)
        >>> ops.decode_landmarks(found, priors)[0, 0, :2]
        tensor([0.6000, 0.7000])
    """
    if not isinstance(found, Detections) or found.extra is None:
        what = "Detections without extra" if isinstance(found, Detections) else type(found).__name__
        raise TypeError(f"found must be Detections with landmark codes as extra, got {what}")
    codes, index = found.extra, found.prior_indices
    check_tensor("found.extra", codes, ("B", "K", "E"), FLOATING)
    if codes.shape[2] % 2:
        raise ValueError(f"found.extra must have an even number of columns, x and y, got {codes.shape[2]}")
    own = isinstance(priors, Tensor) and priors.dim() == 3
    check_tensor("priors", priors, (codes.shape[0], "P", 4) if own else ("P", 4), FLOATING)
    if priors.device != codes.device:
        raise ValueError(f"priors must be on the device of found, {codes.device}, got {priors.device}")
    check_range("variance", variance, 0.0)
    check_choice("prior_format", prior_format, ("cxcywh", "xyxy"))
    wide = torch.float64 if codes.dtype == torch.float64 else torch.float32
    rows = priors.to(wide).expand(codes.shape[0], -1, 4)
    filled = index >= 0
    if rows.shape[1] == 0:
        return codes.to(wide)
    rows = rows.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4))
    size = rows[..., 2:] - rows[..., :2] if prior_format == "xyxy" else rows[..., 2:]
    center = rows[..., :2] + 0.5 * size if prior_format == "xyxy" else rows[..., :2]
    moved = codes.to(wide).unflatten(-1, (-1, 2)) * float(variance) * size[..., None, :]
    points = center[..., None, :] + moved
    return points.flatten(-2).where(filled[..., None], 0)
