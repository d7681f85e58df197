"""Options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._extension import build_info
from .._extras import require

if TYPE_CHECKING:
    from ..engine.checkpoint import ModelSpec


class UsageError(ValueError):
    """The command line asks for something that cannot be; one sentence."""


def data_options() -> argparse.ArgumentParser:
    """Which images with labels: of train and eval."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--data", default="shapes", help="a Pascal VOC or COCO folder, or 'shapes', built in (default)"
    )
    parser.add_argument("--split", help="split of the data (default: what the folder names as one)")
    return parser


def run_options() -> argparse.ArgumentParser:
    """Where and how to run a model: of train, eval and detect."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is a card)")
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=1, help="data loading processes (default: %(default)s)"
    )
    return parser


def pick_device(name: str | None) -> torch.device:
    """The device of ``--device``, which must be one that this build and this machine have."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() and build_info()["cuda"] else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device must name a card of this machine ({torch.cuda.device_count()}), got {name!r}"
        )
    return device


def check_counts(options: argparse.Namespace) -> None:
    for name, low in (("batch_size", 1), ("workers", 0)):
        if getattr(options, name) < low:
            raise UsageError(
                f"--{name.replace('_', '-')} must be at least {low}, got {getattr(options, name)}"
            )


def class_option(path: str, spec: ModelSpec) -> dict[str, Any]:
    """A VOC folder's classes are what its annotations name: hold it to those of the model."""
    return {"classes": spec.classes} if (Path(path) / "ImageSets").is_dir() else {}


def progress_bar() -> Callable[..., Any]:
    tqdm = require("tqdm", "a progress bar").tqdm
    return lambda items, **options: tqdm(items, disable=None, **{"leave": False, **options})


def write_json(path: str, content: Any) -> None:
    from ..engine.report import without_nan

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(without_nan(content), indent=2) + "\n")
