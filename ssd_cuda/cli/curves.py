"""``ssd-cuda curves``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .._names import counted
from ..engine.console import say
from ..engine.files import refuse_inputs
from ..engine.outputs import check_folder
from .options import UsageError

HELP = "the losses of several runs on one picture"
PARENTS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", help="folders or checkpoints that train wrote")
    parser.add_argument("--out", "-o", default="runs/curves.png", help="picture (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    from ..engine.checkpoint import load_checkpoint
    from ..engine.curves import save_curves
    from ..engine.draw import figure_class

    out = Path(options.out)
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--out must end in .png, .pdf or .svg, got {out}")
    files = [Path(name) / "checkpoint.pt" if Path(name).is_dir() else Path(name) for name in options.runs]
    refuse_inputs("--out", [out], files)
    figure_class("the curves")  # before checkpoints of any size are read
    check_folder("the folder of --out", out.parent)
    states = {name: load_checkpoint(file)[1] for name, file in zip(options.runs, files, strict=True)}
    save_curves(out, states)
    for name, state in states.items():
        best = max((row["ap50"] or 0.0 for row in state.get("scores", [])), default=None)
        told = "" if best is None else f", best AP50 {best:.3f}"
        say(f"{name}: {counted(state['step'], 'step')}, last loss {sum(state['history'][-1]):.3f}{told}")
    say(f"drawn in {out}")
