"""The data's way through the kernels as three drawings, which ``make pictures`` writes.

A diagram is a list of nodes and a list of arrows: "a b" leaves a at the side that faces b, "a/b" at its lower
edge for the upper one of b. Names, bytes and order are those of the header comments in csrc; the
CPU's kernels take the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

INK, GREY = "#212529", "#868e96"
FACE = {"data": "#f1f3f5", "kernel": "#d0ebff", "result": "#d3f9d8"}
EDGE = {"data": "#adb5bd", "kernel": "#1c7ed6", "result": "#2b8a3e"}
HEIGHT = 0.86


@dataclass(frozen=True)
class Node:
    """A box at (x, y): its first line in bold, the others small. kind: data, kernel or result."""

    x: float
    y: float
    text: str
    kind: str = "data"
    width: float = 1.9


LOSS = {
    "gt": Node(0, 4.4, "ground truth\nragged: boxes, labels, offsets"),
    "priors": Node(0, 3.2, "priors\n[P, 4], generated once"),
    "match": Node(2.7, 3.8, "match\nno IoU matrix: only pairs\nthat can reach the threshold", "kernel", 2.1),
    "codes": Node(5.4, 3.8, "codes\n[B, P] int32: which ground\ntruth, or background"),
    "conf": Node(0, 1.9, "logits, offsets\n[B, P, C], [B, P, 4], read once"),
    "keys": Node(2.7, 1.9, "keys\nlog-sum-exp of a row,\nits cross entropy", "kernel", 2.1),
    "key": Node(5.4, 1.9, "keys\n[B, P], 4 bytes a prior"),
    "select": Node(
        8.1,
        1.9,
        "select\nk of an image from its positives;\nradix selection; sums in fixed order",
        "kernel",
        2.4,
    ),
    "losses": Node(8.1, 3.8, "losses\n2 numbers and N", "result"),
    "cut": Node(8.1, 0.3, "cut\nthreshold and tie index\nof an image"),
    "backward": Node(5.4, 0.3, "backward\nwrites zeros, reads again\nonly rows that count", "kernel", 2.1),
    "grad": Node(2.7, 0.3, "gradients\n[B, P, C] and [B, P, 4]", "result"),
}
LOSS_ARROWS = (
    "gt match", "priors match", "match codes", "conf keys", "codes/keys", "keys key", "key select",
    "select losses", "select cut", "cut backward", "backward grad",
)  # fmt: skip

MINING = {
    "keys": Node(0, 1.2, "a row of keys\n[P], any values"),
    "order": Node(2.6, 1.2, "ordered keys\nbits that sort as integers;\nNaN first, -0 = 0", "kernel", 2.1),
    "first": Node(5.4, 1.2, "first digit\na histogram over the\nleading bits", "kernel", 2.1),
    "bucket": Node(8.2, 1.2, "bucket of the k-th\nits number, not its members"),
    "next": Node(8.2, 0, "next digit\ninside that bucket only", "kernel", 2.1),
    "ties": Node(5.4, 0, "ties\nthe same search\nover the indices", "kernel", 2.1),
    "cut": Node(2.6, 0, "cut\nkey above the threshold, or\nequal and index up to it", "result", 2.1),
}
MINING_ARROWS = ("keys order", "order first", "first bucket", "bucket next", "next ties", "ties cut")

DETECT = {
    "conf": Node(0, 1.3, "logits\n[B, P, C], read once"),
    "scan": Node(
        2.6, 1.3, "scan\na row none of whose classes can\npass costs one load a column", "kernel", 2.3
    ),
    "slices": Node(5.4, 1.3, "candidates\nthe best of each slice of\nthe priors, as keys"),
    "image": Node(8.2, 1.3, "image\nchunks in score order: decode,\nbit mask, rounds of NMS", "kernel", 2.3),
    "rows": Node(
        8.2, 0, "detections\nboxes, scores, labels, priors:\n[B, K], padded; counts [B]", "result", 2.1
    ),
    "again": Node(
        5.4, 2.6, "scan again\nonly if the slices ran dry\nbefore the rows were full", "kernel", 2.1
    ),
    "loc": Node(8.2, 2.6, "offsets, priors\nread for candidates only", "data", 2.1),
}
DETECT_ARROWS = ("conf scan", "scan slices", "slices image", "image rows", "again/image", "loc image")


def _anchor(a: Node, b: Node, down: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves a and meets b."""
    if down:
        lean = 0.35 * b.width if a.x > b.x else -0.35 * b.width
        return (a.x, a.y - HEIGHT / 2), (b.x + lean, b.y + HEIGHT / 2)
    if abs(a.x - b.x) > 0.9 * max(a.width, b.width) / 2:
        side = 1 if b.x > a.x else -1
        return (a.x + side * a.width / 2, a.y), (b.x - side * b.width / 2, b.y)
    side = 1 if b.y > a.y else -1
    return (a.x, a.y + side * HEIGHT / 2), (b.x, b.y - side * HEIGHT / 2)


def _node(axes: Any, node: Node) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (node.x - node.width / 2, node.y - HEIGHT / 2)
    style = dict(boxstyle="round,pad=0,rounding_size=0.09", fc=FACE[node.kind], ec=EDGE[node.kind], lw=1.2)
    axes.add_patch(FancyBboxPatch(corner, node.width, HEIGHT, **style))
    title, *rest = node.text.split("\n")
    top = node.y + 0.105 * len(rest)
    axes.text(node.x, top, title, ha="center", va="center", fontsize=9.5, weight="bold", color=INK)
    for line, text in enumerate(rest, 1):
        axes.text(node.x, top - 0.21 * line, text, ha="center", va="center", fontsize=7.2, color=INK)


def draw(path: Path, nodes: dict[str, Node], arrows: tuple[str, ...]) -> None:
    """One diagram, as SVG with its letters as outlines: it looks the same everywhere."""
    import matplotlib
    from matplotlib.figure import Figure

    left = min(n.x - n.width / 2 for n in nodes.values()) - 0.1
    right = max(n.x + n.width / 2 for n in nodes.values()) + 0.1
    low, high = (f(n.y for n in nodes.values()) for f in (min, max))
    size = (right - left, high - low + HEIGHT + 0.2)
    drawn = Figure(figsize=(size[0] * 0.95, size[1] * 0.95))
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(low - HEIGHT / 2 - 0.1, high + HEIGHT / 2 + 0.1))
    axes.axis("off")
    for pair in arrows:
        names = pair.replace("/", " ").split()
        start, end = _anchor(nodes[names[0]], nodes[names[1]], "/" in pair)
        style = dict(arrowstyle="-|>", color=GREY, lw=1.4, shrinkA=1, shrinkB=1, mutation_scale=11)
        axes.annotate("", end, start, arrowprops=style)
    for node in nodes.values():
        _node(axes, node)
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "ssd_cuda"}):
        drawn.savefig(path, metadata={"Date": None})


def draw_all(out: Path) -> None:
    """The three diagrams."""
    draw(out / "flow_loss.svg", LOSS, LOSS_ARROWS)
    draw(out / "flow_mining.svg", MINING, MINING_ARROWS)
    draw(out / "flow_detect.svg", DETECT, DETECT_ARROWS)
