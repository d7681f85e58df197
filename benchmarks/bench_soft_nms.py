"""The NMS family beside plain NMS: soft-NMS, DIoU-NMS, matrix NMS and NMS of a padded batch.

Baselines are the same rules composed of PyTorch's operations, with its own exp, and for a batch torchvision's
batched_nms image by image.

python -m benchmarks soft_nms
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ssd_cuda import ops
from ssd_cuda.reference.boxes import box_iou
from ssd_cuda.reference.diou_nms import box_diou

from .bench_nms import THRESHOLD, scene
from .harness import Case, Contest

SIGMA, LEAST = 0.5, 0.01


def _by_class(idxs: Tensor, choose: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """choose(rows) -> (kept among them, their scores), class by class; all by score."""
    parts = []
    for label in idxs.unique():
        rows = (idxs == label).nonzero()[:, 0]
        keep, values = choose(rows)
        parts.append((rows[keep], values))
    keep, values = (torch.cat(part) for part in zip(*parts, strict=True))
    order = values.argsort(descending=True, stable=True)
    return keep[order], values[order]


def _soft(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """One class: the best is chosen, the others decay, a pass of torch's operations each."""
    left, keep, values = scores.clone(), [], []
    while True:
        best = left.argmax()
        value = left[best].clone()
        if value <= LEAST:
            break
        keep.append(best)
        values.append(value)
        iou = box_iou(boxes[best][None], boxes)[0]
        left *= torch.exp(-(iou * iou) / SIGMA)
        left[best] = 0
    return torch.stack(keep), torch.stack(values)


def _diou(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    order = scores.argsort(descending=True, stable=True)
    keep = []
    while len(order):
        keep.append(order[0])
        order = order[1:][box_diou(boxes[order[:1]], boxes[order[1:]])[0] <= THRESHOLD]
    keep = torch.stack(keep)
    return keep, scores[keep]


def _matrix(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix of all pairs, as the authors' code has it."""
    order = scores.argsort(descending=True, stable=True)
    iou = box_iou(boxes[order], boxes[order]).triu(1)
    most = iou.amax(0)[:, None]
    weight = (torch.exp(-2.0 * iou * iou) / torch.exp(-2.0 * most * most)).amin(0)
    values = scores[order] * weight
    kept = values > 0.05
    order, values = order[kept], values[kept]
    best = values.argsort(descending=True, stable=True)
    return order[best], values[best]


Pair = tuple[Callable[..., tuple[Tensor, ...]], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]
RULES: dict[str, Pair] = {
    "soft_nms": (
        lambda boxes, scores, idxs: ops.soft_nms_padded(
            boxes, scores, idxs=idxs, sigma=SIGMA, score_threshold=LEAST
        ),
        _soft,
    ),
    "diou_nms": (lambda boxes, scores, idxs: ops.diou_nms_padded(boxes, scores, THRESHOLD, idxs=idxs), _diou),
    "matrix_nms": (lambda boxes, scores, idxs: ops.matrix_nms_padded(boxes, scores, idxs=idxs), _matrix),
}


def _contest(device: torch.device, *, rule: str, n: int, kind: str, batched: bool) -> Contest:
    boxes, scores, idxs = scene(n, kind, device)
    scores = scores.mul(0.99).add(0.005)
    run, choose = RULES[rule]

    def ours() -> tuple[Tensor, ...]:
        return run(boxes, scores, idxs if batched else None)

    def theirs() -> tuple[Tensor, Tensor]:
        if not batched:
            return choose(boxes, scores)
        return _by_class(idxs, lambda rows: choose(boxes[rows], scores[rows]))

    def check() -> None:
        keep, *more, count = ours()
        index, values = theirs()
        rows = int(count)
        assert abs(rows - len(index)) <= 1  # a score next to the threshold, by torch's exp and ours
        mine = more[0][:rows] if more else scores[keep[:rows]]
        same = min(rows, len(index))
        torch.testing.assert_close(mine[:same], values[:same], rtol=1e-4, atol=1e-5)

    return Contest(ours=ours, baselines={"composed": theirs}, check=check, min_bytes=36 * n)


def _batch(device: torch.device, *, b: int, n: int, kind: str) -> Contest:
    from torchvision.ops import batched_nms

    parts = [scene(n, kind, device, seed) for seed in range(b)]
    boxes, scores, idxs = (torch.stack(part) for part in zip(*parts, strict=True))

    def ours() -> tuple[Tensor, Tensor]:
        return ops.nms_batch(boxes, scores, THRESHOLD, idxs=idxs)

    def theirs() -> list[Tensor]:
        return [batched_nms(boxes[i], scores[i], idxs[i], THRESHOLD) for i in range(b)]

    def check() -> None:
        keep, counts = ours()
        for image, kept in enumerate(theirs()):
            assert torch.equal(keep[image, : int(counts[image])], kept)

    return Contest(ours=ours, baselines={"torchvision": theirs}, check=check, min_bytes=36 * b * n)


def cases() -> list[Case]:
    """Few and many boxes, in one list and in classes; batches of images."""
    found = []
    for rule in RULES:
        for batched, kind in ((False, "sparse"), (False, "dense"), (True, "dense")):
            for n in (1000, 5000):
                name = f"{'batched ' if batched else ''}{rule} {kind} N={n}"
                make = functools.partial(_contest, rule=rule, n=n, kind=kind, batched=batched)
                found.append(Case("soft_nms", name, {"N": n}, make, "", ("composed",)))
    for b, n in ((8, 1000), (32, 2000)):
        for kind in ("sparse", "dense"):
            make = functools.partial(_batch, b=b, n=n, kind=kind)
            name = f"nms_batch {kind} B={b} N={n}"
            found.append(Case("soft_nms", name, {"B": b, "N": n}, make, "", ("torchvision",)))
    return found
