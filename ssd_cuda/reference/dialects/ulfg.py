"""Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB: faces, two classes; qfgaohao's rule, taken over.

Quirks: it matches at 0.35; its detection takes the scores above 0.6, the 1500 best of them, suppresses above
0.3 and stops at half as many boxes as it took candidates.
"""

from __future__ import annotations

from torch import Tensor

from . import lufficc
from .qfgaohao import hard_nms, predict

NUM_CLASSES = 2
IOU_THRESHOLD = 0.35
CANDIDATES = 1500


def assign(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    return lufficc.assign(boxes, labels, priors, IOU_THRESHOLD)


def loss(
    loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    return lufficc.loss(loc, conf, boxes, labels, priors, IOU_THRESHOLD)


def detect(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return predict(loc, conf, priors, lambda rows: hard_nms(rows, 0.3, CANDIDATES)[: CANDIDATES // 2], 0.6)
