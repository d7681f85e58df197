"""``ssd-cuda data``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.console import say
from ..engine.outputs import check_folder
from .options import UsageError, check_json, open_data, usual_split, write_json

HELP = "what a data set is: counts, sizes, odd boxes, what the priors do not reach"
PARENTS = ("data_options",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", help="the same as --data")
    parser.add_argument("--model", default="ssd_small", help="whose priors (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="its image size")
    parser.add_argument(
        "--priors", choices=("model", "auto"), default="model", help="auto: fitted to the data"
    )
    parser.add_argument("--picture", "-o", default="runs/data.png", help="drawn (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to FILE; - is stdout")


def run(options: argparse.Namespace) -> None:
    from ..engine.checkpoint import ModelSpec
    from ..engine.data_report import describe, draw_report, report_lines
    from ..engine.draw import figure_class
    from ..engine.priors_fit import with_fitted_priors
    from ..models import MODELS
    from ..models.registry import check_model

    if options.folder and options.data not in ("shapes", options.folder):
        both = f"{options.folder} and {options.data}"
        raise UsageError(f"the folder and --data name the same thing, got {both}")
    options.data = options.folder or options.data
    check_model("--model", options.model)
    if Path(options.picture).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--picture must end in .png, .pdf or .svg, got {options.picture}")
    check_json(options)
    figure_class("the picture of the data")
    check_folder("the folder of --picture", Path(options.picture).parent)
    size = tuple(options.size or MODELS[options.model][1] or (240, 320))
    split = options.split or usual_split(options, "train")
    dataset = open_data(options, split)
    spec = ModelSpec(options.model, tuple(dataset.classes), size)
    if options.priors == "auto":
        spec, told = with_fitted_priors(spec, dataset)
        say(told)
    model = spec.build()
    report = describe(dataset, model)
    say(f"{split!r} of {options.data}", *report_lines(report))
    draw_report(options.picture, report, model)
    say(f"drawn in {options.picture}")
    if options.json:
        write_json(options.json, {"data": options.data, "split": split, **report.as_json()})
