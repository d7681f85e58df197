"""Options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._extension import build_info
from .._extras import require
from .._names import name_list
from ..engine.files import refuse_inputs
from ..engine.outputs import check_folder, write_text

if TYPE_CHECKING:
    from ..data import DetectionDataset
    from ..engine.checkpoint import ModelSpec


RUN = "runs/train"  # where train writes and detect looks, if nothing else is said


class UsageError(ValueError):
    """The command line asks for something that cannot be; one sentence."""


def data_options() -> argparse.ArgumentParser:
    """Which images with labels: of train, data and eval."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--data", default="shapes", help="a Pascal VOC or COCO folder, or 'shapes', built in (default)"
    )
    parser.add_argument("--split", help="split of the data (default: what the folder names as one)")
    parser.add_argument(
        "--one-based", action="store_true", help="VOC boxes count pixels from 1, as in VOC2007 and VOC2012"
    )
    parser.add_argument(
        "--allow-outside", action="store_true", help="take names of files that lead out of the data folder"
    )
    return parser


def score_options() -> argparse.ArgumentParser:
    """How detections are scored: of train and eval."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--voc07", action="store_true", help="AP50 by VOC2007's 11 points (default: area under the curve)"
    )
    return parser


def device_options() -> argparse.ArgumentParser:
    """Where to run a model."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is a card)")
    return parser


def run_options() -> argparse.ArgumentParser:
    """Where and how to run a model: of eval and detect."""
    parser = argparse.ArgumentParser(add_help=False, parents=[device_options()])
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time (default: %(default)s)")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that load data, of detect threads (default: %(default)s)",
    )
    return parser


def pick_device(name: str | None) -> torch.device:
    """The device of ``--device``, which must be one that this build and this machine have."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() and build_info()["cuda"] else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got {name!r}")
    cards = torch.cuda.device_count()
    if device.type == "cuda" and not cards:
        raise UsageError(f"--device must be cpu: torch finds no card on this machine, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= cards:
        there = name_list([f"cuda:{number}" for number in range(cards)])
        raise UsageError(f"--device must name a card of this machine, {there}, got {name!r}")
    if device.type == "cuda" and not build_info()["cuda"]:
        raise UsageError(f"--device must be cpu for this build, which is without CUDA, got {name!r}")
    return device


def check_counts(options: argparse.Namespace) -> None:
    for name, low, high in (("batch_size", 1, 10**6), ("workers", 0, 1024)):
        value = getattr(options, name)
        if value is None:  # that of the recipe
            continue
        if value < low:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")
        if value > high:
            raise UsageError(f"--{name.replace('_', '-')} must be at most {high}, got {value}")


def open_data(
    options: argparse.Namespace, split: str, spec: ModelSpec | None = None, whose: str = "of the checkpoint"
) -> DetectionDataset:
    """The data set of ``--data``; with ``spec`` it must have that model's classes.

    A VOC folder's classes are what its annotations name: they are held to those of the model. Those of a COCO
    file may be under other ids there.

    Args:
        whose: classes these are, for the message.
    """
    from .. import data
    from ..data.coco import in_order_of
    from ..data.loading import is_voc_folder

    given: dict[str, Any] = {"allow_outside": True} if options.allow_outside else {}
    voc = is_voc_folder(options.data)
    if options.one_based:
        if not voc:
            raise UsageError(f"--one-based is for Pascal VOC folders, got --data {options.data}")
        given["coordinates"] = "one_based"
    if options.data == "shapes":
        given = {}
    elif spec is not None and voc:
        given["classes"] = spec.classes
    dataset = data.open_dataset(options.data, split, **given)
    if spec is not None and tuple(in_order_of(dataset, spec.classes).classes) != spec.classes:
        raise UsageError(
            f"--data must have the classes {whose}, {name_list(spec.classes)}, "
            f"got {name_list(dataset.classes)} in the split {split!r}"
        )
    return dataset


def usual_split(options: argparse.Namespace, role: Any, advice: str = "--split names one") -> str:
    """What the folder names as the split to ``"train"`` or to ``"test"`` on."""
    from ..data.loading import data_split

    return data_split(options.data, role, f": {advice}")


def ap_rule(options: argparse.Namespace) -> Any:
    return "11point" if options.voc07 else "area"


def progress_bar() -> Callable[..., Any]:
    tqdm = require("tqdm", "a progress bar").tqdm
    return lambda items, **options: tqdm(items, disable=None, **{"leave": False, **options})


_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def json_places(options: argparse.Namespace) -> dict[str, str]:
    """Option to place of what a command writes as JSON; standard output is ``-``, however it is called."""
    given = {f"--{name}": getattr(options, name, None) for name in ("json", "coco")}
    return {option: "-" if name in _STDOUT else name for option, name in given.items() if name}


def check_json(options: argparse.Namespace, *inputs: str | Path) -> None:
    """Try the places of ``--json`` and ``--coco`` before the work; they must be none of the inputs."""
    for option, name in json_places(options).items():
        if name == "-":
            continue
        path = Path(name)
        refuse_inputs(option, [path], map(Path, inputs))
        if path.is_dir():
            raise UsageError(f"{option} must be a file, got the folder {path}")
        if not path.exists():
            check_folder(f"the folder of {option}", path.parent)


def write_json(path: str, content: Any) -> None:
    from ..engine.report import without_nan

    text = json.dumps(without_nan(content), indent=2) + "\n"
    if path in _STDOUT:  # by its stream: opened anew, a file that it leads to would begin at its first byte
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_text(path, text)
