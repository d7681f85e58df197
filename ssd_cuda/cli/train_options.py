"""The options of ``ssd-cuda train``, and the recipe that they and a file make together."""

from __future__ import annotations

import argparse
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import recipes
from ..models import MODELS
from ..models.registry import check_model
from .options import RUN, UsageError

if TYPE_CHECKING:
    from ..engine.recipe import TrainConfig

__all__ = ["Chosen", "add_arguments", "choose"]

_KEYS = ("model", "size", "train")


class Chosen(NamedTuple):
    """What is to be trained, and how; (height, width) is None where the model takes any and none was said."""

    model: str
    size: tuple[int, int] | None
    config: TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_recipe(parser.add_argument_group("recipe (what is not given is that of --recipe)"))
    _add_start(parser.add_argument_group("where it starts"))
    _add_speed(parser.add_argument_group("speed"))
    parser.add_argument("--out", default=RUN, help="folder to write to (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that OUT holds")


def _add_recipe(group: Any) -> None:
    add = group.add_argument
    add("--recipe", default="small", help=f"{', '.join(recipes.NAMES)}, or a .json file (default: small)")
    add("--stage", type=int, default=1, help="part of a recipe that has several (default: 1)")
    add("--model", help="network (`ssd-cuda models` lists them)")
    add("--priors", choices=("model", "auto"), help="auto: boxes of the priors fitted to the images")
    add("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="image size")
    add("--epochs", type=int, help="passes over the images")
    add("--steps", type=int, help="steps of the whole run, instead of epochs")
    add("--batch-size", type=int, help="images a step, over all processes")
    add("--accumulate", type=int, help="parts of a step, for batches larger than memory")
    add("--optimizer", choices=("adamw", "sgd"))
    add("--lr", type=float, help="peak learning rate")
    add("--backbone-lr", type=float, help="factor on it for the backbone")
    add("--schedule", choices=("cosine", "constant"), help="of the rate; --milestones has it fall in steps")
    add("--milestones", type=int, nargs="+", help="where the rate falls: in epochs, or in steps with --steps")
    add("--warmup-steps", type=int, help="steps of linear warm-up")
    add("--weight-decay", type=float)
    add("--clip-norm", type=float, help="global norm at which gradients are cut")
    add("--freeze", metavar="backbone|N", help="train the rest: all stages of the backbone, or the first N")
    add("--freeze-norms", action="store_true", default=None, help="batch norms stay as they are")
    add("--augment", choices=("none", "flip", "flips", "ssd", "caffe", "ssdlite", "nvidia"))
    add("--seed", type=int)
    add("--class-weights", metavar="WEIGHTS", help="cat=2,dog=0.5, or balanced: by the counts of the data")
    add("--label-smoothing", type=float, help="part of each label spread over all classes, below 1")
    add("--min-negatives", type=int, help="priors that an image without objects trains as background")


def _add_start(group: Any) -> None:
    add = group.add_argument
    add(
        "--weights",
        metavar="FILE",
        help="to start from: a checkpoint, an SSD that import takes, or a classifier, VGG-16 or ResNet",
    )
    add("--resume", metavar="CHECKPOINT", help="go on from there, with the same options")
    add("--extend", action="store_true", help="of --resume: go on longer, or at another rate")


def _add_speed(group: Any) -> None:
    add = group.add_argument
    add("--workers", type=int, help="data loading processes")
    add("--amp", choices=("none", "bf16", "fp16"), help="precision of the convolutions")
    add("--channels-last", action="store_true", help="weights and images in that order of memory")
    add(
        "--compile",
        nargs="?",
        const="default",
        choices=("default", "reduce-overhead", "max-autotune"),
        help="torch.compile the network; reduce-overhead replays CUDA graphs",
    )
    add("--sync-batchnorm", action="store_true", default=None, help="norms over all processes (CUDA)")
    add("--timeout", type=float, default=600.0, help="seconds to wait for other processes (default: 600)")


def choose(options: argparse.Namespace) -> Chosen:
    """The recipe with what the command line says otherwise.

    Raises:
        UsageError, ValueError, TypeError: a recipe that is none, values that do not fit.
    """
    from ..engine.recipe import TrainConfig

    if options.epochs is not None and options.steps is not None:
        raise UsageError(
            f"--epochs and --steps both say how long a run is, got {options.epochs} and {options.steps}"
        )
    part = _part(options)
    name = options.model or part["model"]
    check_model("--model", name)
    size = tuple(options.size) if options.size else MODELS[name][1] or part.get("size")
    known = [field.name for field in fields(TrainConfig)]
    _check_fields(part["train"], known, options.recipe)
    try:  # as it stands first: what it says is counted with below
        TrainConfig(**{**part["train"], "freeze": 0})
    except TypeError as error:
        raise UsageError(f"--recipe {options.recipe} must have the fields of TrainConfig: {error}") from error
    values = _overridden(part["train"], options, known)
    values["freeze"] = _frozen(values.get("freeze", 0), name)
    if options.backbone_lr is not None and values["freeze"] and values["freeze"] == _frozen("backbone", name):
        raise UsageError(f"--backbone-lr is for stages that are trained, all of {name}'s are frozen")
    config = TrainConfig(**values)
    return Chosen(name, None if size is None else (int(size[0]), int(size[1])), config)


def _check_fields(train: dict[str, Any], known: list[str], recipe: str) -> None:
    for name in train:
        if name not in known:
            close = get_close_matches(name, known, 1)
            meant = f" (meant as {close[0]!r}?)" if close else ""
            raise UsageError(
                f"--recipe {recipe} must have the fields of TrainConfig, {', '.join(known)}, "
                f"got {name!r}{meant}"
            )


def _overridden(train: dict[str, Any], options: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """The values of a recipe with those given; of another length, its milestones keep their places."""
    given = {name: getattr(options, name, None) for name in names if name != "class_weights"}
    values = {**train, **{name: value for name, value in given.items() if value is not None}}
    before, after = train.get("steps") or train.get("epochs"), options.steps or options.epochs
    if options.milestones and options.schedule:
        raise UsageError(
            f"--milestones and --schedule both say what becomes of the rate, got {options.schedule!r} too"
        )
    if options.milestones:
        values["schedule"] = "steps"
    elif options.schedule:  # those of the recipe are of its own schedule
        values["milestones"] = ()
    elif after and before and train.get("milestones"):
        places = (max(1, round(after * milestone / before)) for milestone in train["milestones"])
        values["milestones"] = sorted(set(places))
    if options.epochs is not None and options.steps is None:
        values["steps"] = None
    return values


def _part(options: argparse.Namespace) -> dict[str, Any]:
    parts = _read(Path(options.recipe)) if options.recipe.endswith(".json") else None
    if parts is None:
        if options.recipe not in recipes.NAMES:
            raise UsageError(
                f"--recipe must be one of {', '.join(recipes.NAMES)} or a .json file, got {options.recipe!r}"
            )
        parts = recipes.recipe(options.recipe)
    if not 1 <= options.stage <= len(parts):
        raise UsageError(f"--stage must lie in [1, {len(parts)}] for {options.recipe}, got {options.stage}")
    return parts[options.stage - 1]


def _read(path: Path) -> list[dict[str, Any]]:
    from ..data.files import read_json

    found = read_json(path, "--recipe")
    parts = found.get("stages", [found]) if isinstance(found, dict) else []
    if not isinstance(parts, list) or not parts:
        raise UsageError(f"--recipe {path} must hold a recipe, or a list of them under 'stages'")
    for part in parts:
        known = (
            isinstance(part, dict) and set(part) <= {*_KEYS, "stages"} and isinstance(part.get("model"), str)
        )
        if not known or not isinstance(part.get("train"), dict):
            raise UsageError(
                f"--recipe {path} must have {', '.join(_KEYS)} in every part, got {str(part)[:80]}"
            )
        size = part.get("size", [1, 1])
        if not isinstance(size, list) or [type(side) for side in size] != [int, int]:
            raise UsageError(f"--recipe {path} must have [height, width] as size, got {str(size)[:80]}")
    return parts


def _frozen(value: Any, name: str) -> int:
    """How many stages; ``"backbone"`` is all that the model has."""
    number = int(value) if str(value).lstrip("-").isdigit() else None
    if number is None and value != "backbone":
        raise UsageError(f"--freeze must be 'backbone' or a number of its stages, got {value!r}")
    if number == 0:
        return 0
    import torch

    builder, only = MODELS[name]
    with torch.device("meta"):
        model = builder(2) if only else builder(2, (64, 64))
    there = len(model.stages())
    if number is not None and not 0 < number <= there:
        raise UsageError(
            f"--freeze must be 'backbone' or a number from 0 to {there}, the stages of {name}, got {number}"
        )
    return number or there
