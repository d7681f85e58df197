"""Packages that only some parts need: imported when first used, explained when missing."""

from __future__ import annotations

import importlib
from typing import Any

_PIP_NAMES = {"PIL": "pillow", "cv2": "opencv-python-headless", "google": "protobuf"}
# package -> the extra of pyproject.toml that holds it; any other is training's
_EXTRAS = {
    **dict.fromkeys(("onnx", "onnxscript"), "export"),
    **dict.fromkeys(("google", "safetensors"), "import"),
    "cv2": "video",
}


def require(module: str, purpose: str) -> Any:
    """Import ``module`` (may be dotted), or raise one sentence that says what to type.

    Args:
        module: e.g. ``"torchvision.transforms.v2"``.
        purpose: what it is needed for, as a noun phrase ("augmentation").
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = _EXTRAS.get(module.partition(".")[0], "train")
        package = (error.name or module).partition(".")[0]  # it may be one that the module imports itself
        name = _PIP_NAMES.get(package, package)
        raise ImportError(
            f"{purpose} needs {name} ({error}): type `pip install {name}`, or "
            f"`pip install 'ssd_cuda[{extra}]'`"
        ) from error
