"""The command line, a module a command: ``train | data | eval | detect | import | export | models |
info``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from .. import __version__
from .._names import printable
from ..engine.console import run_safely, say_on_stderr
from . import curves, data, detect, evaluate, export, importing, info, models, options, train

__all__ = ["main"]

_COMMANDS = {
    "train": train,
    "data": data,
    "curves": curves,
    "eval": evaluate,
    "detect": detect,
    "import": importing,
    "export": export,
    "models": models,
    "info": info,
}


class _Parser(argparse.ArgumentParser):
    """A parser that repeats arguments, which may be names of files, without their control characters."""

    def _print_message(self, message: str, file: Any = None) -> None:
        lines = message.split("\n")
        super()._print_message("\n".join(printable(line) for line in lines), file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 2 for a command line that does not parse, 141 where the reader
    of the output left first.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    if given[:1] == ["bench"]:
        parser.error(
            "bench is part of the source tree: run `make bench` or `python -m benchmarks` in a clone"
        )
    return run_safely(lambda: _run(parser.parse_args(given)))


def _run(chosen: argparse.Namespace) -> int | None:
    for name, value in vars(chosen).items():
        if "" in (value if isinstance(value, list) else [value]):  # an unset shell variable
            raise options.UsageError(f"{name.replace('_', '-')} must not be empty, got ''")
    with say_on_stderr("-" in options.json_places(chosen).values()):
        return _COMMANDS[chosen.command].run(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ssd-cuda", description="Train, evaluate and run single-shot detectors on fused kernels."
    )
    parser.add_argument("--version", action="version", version=f"ssd_cuda {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)
    for name, module in _COMMANDS.items():
        parents = [getattr(options, parent)() for parent in module.PARENTS]
        module.add_arguments(commands.add_parser(name, parents=parents, help=module.HELP))
    return parser
