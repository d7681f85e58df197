"""Scenes and options that the tests of soft-NMS share, on the op and on the emulated kernels."""

from __future__ import annotations

import math

import torch

INF, NAN = math.inf, math.nan

RULES = [
    {},
    {"sigma": 0.05, "score_threshold": 0.2},
    {"sigma": 2.0, "score_threshold": 0.0, "iou_eps": 1e-5},
    {"method": "linear"},
    {"method": "linear", "iou_threshold": 0.0, "score_threshold": 0.1},
    {"method": "linear", "iou_threshold": 0.5, "inclusive": True, "pixel_offset": 1.0},
]

ODD_BOXES = [
    [NAN, 0, 5, 5], [0, 0, 5, NAN], [0, 0, INF, 5], [-INF, -INF, INF, INF], [1, 1, 1, 1], [4, 4, 1, 1],
    [4, 1, 1, 4], [0, 0, 5, 5], [0, 0, 5, 5], [0, 0, 1e-30, 1e30], [0, 0, 3e38, 3e38], [0, 0, 1e-45, 1e-45],
]  # fmt: skip
ODD_SCORES = [0.5, NAN, INF, 0.5, -INF, 0.0, -0.0, 1.0, NAN, 1e-40, INF, 0.7]


def scene(n: int, classes: int = 0, extent: float = 60.0):
    """Boxes [n, 4] that overlap much, scores [n] with ties, classes [n] or None."""
    corner, size = (torch.rand(n, 2) * extent).round(), 5 + (20 * torch.rand(n, 2)).round()
    scores = (torch.rand(n) * 40).round() / 40
    idxs = torch.randint(-2, classes - 2, (n,)) * 2**33 if classes else None
    return torch.cat([corner, corner + size], 1), scores, idxs


def odd_scene():
    """Every odd box with every odd score."""
    boxes = torch.tensor(ODD_BOXES).repeat_interleave(len(ODD_SCORES), 0)
    return boxes, torch.tensor(ODD_SCORES).repeat(len(ODD_BOXES))
