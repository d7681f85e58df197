"""qfgaohao/pytorch-ssd.

lufficc took matching and loss over from here, so they are imported from that transcription. The detection
differs: 200 candidates per class, 1e-5 in the union of the IoU of NMS too, classes one after the other, no
limit per image; optionally Gaussian soft-NMS without a limit before it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .lufficc import assign, decode, iou_of, loss

__all__ = ["assign", "detect", "detect_soft", "hard_nms", "loss", "predict", "soft_nms"]


def hard_nms(box_scores: Tensor, iou_threshold: float, candidate_size: int = 200) -> Tensor:
    """box_scores: [N, 6] corners, score, prior -> the rows that are kept."""
    indexes = box_scores[:, 4].sort(descending=True, stable=True).indices[:candidate_size]
    picked = []
    while len(indexes):
        current, indexes = indexes[0], indexes[1:]
        picked.append(int(current))
        iou = iou_of(box_scores[indexes, :4], box_scores[current, :4], 1e-5)
        indexes = indexes[iou <= iou_threshold]
    return box_scores[picked]


def soft_nms(box_scores: Tensor, score_threshold: float, sigma: float = 0.5) -> Tensor:
    """box_scores: [N, 6] corners, score, prior -> the rows in the order of choice, with decayed scores."""
    picked = []
    while len(box_scores):
        best = int(torch.argmax(box_scores[:, 4]))
        current = box_scores[best].clone()
        picked.append(current)
        # That code moves the last row into the hole, which reorders ties; here the rows stay in order.
        box_scores = torch.cat([box_scores[:best], box_scores[best + 1 :]])
        ious = iou_of(current[None, :4], box_scores[:, :4], 1e-5)
        decayed = box_scores[:, 4] * torch.exp(-(ious * ious) / sigma)
        box_scores = torch.cat([box_scores[:, :4], decayed[:, None], box_scores[:, 5:]], 1)
        box_scores = box_scores[box_scores[:, 4] > score_threshold]
    return torch.stack(picked) if picked else box_scores


def predict(
    loc: Tensor, conf: Tensor, priors: Tensor, suppress: Callable[[Tensor], Tensor], threshold: float = 0.01
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    boxes, scores = decode(loc, priors), torch.softmax(conf, 1)
    index = torch.arange(len(priors), device=loc.device, dtype=boxes.dtype)
    picked, labels = [], []
    for class_index in range(1, conf.shape[1]):
        probs = scores[:, class_index]
        mask = probs > threshold
        rows = torch.cat([boxes[mask], probs[mask, None], index[mask, None]], 1)
        picked.append(suppress(rows))
        labels += [class_index] * len(picked[-1])
    rows = torch.cat(picked)
    label = torch.tensor(labels, dtype=torch.int64, device=loc.device)
    return rows[:, :4], rows[:, 4], label, rows[:, 5].long()


def detect(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return predict(loc, conf, priors, lambda rows: hard_nms(rows, 0.45))


def detect_soft(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return predict(loc, conf, priors, lambda rows: soft_nms(rows, 0.01))
