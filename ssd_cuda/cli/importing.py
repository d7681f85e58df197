"""``ssd-cuda import``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .._names import counted
from ..engine.console import say
from ..engine.files import refuse_inputs
from ..engine.outputs import check_folder
from .options import UsageError

HELP = "weights of other codebases as a checkpoint for detect, eval and export"
PARENTS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", help=".pth, .ckpt, .safetensors or .caffemodel; `ssd-cuda models` lists whose"
    )
    parser.add_argument(
        "prototxt", nargs="?", help="of a .caffemodel (default: the one of its name beside it)"
    )
    parser.add_argument("--out", "-o", required=True, help="checkpoint to write")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="which one, where a state dict of this package fits several",
    )
    parser.add_argument("--classes", help="names of the classes, joined by commas")
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of images, where a network takes any"
    )
    parser.add_argument(
        "--mean", type=float, nargs=3, metavar=("B", "G", "R"),
        help="what a caffemodel subtracts (default: 104 117 123)",
    )  # fmt: skip
    parser.add_argument("--scale", type=float, help="of a caffemodel, its factor after that (default: 1)")


def run(options: argparse.Namespace) -> None:
    from .. import models
    from ..engine.checkpoint import ModelSpec, save_model

    files = [Path(name) for name in (options.weights, options.prototxt) if name]
    if len(files) == 2 and files[0].suffix in (".prototxt", ".pbtxt"):
        files.reverse()  # in the order of Caffe's own tools
    refuse_inputs("--out", [Path(options.out)], files)
    found = models.import_weights(
        files[0],
        model=options.model,
        prototxt=files[1] if len(files) == 2 else None,
        classes=_classes(options),
        image_size=options.size,
        mean=options.mean,
        scale=options.scale,
    )
    spec = ModelSpec(found.name, found.classes, found.model.image_size, found.options)
    check_folder("the folder of --out", Path(options.out).parent)
    save_model(options.out, spec, found.model.state_dict())
    height, width = spec.image_size
    count = sum(parameter.numel() for parameter in found.model.parameters())
    say(
        f"recognised {found.source}",
        f"wrote {options.out}: {found.name}, {counted(len(spec.classes), 'class')}, "
        f"images of {width}x{height}, {len(found.model.priors)} priors, {count / 1e6:.2f} million parameters",
    )


def _classes(options: argparse.Namespace) -> list[str] | None:
    """The names that are given; a labels file of qfgaohao's starts with the background."""
    if options.classes and options.labels:
        raise UsageError("--classes and --labels name the same thing, got both")
    if options.classes:
        return [name.strip() for name in options.classes.split(",")]
    if not options.labels:
        return None
    path = Path(options.labels)
    if not path.is_file():
        raise UsageError(f"--labels must be a file, got {path}, which there is not")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"--labels must be a text in UTF-8, got {path}") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) == 1:  # all on one line, as some write them; of several lines a comma is part of a name
        names = [name.strip() for name in names[0].split(",") if name.strip()]
    if not names:
        raise UsageError(f"--labels must name the classes, got {path}, which is empty")
    return names[1:] if names and names[0].upper() in ("BACKGROUND", "__BACKGROUND__") else names
