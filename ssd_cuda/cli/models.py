"""``ssd-cuda models``."""

from __future__ import annotations

import argparse

import torch

from ..engine.console import say

HELP = "the networks there are, and whose weights they take"
PARENTS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """models has no options."""


def run(_: argparse.Namespace) -> None:
    from ..models import MODELS, build_model
    from ..models.sources import SOURCES

    rows = [("model", "input", "priors", "parameters", "weights that `ssd-cuda import` takes")]
    for name, (_builder, only) in MODELS.items():
        words = "; ".join(source.words for source in SOURCES.values() if source.model == name)
        if name == "caffe":
            rows.append((name, "its prototxt's", "its prototxt's", "-", ".prototxt + .caffemodel"))
            continue
        size = only or next((s.usual for s in SOURCES.values() if s.model == name), None) or (300, 300)
        with torch.device("meta"):  # no memory, no time
            model = build_model(name, 21, size)
        count = sum(parameter.numel() for parameter in model.parameters())
        free = "" if only else ", any"
        rows.append(
            (
                name,
                f"{size[1]}x{size[0]}{free}",
                f"{len(model.priors):,}",
                f"{count / 1e6:.2f} M",
                words or "-",
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    say(*("  ".join([*(row[k].ljust(widths[k]) for k in range(4)), row[4]]) for row in rows))
    say("parameters are those of 21 classes, the background among them")
