"""Matching where boxes and priors differ in dtype: torch's promotion, of every prior of many scenes."""

from __future__ import annotations

import pytest
import torch
from conftest import random_boxes

from ssd_cuda import MatchConfig, ops, reference
from ssd_cuda.ops import GroundTruth

DTYPES = [(torch.float64, torch.float32), (torch.float32, torch.float64), (torch.float64, torch.float16)]


def grid_priors(size=320, cells=(20, 10, 5, 3)):
    """Squares and rectangles around the cells of a few maps, in pixels, many of them with equal overlaps."""
    rows = []
    for count in cells:
        centre = (torch.arange(count, dtype=torch.float64) + 0.5) * size / count
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        for w, h in ((1.5, 1.5), (2.1, 1.05), (1.05, 2.1)):
            half = torch.tensor([w, h], dtype=torch.float64) * size / count / 2
            c = torch.stack([x, y], -1).reshape(-1, 2)
            rows.append(torch.cat([c - half, c + half], 1))
    return torch.cat(rows)


def scene(n, whole):
    corner = torch.rand(n, 2, dtype=torch.float64) * 220
    boxes = torch.cat([corner, corner + 20 + torch.rand(n, 2, dtype=torch.float64) * 80], 1)
    return boxes.round() if whole else boxes


@pytest.mark.parametrize("boxes_dtype, priors_dtype", DTYPES, ids=str)
def test_scenes_are_torchvisions(device, boxes_dtype, priors_dtype):
    """Without the rounding of areas in float32 a few priors in a hundred scenes go to others."""
    matcher = pytest.importorskip("torchvision.models.detection._utils").SSDMatcher(0.5)
    box_iou = pytest.importorskip("torchvision.ops").box_iou
    priors = grid_priors().to(device, priors_dtype)
    config, differ = MatchConfig(prior_format="xyxy"), 0
    for seed in range(60):
        torch.manual_seed(seed)
        boxes = scene(1 + seed % 7, seed % 2).to(device, boxes_dtype)
        gt = GroundTruth.from_list([boxes], [torch.ones(len(boxes), dtype=torch.int64, device=device)])
        codes = ops.match(gt, priors, config=config)[0]
        # There the last of two truths with one best prior has it; on a card torchvision's may be any.
        assert torch.equal(codes.long().cpu(), matcher(box_iou(boxes.cpu(), priors.cpu()))), seed
        as_one = ops.match(gt.to(torch.float64), priors.double(), config=config)[0]
        differ += not torch.equal(codes, as_one)
    assert (
        differ or priors_dtype != torch.float32
    )  # a truth's area is the same for all priors; halves are short


@pytest.mark.parametrize("boxes_dtype, priors_dtype", DTYPES[:2], ids=str)
def test_a_threshold_that_one_pair_just_reaches(device, boxes_dtype, priors_dtype):
    """Its overlap is the threshold itself: an area rounded otherwise moves it off."""
    priors = grid_priors(cells=(5,)).to(device, priors_dtype)
    for seed in range(20):
        torch.manual_seed(seed)
        boxes = scene(1, False).to(device, boxes_dtype)
        gt = GroundTruth.from_list([boxes], [torch.ones(1, dtype=torch.int64, device=device)])
        overlaps = reference.boxes.box_iou(boxes, priors)
        threshold = overlaps.max().item()
        for inclusive, expected in ((True, (overlaps == threshold).sum()), (False, 0)):
            config = MatchConfig(
                prior_format="xyxy", forced="none", iou_threshold=threshold, inclusive=inclusive
            )
            assert (ops.match(gt, priors, config=config) == 0).sum() == expected


@pytest.mark.parametrize("boxes_dtype, priors_dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("forced", ["none", "argmax", "bipartite"])
@pytest.mark.parametrize("prior_format", ["cxcywh", "xyxy"])
def test_the_reference_agrees(device, boxes_dtype, priors_dtype, forced, prior_format):
    priors = random_boxes(300, dtype=torch.float64)
    if prior_format == "cxcywh":
        priors = reference.boxes.to_cxcywh(priors)
    config = MatchConfig(forced=forced, prior_format=prior_format, iou_threshold=0.4)
    boxes = [random_boxes(n, dtype=boxes_dtype).to(device) for n in (5, 0, 40)]
    gt = GroundTruth.from_list(boxes, [torch.ones(len(b), dtype=torch.int64, device=device) for b in boxes])
    priors = priors.to(device, priors_dtype)
    expected = reference.matching.match(gt.boxes, gt.offsets, priors, **vars(config))
    assert torch.equal(ops.match(gt, priors, config=config), expected)


def test_areas_that_float_cannot_hold(device):
    """Of priors so small that their area is 0 in float32: torch divides by what is left of the union."""
    boxes = torch.tensor([[0.0, 0, 2e-24, 2e-24], [0, 0, 1, 1]], dtype=torch.float64, device=device)
    priors = torch.tensor([[0.0, 0, 1e-24, 1e-24], [0, 0, 1, 1], [3, 3, 4, 4]], device=device)
    gt = GroundTruth.from_list([boxes], [torch.ones(2, dtype=torch.int64, device=device)])
    for forced in ("none", "argmax", "bipartite"):
        config = MatchConfig(prior_format="xyxy", forced=forced, iou_threshold=0.3)
        expected = reference.matching.match(gt.boxes, gt.offsets, priors, **vars(config))
        assert torch.equal(ops.match(gt, priors, config=config), expected)
