"""What the tests of weighted boxes fusion share: models that see the same things, and rules."""

from __future__ import annotations

import torch
from conftest import random_boxes

RULES = [
    {},
    {"conf_type": "max", "weights": (2.0, 1.0, 0.5)},
    {"conf_type": "box_and_model_avg", "weights": (2.0, 1.0, 0.5)},
    {"conf_type": "absent_model_aware_avg", "weights": (2.0, 1.0, 0.5)},
    {"weights": (1.0, 0.0, 3.0), "iou_thr": 0.4, "skip_box_thr": 0.3},
    {"allows_overflow": True, "iou_thr": 0.2},
    {"iou_thr": 0.0},
    {"iou_thr": 1.0, "clip_size": (0.7, 0.5)},
    {"clip_size": None},
]


def scene(images=2, models=3, each=30, labels=3, things=8, dtype=torch.float32):
    """boxes [B, M, N, 4], scores, labels [B, M, N]: each model sees things a little otherwise, some twice."""
    truth = random_boxes(images * things).reshape(images, things, 4)
    which = torch.randint(0, things, (images, models, each))
    kind = torch.randint(0, labels, (images, things))
    rows = torch.arange(images)[:, None, None]
    boxes = truth[rows, which] + 0.03 * torch.randn(images, models, each, 4)
    scores = torch.rand(images, models, each)
    return boxes.to(dtype), scores.to(dtype), kind[rows, which] - 1
