"""``{preset} NAME``: what a preset changes, read from the presets themselves when the page is built."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from ssd_cuda import DetectConfig, MultiBoxConfig, PriorSpec

KINDS = (("loss", MultiBoxConfig), ("detection", DetectConfig), ("priors", PriorSpec))


def differences(config: Any, default: Any, prefix: str = "") -> list[tuple[str, str, str]]:
    """(option, its value, the default) of every field that differs, nested configs spelled out."""
    rows = []
    for field in fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if is_dataclass(value):
            rows += differences(value, usual, f"{prefix}{field.name}.")
        elif value != usual:
            rows.append((prefix + field.name, _short(value), _short(usual)))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_short, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def preset_rows(name: str) -> list[tuple[str, str, str, str]]:
    """(kind, option, value, default) over every kind of config that has a preset of this name."""
    rows = []
    for kind, cls in KINDS:
        try:
            config = cls.preset(name)
        except ValueError:
            continue
        rows += [(kind, *row) for row in differences(config, cls())]
    return rows


class Preset(Directive):
    """A table of the options in which the presets of one codebase differ from the defaults."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        rows = preset_rows(self.arguments[0])
        if not rows:
            return [nodes.paragraph(text="All options at their defaults.")]
        table = nodes.table(classes=["preset"])
        group = nodes.tgroup(cols=4)
        table += group
        for width in (12, 28, 34, 26):
            group += nodes.colspec(colwidth=width)
        head = nodes.thead()
        head += _row(("of the", "option", "here", "default"), literal=())
        body = nodes.tbody()
        body += [_row(row, literal=(1, 2, 3)) for row in rows]
        group += [head, body]
        return [table]


def _row(cells: tuple[str, ...], literal: tuple[int, ...]) -> nodes.row:
    row = nodes.row()
    for index, text in enumerate(cells):
        entry = nodes.entry()
        paragraph = nodes.paragraph()
        paragraph += nodes.literal(text=text) if index in literal else nodes.Text(text)
        entry += paragraph
        row += entry
    return row


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("preset", Preset)
    return {"parallel_read_safe": True}
