"""What the tests of exported files share: a model whose scores lie apart, and detections compared as sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssd_cuda import DetectConfig, MultiBoxConfig, PriorSpec, models

BCCD = Path(__file__).parents[1] / "../shared/data/bccd"
NAMES = ("boxes", "scores", "labels", "prior_indices", "counts")
CLASSES = ("red", "green", "blue")


class _Backbone(nn.Module):
    """Two maps, of every eighth and every sixteenth pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 8, stride=8)
        self.second = nn.Conv2d(12, 12, 2, stride=2)
        self.out_channels = [12, 12]

    def forward(self, x):
        first = self.first(x).relu()
        return [first, self.second(first).relu()]


def model(size=(64, 64), num_classes: int = 4) -> models.SSD:
    """Random weights with logits so far apart that no rounding changes what is found."""
    torch.manual_seed(0)
    height, width = size
    maps = tuple((height // k, width // k) for k in (8, 16))
    spec = PriorSpec(
        size, maps, sizes=(16, 30), larger_sizes=(30, 50), ratios=((2,), (2,)), steps=None, pixels=True
    )
    config = DetectConfig(score_threshold=0.3, detections_per_image=50)
    options = dict(mean=[0.5] * 3, std=[0.2] * 3, loss_config=MultiBoxConfig(), detect_config=config)
    made = models.SSD(_Backbone(), spec, num_classes, **options).eval()
    for head in made.heads:
        nn.init.normal_(head.conf_conv.weight, std=0.8)
        nn.init.normal_(head.loc_conv.weight, std=0.1)
    return made


def images(batch: int, size=(64, 64), seed: int = 0) -> torch.Tensor:
    """Soft blobs in [0, 1], no two alike."""
    noise = torch.rand(batch, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size, mode="bilinear").contiguous()


def run(session, *inputs: torch.Tensor) -> list[np.ndarray]:
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))


def metadata(session) -> dict:
    return json.loads(session.get_modelmeta().custom_metadata_map["ssd_cuda"])


def rows(boxes, scores, labels, prior_indices, counts) -> list[dict]:
    """Per image (label, prior) -> score and box, of the rows that are filled; padding is checked on the
    way.
    """
    found = []
    for image, count in enumerate(np.asarray(counts).tolist()):
        keys = zip(np.asarray(labels[image]).tolist(), np.asarray(prior_indices[image]).tolist(), strict=True)
        values = np.concatenate([np.asarray(scores[image])[:, None], np.asarray(boxes[image])], 1)
        pairs = list(zip(keys, values, strict=True))
        assert all(key == (-1, -1) and not value.any() for key, value in pairs[count:])
        assert list(values[:count, 0]) == sorted(values[:count, 0], reverse=True)
        found.append(dict(pairs[:count]))
        assert len(found[-1]) == count
    return found


def assert_same_detections(found, expected, tolerance: float = 1e-5) -> None:
    """Two padded results hold the same (label, prior), with their scores and boxes."""
    for ours, theirs in zip(rows(*found), rows(*expected[:5]), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            np.testing.assert_allclose(value, theirs[key], rtol=tolerance, atol=tolerance)
