"""``ssd-cuda eval``."""

from __future__ import annotations

import argparse
from typing import Any

from .._names import printable
from ..engine.console import say
from .options import (
    ap_rule,
    check_counts,
    check_json,
    open_data,
    pick_device,
    progress_bar,
    usual_split,
    write_json,
)

HELP = "average precision of a checkpoint"
PARENTS = ("data_options", "score_options", "run_options")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="file that train or import wrote")
    parser.add_argument("--json", metavar="FILE", help="also write every number to FILE; - is stdout")


def run(options: argparse.Namespace) -> None:
    from ..engine.checkpoint import load_model
    from ..engine.evaluate import evaluate

    check_counts(options)
    check_json(options, options.checkpoint)
    model, spec = load_model(options.checkpoint, pick_device(options.device))
    dataset = open_data(options, options.split or usual_split(options, "test"), spec)
    scores = evaluate(
        model,
        dataset,
        batch_size=options.batch_size,
        workers=options.workers,
        rule=ap_rule(options),
        progress=progress_bar(),
    )
    scores.pop("predictions")
    print_scores(scores)
    if options.json:
        write_json(options.json, scores)


def print_scores(scores: dict[str, Any]) -> None:
    """The table of an evaluation: one line a class, then the mean."""
    voc, coco = scores["voc"], scores["coco"]
    width = max(len(printable(name)) for name in [*voc["ap"], "class"])
    lines = [f"{'class':<{width}}  objects   AP50  mAP 50-95"]
    for name, value in voc["ap"].items():
        numbers = f"{voc['objects'][name]:>7}  {value:.3f}  {coco['ap'][name]:>9.3f}"
        lines.append(f"{printable(name):<{width}}  {numbers}")
    total = sum(voc["objects"].values())
    say(*lines, f"{'mean':<{width}}  {total:>7}  {scores['ap50']:.3f}  {scores['map']:>9.3f}")
