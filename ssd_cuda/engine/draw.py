"""Pictures of a run: detections on an image, a grid against the ground truth, the loss curve.

Images are drawn with pillow, curves with matplotlib; both are imported when first used.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .._extras import require
from .._names import printable
from .fonts import load_font
from .outputs import write_file

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

_INK, _PAPER, _GREY = (33, 37, 41), (255, 255, 255), (134, 142, 150)
_PALETTE: tuple[Colour, ...] = (
    (250, 82, 82), (34, 139, 230), (64, 192, 87), (250, 176, 5), (190, 75, 219),
    (21, 170, 191), (253, 126, 20), (230, 73, 128), (130, 201, 30), (76, 110, 245),
)  # fmt: skip


def class_colour(index: int) -> Colour:
    """The colour of the class with this index, from 0: a fixed palette, then ever new hues.

    Example:
        >>> class_colour(0)
        (250, 82, 82)
    """
    if index < len(_PALETTE):
        return _PALETTE[index]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.75, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image: Tensor,
    prediction: Mapping[str, Tensor],
    classes: Sequence[str],
    *,
    target: Mapping[str, Tensor] | None = None,
    min_score: float = 0.5,
    width: int | None = None,
    scale: float | None = None,
) -> Any:
    """One image with its detections, and with the ground truth in dashes if there is one.

    Args:
        image: uint8 ``[3, H, W]``.
        prediction: ``boxes`` [n, 4] x1, y1, x2, y2 in pixels of ``image``, ``scores`` [n], ``labels``
            [n] from 1 in the order of ``classes``.
        target: ``boxes`` [m, 4], likewise.
        min_score: detections below it are not drawn.
        width: of the result in pixels; None: that of the image, or 640 if it is less, as long as the height
            stays within 2048. A tall image in a given width becomes narrower: at most four times as high.
        scale: of the result to ``image``, instead of ``width``: 1 leaves an image of any shape its size.

    Returns:
        A ``PIL.Image``; ``.save(path)`` writes it.

    Example:
        >>> image = torch.zeros(3, 48, 64, dtype=torch.uint8)
        >>> found = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "scores": torch.ones(1)}
        >>> draw_detections(image, {**found, "labels": torch.tensor([1])}, ["cell"]).size
        (640, 480)
    """
    canvas_module = require("PIL.Image", "drawing")
    draw_module = require("PIL.ImageDraw", "drawing")
    if scale is None:
        scale = _scale(image.shape[2], image.shape[1], width)
    width, height = (max(1, round(side * scale)) for side in (image.shape[2], image.shape[1]))
    canvas = canvas_module.fromarray(np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()))
    canvas = canvas.resize((width, height), canvas_module.LANCZOS)
    draw = draw_module.Draw(canvas)
    line = max(2, round(width / 180))
    if target is not None:
        for box in _on_canvas(target["boxes"], scale, canvas.size, line):
            if box is not None:
                _dashes(draw, box, line)
    scores, labels = prediction["scores"].tolist(), prediction["labels"].tolist()
    boxes = _on_canvas(prediction["boxes"], scale, canvas.size, line)
    shown = [(s, label, box) for s, label, box in zip(scores, labels, boxes, strict=True) if s >= min_score]
    chosen = sorted((row for row in shown if row[2] is not None), key=lambda row: row[0])
    for _, label, box in chosen:  # the surest last, on top
        draw.rectangle(box, outline=class_colour(label - 1), width=line)
    letters = max(13, round(width / 36))
    taken: list[Box] = []
    for score, label, box in reversed(chosen):  # the surest choose their place first
        text = f"{printable(classes[label - 1])} {score:.2f}"
        font = load_font(letters, text)
        taken.append(_label(draw, box, text, class_colour(label - 1), font, canvas.size, taken))
    return canvas


def save_grid(
    path: str | Path,
    images: Sequence[Tensor],
    predictions: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    classes: Sequence[str],
    *,
    columns: int = 3,
    width: int = 1680,
    min_score: float = 0.5,
    caption: str = "",
) -> None:
    """Write a grid of images, detections against ground truth, with a legend.

    Args:
        path: of the picture; its suffix says the format.
        images, predictions, targets: one entry per panel, as for :func:`draw_detections`.
        columns: panels in a row.
        width: of the picture in pixels.
        caption: a line at the right of the legend, such as the AP of the run.

    Raises:
        ValueError: no images, or lengths that disagree.
    """
    if not images or not len(images) == len(predictions) == len(targets):
        raise ValueError(
            "images, predictions and targets must have one entry per panel, at least one, got "
            f"{len(images)}, {len(predictions)} and {len(targets)}"
        )
    canvas_module = require("PIL.Image", "drawing")
    gap = round(width / 140)
    columns = min(columns, len(images))
    panel = (width - gap * (columns + 1)) // columns
    panels = [
        draw_detections(i, p, classes, target=t, min_score=min_score, width=panel)
        for i, p, t in zip(images, predictions, targets, strict=True)
    ]
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(p.height for p in row) for row in rows]
    legend = round(width / 24)
    canvas = canvas_module.new("RGB", (width, sum(heights) + gap * (len(rows) + 1) + legend), _PAPER)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        for column, p in enumerate(row):
            canvas.paste(p, (gap + column * (panel + gap), y))
        y += height + gap
    _draw_legend(canvas, classes, caption, (gap, y, width - gap, y + legend - gap))
    save_picture(path, canvas)


def figure_class(purpose: str = "the loss curve") -> Any:
    """``Figure`` of matplotlib: asked for before the work that ends in what needs it.

    Args:
        purpose: what it is to draw, for the message.

    Raises:
        ImportError: it is missing.

    Example:
        >>> figure_class().__name__
        'Figure'
    """
    return require("matplotlib.figure", purpose).Figure


def save_loss_curve(
    path: str | Path,
    history: Sequence[Mapping[str, float]],
    *,
    evaluations: Sequence[tuple[int, float]] = (),
    title: str = "",
) -> None:
    """Write the curve of a training run: every step faintly, their running mean in full.

    The legend gives the last value of each.

    Args:
        path: of the picture.
        history: one mapping per step with ``step``, ``loss``, and ``localization`` and
            ``classification`` where they are known.
        evaluations: pairs of step and AP50, drawn on an axis of their own.

    Raises:
        ValueError: no steps.
    """
    if not history:
        raise ValueError("history must have at least one step, got none")
    figure = figure_class()(figsize=(8.4, 4.2), dpi=150)
    axes = figure.add_subplot()
    steps = [row["step"] for row in history]
    names = [name for name in ("loss", "classification", "localization") if name in history[0]]
    hues = ("#212529", "#228be6", "#fa5252")
    top = 0.0
    for name, hue in zip(names, hues, strict=False):
        values = np.array([row[name] for row in history], float)
        smooth = running_mean(values, max(1, len(values) // 40))
        axes.plot(steps, values, color=hue, alpha=0.18, linewidth=0.8)
        axes.plot(steps, smooth, color=hue, linewidth=2.0, label=f"{name} {smooth[-1]:.2f}")
        finite = values[np.isfinite(values)]
        top = max(top, float(np.quantile(finite, 0.98)) if finite.size else 0.0)
    axes.set(xlabel="step", ylabel="loss", xlim=(min(steps), max(steps) * 1.01 + 1e-9))
    axes.set_ylim(0, 1.1 * top or 1.0)  # the first steps may leave the picture
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles = axes.get_legend_handles_labels()[0]
    if evaluations:
        right = axes.twinx()
        right.set(ylabel="AP50", ylim=(0, 1))
        right.spines[["top"]].set_visible(False)
        handles += right.plot(
            *zip(*evaluations, strict=True), "o-", color="#40c057", label=f"AP50 {evaluations[-1][1]:.2f}"
        )
    axes.legend(handles=handles, frameon=False, loc="upper center", ncols=len(handles))
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    figure.tight_layout()
    write_file(path, lambda file: figure.savefig(file, format=Path(path).suffix[1:] or "png"))


def running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean of the finite ones of up to ``reach`` values at either side; nan if there is none.  # [n]

    Example:
        >>> running_mean(np.array([1.0, 3.0, np.nan]), 1).tolist()
        [2.0, 2.0, 3.0]
    """
    finite = np.isfinite(values)
    i = np.arange(len(values))
    low, high = np.maximum(i - reach, 0), np.minimum(i + reach + 1, len(values))
    total, count = (np.concatenate([[0.0], np.cumsum(v)]) for v in (np.where(finite, values, 0.0), finite))
    number = count[high] - count[low]
    mean = np.full(len(values), np.nan)
    return np.divide(total[high] - total[low], number, out=mean, where=number > 0)


def _scale(width: int, height: int, wanted: int | None) -> float:
    """How much an image is enlarged: a line of pixels does not become a picture of gigabytes."""
    if wanted is None:
        return max(1.0, min(640 / width, 2048 / height))
    return min(wanted / width, 4 * wanted / height)


def save_picture(path: str | Path, picture: Any) -> None:
    """Write a ``PIL.Image`` whole or not at all; the suffix of ``path`` says the format.

    Raises:
        ValueError: an unknown suffix. OutputError: it cannot be written.
    """
    known = require("PIL.Image", "drawing").registered_extensions()
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise ValueError(f"a picture must end in .png, .jpg or the like, got {path}")
    write_file(path, lambda file: picture.save(file, format=known[suffix]))


def _on_canvas(boxes: Tensor, scale: float, size: tuple[int, int], line: int) -> list[Any]:
    """Boxes in pixels of the canvas, cut just outside of it; None for one that cannot be drawn."""
    limits = [side + line for side in (*size, *size)]
    result: list[Box | None] = []
    for row in boxes.detach().cpu().float().reshape(-1, 4).tolist():
        x1, y1, x2, y2 = (
            min(max(v * scale, -float(line)), float(top)) for v, top in zip(row, limits, strict=True)
        )
        drawable = all(map(math.isfinite, row)) and x1 <= x2 and y1 <= y2
        result.append((x1, y1, x2, y2) if drawable else None)
    return result


def _dashes(draw: Any, box: Box, line: int) -> None:
    """A dashed rectangle that shows on any ground: white dashes on a dark line."""
    x1, y1, x2, y2 = box
    draw.rectangle(box, outline=_INK, width=line)
    dash = 4 * line
    for a, b, level in ((x1, x2, y1), (x1, x2, y2 - line + 1)):
        for start in np.arange(a, b, 2 * dash):
            draw.rectangle([start, level, min(start + dash, b), level + line - 1], fill=_PAPER)
    for a, b, level in ((y1, y2, x1), (y1, y2, x2 - line + 1)):
        for start in np.arange(a, b, 2 * dash):
            draw.rectangle([level, start, level + line - 1, min(start + dash, b)], fill=_PAPER)


def _overlap(a: Box, b: Box) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)


def _label(
    draw: Any, box: Box, text: str, colour: Colour, font: Any, size: tuple[int, int], taken: list[Box]
) -> Box:
    """Write a text at a box, where it hides the least of the texts that are ``taken``."""
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, font.size // 5)
    w, h = right - left + 2 * pad, bottom - top + 2 * pad
    places = []
    for y in (box[1] - h + 1, box[1], box[3] - h, box[3]):
        for x in (box[0], box[2] - w):
            x, y = min(max(x, 0.0), size[0] - w), min(max(y, 0.0), size[1] - h)
            places.append((x, y, x + w, y + h))
    best = min(places, key=lambda place: sum(_overlap(place, other) for other in taken))
    draw.rounded_rectangle(best, radius=pad, fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 160
    draw.text((best[0] + pad - left, best[1] + pad - top), text, fill=_INK if bright else _PAPER, font=font)
    return best


def _draw_legend(canvas: Any, classes: Sequence[str], caption: str, area: tuple[int, int, int, int]) -> None:
    """The dashes of the ground truth, the colour of every class that has room, the caption."""
    draw = require("PIL.ImageDraw", "drawing").Draw(canvas)
    x, y1, end, y2 = area
    middle, side = (y1 + y2) // 2, (y2 - y1) * 5 // 9
    letters = max(13, side * 3 // 4)
    font = load_font(letters, caption)
    if caption:
        end -= int(font.getlength(caption))
        draw.text((end, middle), caption, fill=_GREY, font=font, anchor="lm")
    for index in range(-1, len(classes)):
        name = "ground truth" if index < 0 else printable(classes[index])
        font = load_font(letters, name)
        wide = side * 2 if index < 0 else side
        if x + wide + side // 2 + font.getlength(name) > end - side:
            draw.text((x, middle), "...", fill=_GREY, font=font, anchor="lm")
            break
        swatch = (x, middle - side // 2, x + wide, middle + side // 2)
        if index < 0:
            draw.rectangle(swatch, fill=_GREY)  # white dashes need a ground
            _dashes(draw, swatch, max(2, side // 10))
        else:
            draw.rounded_rectangle(swatch, radius=side // 5, fill=class_colour(index))
        x += wide + side // 2
        draw.text((x, middle), name, fill=_INK, font=font, anchor="lm")
        x += int(font.getlength(name)) + side
