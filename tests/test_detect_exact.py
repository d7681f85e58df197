"""detect over 2,000 images: the kept boxes, their order and every bit are the reference's.

The reference takes an image and a class at a time, which is minutes; here its own pieces run over all groups
at once, and a sample of the images goes through the reference itself.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from conftest import random_priors

from ssd_cuda import DetectConfig, ops, reference
from ssd_cuda.reference.boxes import box_iou, decode
from ssd_cuda.reference.detect import class_scores
from ssd_cuda.reference.nms import exceeds

B, P, C = 50, 150, 6
CONFIG = DetectConfig(score_threshold=0.02, top_k=60)


def detect_all(loc, conf, priors):
    """What ``reference.detect`` gives for CONFIG: the rows of all images and classes side by side."""
    columns = class_scores(conf, "softmax")[..., 1:].transpose(1, 2)  # [B, L, P]
    passing = columns.where(columns > CONFIG.score_threshold, -1.0)
    score, prior = (x[..., : CONFIG.top_k] for x in passing.sort(dim=-1, descending=True, stable=True))
    boxes = decode(loc, priors)
    rows = boxes[torch.arange(len(loc))[:, None, None], prior]  # [B, L, k, 4]
    iou = torch.vmap(torch.vmap(box_iou))(rows, rows)
    hit = exceeds(iou, CONFIG.iou_threshold)
    kept = score > 0
    for i in range(kept.shape[2] - 1):  # greedy: a box that is still there takes later ones away
        kept[..., i + 1 :] &= ~(hit[..., i, i + 1 :] & kept[..., i, None])
    limit = CONFIG.detections_per_image
    best = score.where(kept, -1.0).flatten(1).sort(dim=-1, descending=True, stable=True)
    scores, order = best.values[:, :limit], best.indices[:, :limit]
    index = prior.flatten(1).gather(1, order)
    found = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    there = scores > 0
    return (
        found.where(there[..., None], 0),
        scores.where(there, 0),
        (order // prior.shape[2] + 1).where(there, -1),
        index.where(there, -1),
        there.sum(1),
    )


@pytest.mark.parametrize("sharpness", [0.02, 0.3, 1.0, 3.0])
def test_two_thousand_images_have_the_references_boxes_order_and_bits(device, sharpness):
    """500 of each: from logits that are nearly equal, as before training, to confident ones."""
    for batch in range(500 // B):
        loc, conf, priors = torch.randn(B, P, 4), sharpness * torch.randn(B, P, C), random_priors(P)
        found = [x.cpu() for x in ops.detect(*(x.to(device) for x in (loc, conf, priors)), CONFIG)[:5]]
        assert found[4].min() > 40
        for got, want in zip(found, detect_all(loc, conf, priors), strict=True):
            assert torch.equal(got, want), batch
        one = reference.detect.detect(loc[:1], conf[:1], priors, **asdict(CONFIG))
        for got, want in zip(found, one, strict=True):
            assert torch.equal(got[:1], want), batch
