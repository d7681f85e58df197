"""``make pictures DATA=folder``: draws what the pages of docs/ show, from photographs and a trained network.

The network is the one that ``make demo DATA=folder`` leaves in runs/demo; every box that is drawn comes from
the ops themselves. Photographs are of the test split, which the network has not seen.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

import flow  # beside this file

from ssd_cuda import ops  # after the path
from ssd_cuda.data import open_dataset, prepare
from ssd_cuda.data.loading import collate, data_splits
from ssd_cuda.engine.checkpoint import load_model
from ssd_cuda.engine.draw import class_colour, save_grid
from ssd_cuda.engine.evaluate import evaluate

INK, GREY, ORANGE = "#212529", "#868e96", "#f76707"
DPI = 150
JPEG = {"quality": 88, "optimize": True, "progressive": True}


def corners(priors: Tensor) -> Tensor:
    """``[P, 4]`` centre and size -> x1, y1, x2, y2."""
    half = priors[:, 2:] / 2
    return torch.cat([priors[:, :2] - half, priors[:, :2] + half], 1)


def rectangle(axes: Any, box: Tensor, size: tuple[int, int], **style: Any) -> None:
    """A box in fractions of the image, drawn in pixels of ``size`` (height, width)."""
    from matplotlib.patches import Rectangle

    height, width = size
    x1, y1, x2, y2 = (v * s for v, s in zip(box.tolist(), (width, height, width, height), strict=True))
    # Not add_patch, which looks for new limits of the axes each time: there are thousands.
    axes.add_artist(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=style.pop("fill", False), **style))


def photograph(axes: Any, image: Tensor, title: str, dim: float = 1.0) -> tuple[int, int]:
    """The photograph on its axes; returns (height, width). ``dim`` below 1 pales it towards white."""
    pixels = image.permute(1, 2, 0).float() * dim + (1 - dim)
    axes.imshow(pixels.numpy(), interpolation="lanczos")
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    height, width = image.shape[1:]
    axes.set(xlim=(0, width), ylim=(height, 0))
    return height, width


def dashes(axes: Any, boxes: Tensor, size: tuple[int, int]) -> None:
    """Ground truth: white dashes on a dark line, as the pictures of a run have it."""
    for box in boxes:
        rectangle(axes, box, size, ec=INK, lw=1.8)
        rectangle(axes, box, size, ec="white", lw=1.8, ls=(0, (3, 3)))


def figure(columns: int, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11, height), dpi=DPI, layout="constrained")
    return drawn, drawn.subplots(1, columns)


def mined(model: Any, images: Tensor, gt: ops.GroundTruth) -> tuple[Tensor, Tensor]:
    """Keys and selected negatives ``[P]`` of one image, by the rule of the paper: three a positive."""
    with torch.no_grad():
        _, conf = model(images)
    codes = ops.match(gt, model.priors)
    target = torch.where(codes >= 0, gt.labels[codes.clamp(min=0).long()], 0)
    keys = torch.nn.functional.cross_entropy(conf.transpose(1, 2), target, reduction="none")
    return keys[0], ops.select_hard_negatives(keys, codes >= 0, ratio=3.0)[0]


def draw_matching(path: Path, image: Tensor, model: Any, images: Tensor, gt: ops.GroundTruth) -> None:
    """Which priors match, a colour a ground truth, and which negatives were mined."""
    codes = ops.match(gt, model.priors)[0]
    forced = (codes >= 0) & (ops.match(gt, model.priors, forced="none")[0] != codes)
    boxes = corners(model.priors)
    drawn, (left, right) = figure(2, 4.4)
    matched, few = int((codes >= 0).sum()), int(forced.sum())
    of = f"{matched} of {len(codes):,} priors match, {few} of them forced (filled)"
    size = photograph(left, image, of, 0.75)
    for index in (codes >= 0).nonzero()[:, 0].tolist():
        colour = [c / 255 for c in class_colour(int(codes[index]))]
        inside = (*colour, 0.35) if forced[index] else (0, 0, 0, 0)
        rectangle(left, boxes[index], size, ec=colour, lw=1.1 + float(forced[index]), fill=True, fc=inside)
    dashes(left, gt.boxes, size)
    keys, hard = mined(model, images, gt)
    count, hardest = int(hard.sum()), 30
    photograph(right, image, f"{count} negatives mined (centres), the {hardest} hardest as boxes", 0.75)
    order = keys.masked_fill(~hard, -1).argsort(descending=True)[:count]
    centre = model.priors[order, :2] * torch.tensor([size[1], size[0]])
    right.scatter(centre[:, 0], centre[:, 1], s=9, color=ORANGE, lw=0)
    for index in order[:hardest].tolist():
        rectangle(right, boxes[index], size, ec=ORANGE, lw=1.1)
    dashes(right, gt.boxes, size)
    drawn.savefig(path, pil_kwargs=JPEG)


def draw_mining(path: Path, models: dict[str, Any], images: Tensor, gt: ops.GroundTruth) -> None:
    """The keys of one image before and after training, sorted only to be drawn, and where the cut goes."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8.4, 3.4), dpi=DPI, layout="constrained")
    axes = drawn.subplots()
    for (name, model), colour in zip(models.items(), (GREY, INK), strict=True):
        keys, hard = mined(model, images, gt)
        negatives = keys[ops.match(gt, model.priors)[0] < 0].sort(descending=True).values
        count, rank = int(hard.sum()), torch.arange(1, len(negatives) + 1)
        share = float(negatives[:count].sum() / negatives.sum())
        axes.plot(
            rank, negatives, color=colour, lw=1.8, label=f"{name}: the cut keeps {share:.0%} of the loss"
        )
    axes.fill_between(rank[:count], negatives[:count], 1e-6, color=ORANGE, alpha=0.3, lw=0)
    axes.axvline(count, color=ORANGE, lw=1.4)
    axes.text(count * 0.93, 2e-3, f"k = {count}", color=ORANGE, ha="right")
    axes.set(xscale="log", yscale="log", xlim=(1, len(negatives)), ylim=(1e-3, 6))
    axes.set(xlabel="negatives of one photograph, hardest first", ylabel="cross entropy")
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)
    drawn.savefig(path)


def draw_detection(path: Path, image: Tensor, model: Any, images: Tensor, classes: tuple[str, ...]) -> None:
    """The candidates of the post-process, and what NMS leaves of them."""
    rule = model.detect_config
    with torch.no_grad():
        loc, conf = model(images)
    everything = replace(rule, iou_threshold=1.0, top_k=None, detections_per_image=None)
    candidates = ops.detect(loc, conf, model.priors, everything).to_list()[0]
    kept = ops.detect(loc, conf, model.priors, replace(rule, score_threshold=0.5)).to_list()[0]
    drawn, (left, right) = figure(2, 4.9)
    few, shown = len(candidates["boxes"]), candidates["scores"] > 0.05
    scores = conf.shape[1] * (conf.shape[2] - 1)
    of = f"{few:,} of {scores:,} scores pass {rule.score_threshold} (drawn: above 0.05)"
    size = photograph(left, image, of, 0.75)
    rows = zip(candidates["boxes"][shown].flip(0), candidates["labels"][shown].flip(0), strict=True)
    for (box, label), score in zip(rows, candidates["scores"][shown].flip(0).tolist(), strict=True):
        colour = [c / 255 for c in class_colour(int(label) - 1)]
        rectangle(left, box, size, ec=(*colour, 0.15 + 0.6 * score), lw=0.9)
    photograph(right, image, f"{len(kept['boxes'])} detections above 0.5 after NMS of every class", 0.75)
    for box, label in zip(kept["boxes"], kept["labels"].tolist(), strict=True):
        rectangle(right, box, size, ec=[c / 255 for c in class_colour(label - 1)], lw=2.0)
    handles = [
        right.plot([], [], color=[c / 255 for c in class_colour(k)], lw=2, label=name)[0]
        for k, name in enumerate(classes)
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(classes), frameon=False)
    drawn.savefig(path, pil_kwargs=JPEG)


def draw_all(data: str, checkpoint: str, out: Path, photo: int) -> None:
    """Every picture that needs photographs."""
    model, spec = load_model(checkpoint)
    dataset: Any = open_dataset(data, data_splits(data)[1])
    images, gt = collate([prepare(dataset, model.image_size, cache=False)[photo]])
    image = dataset.image(photo).as_subclass(Tensor) / 255
    draw_matching(out / "matching.jpg", image, model, images, gt)
    torch.manual_seed(0)
    fresh = spec.build().eval()
    draw_mining(out / "mining.png", {"before training": fresh, "trained": model}, images, gt)
    draw_detection(out / "detection.jpg", image, model, images, spec.classes)
    scores = evaluate(model, dataset, workers=0)
    chosen = range(0, len(dataset), max(1, len(dataset) // 6))[:6]
    save_grid(
        out / "detections.jpg",
        [dataset.image(i).as_subclass(Tensor) for i in chosen],
        [scores["predictions"][i] for i in chosen],
        [dataset.target(i) for i in chosen],
        dataset.classes,
        caption=f"AP50 {scores['ap50']:.3f}",
        width=1320,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make pictures", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="shapes", help="a Pascal VOC or COCO folder (default: %(default)s)")
    parser.add_argument("--checkpoint", default="runs/demo/checkpoint.pt", help="of make demo")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument("--photo", type=int, default=20, help="index of the photograph in the test split")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    flow.draw_all(options.out)
    draw_all(options.data, options.checkpoint, options.out, options.photo)
    print("drew", ", ".join(sorted(path.name for path in options.out.iterdir())))


if __name__ == "__main__":
    main()
