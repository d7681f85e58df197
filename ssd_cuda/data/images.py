"""Image files as RGB bytes, turned upright: the one place that reads them.

**Turned upright or not?** A camera stores the pixels as its sensor lay and writes in the EXIF data how to
turn them; nearly every program that shows or labels photographs turns them. So the pixels are turned, in
training, evaluation and detection alike, unless the label file gives a size that only the stored pixels
have: then its boxes were drawn on those. (A turn by 180 degrees, a mirrored or a square picture has one size
both ways, and is turned.)

**More than 8 bits.** 16-bit grey is scaled by its range, 0 to 65535, and float grey by [0, 1]; other numbers
are refused, since nothing tells their range.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._extras import require
from .files import DataError, check_file, reason_of

_ORIENTATION = 274  # the number of EXIF's and TIFF's tag
_SWAPPED = (5, 6, 7, 8)  # its values that exchange height and width
# From upright back to stored: each value undoes itself, but for the two quarter turns. [H, W, ...] arrays.
_UNDO = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
_warned_of_dim = False


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file as RGB: ``tv_tensors.Image``, uint8 ``[3, H, W]``.

    Grey, palette, CMYK and alpha images are converted, of several frames the first is taken. How it is turned
    and what becomes of 16-bit and float images says the head of ``ssd_cuda/data/images.py``.

    Args:
        path: the file.
        size: (height, width) that the label file gives, if it gives one.

    Raises:
        DataError: the file is missing or no image, it is cut off, or its numbers have no known range.
    """
    tv_tensors = require("torchvision.tv_tensors", "reading images")
    path = Path(path)
    with _open(path) as image:
        turn, stored, upright = _turn_and_sizes(image)
        try:
            if turn in _UNDO:
                image = require("PIL.ImageOps", "reading images").exif_transpose(image)
            pixels = _to_rgb(image, path)
        except DataError:
            raise
        except Exception as error:  # pillow's readers raise whatever a broken file leads them to
            raise DataError(f"image {path} cannot be read: {reason_of(error)}") from error
    if turn in _UNDO and size == stored and size != upright:
        pixels = _UNDO[turn](pixels)
    return tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), device="cpu")


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file when it is upright, from its header."""
    with _open(path) as image:
        return _turn_and_sizes(image)[2]


def _open(path: Path) -> Any:
    image_module = require("PIL.Image", "reading images")
    check_file(path, "image")
    try:
        return image_module.open(path)
    except Exception as error:  # see read_image
        raise DataError(f"image {path} cannot be read: {reason_of(error)}") from error


def _turn_and_sizes(image: Any) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """EXIF's orientation (1: none), the stored and the upright (height, width)."""
    try:
        turn = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing; the pixels may be fine
        turn = 1
    tags = getattr(image, "tag_v2", None)  # pillow gives the size of a TIFF as if it were turned already
    width, height = image.size if not tags or 256 not in tags else (int(tags[256]), int(tags[257]))
    upright = (width, height) if turn in _SWAPPED else (height, width)
    return turn, (height, width), upright


def _to_rgb(image: Any, path: Path) -> np.ndarray:
    """uint8 [H, W, 3]"""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return np.array(image.convert("RGB"))
    values = np.asarray(image)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # a nan is neither
            raise DataError(f"image {path} must hold floats in [0, 1], got {low} to {high}")
        grey = np.rint(values * 255)
    else:
        if not (low >= 0 and high <= 65535):
            raise DataError(f"image {path} must hold numbers of 8 or 16 bits, got {low} to {high}")
        _warn_of_dim(path, int(high))
        grey = (values.astype(np.uint32) * 255 + 32767) // 65535
    return np.repeat(grey.astype(np.uint8)[..., None], 3, 2)


def _warn_of_dim(path: Path, high: int) -> None:
    """12 bits in 16 leave 16 levels of grey: said once, since a data set has them all alike."""
    global _warned_of_dim
    if 0 < high < 4096 and not _warned_of_dim:
        _warned_of_dim = True
        warnings.warn(
            f"image {path} uses 0 to {high} of the 65536 levels of 16 bits and becomes that dark; "
            "stretch such images to their whole range first",
            stacklevel=2,
        )
