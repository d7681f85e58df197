"""The references of matching and mining: by hand, against brute force and torchvision."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict

import pytest
import torch
from conftest import random_boxes, random_priors
from oracles import torchvision_ssd

from ssd_cuda import MatchConfig, MultiBoxConfig
from ssd_cuda.reference.boxes import box_iou, to_xyxy
from ssd_cuda.reference.matching import BACKGROUND, IGNORED, is_valid, match
from ssd_cuda.reference.mining import select_hard_negatives, threshold_per_row, top_k_per_row

NAN, INF = math.nan, math.inf


def offsets_of(counts, device="cpu"):
    return torch.tensor([0, *counts], device=device).cumsum(0).int()


def grid_boxes(n, cells=6):
    """Boxes with corners on a coarse grid: many equal IoUs."""
    low = torch.randint(0, cells, (n, 2))
    return torch.cat([low, low + torch.randint(1, 4, (n, 2))], 1).float()


# ---------------------------------------------------------------- matching


def rank(value):
    """NaN above every number."""
    return INF if math.isnan(value) else value


def match_one_by_loops(boxes, priors, o: MatchConfig):
    """The rule of reference.matching, one comparison at a time. priors: corners."""
    iou = box_iou(boxes, priors, o.iou_eps).tolist()
    threshold, ceiling = (torch.tensor(x or 0.0).item() for x in (o.iou_threshold, o.candidate_max_iou))
    valid = is_valid(boxes).tolist() if o.degenerate == "ignore" else [True] * len(boxes)
    truths = [g for g in range(len(boxes)) if valid[g]]
    if o.degenerate == "ignore":
        iou = [[-1.0 if math.isnan(v) else v for v in row] for row in iou]
    better = (lambda new, old: new >= old) if o.tie == "last" else (lambda new, old: new > old)

    def argmax(items, key):
        best = None
        for item in items:
            if best is None or better(rank(key(item)), rank(key(best))):
                best = item
        return best

    codes = []
    for p in range(len(priors)):
        g = argmax(truths, lambda g, p=p: iou[g][p])
        value = iou[g][p] if g is not None else -1.0
        reached = not value < threshold if o.inclusive else value > threshold
        crowded = o.candidate_max_iou is not None and not value < ceiling
        codes.append(g if g is not None and reached else IGNORED if crowded else BACKGROUND)
    if o.forced == "argmax":
        for g in truths:
            p = argmax(range(len(priors)), lambda p, g=g: iou[g][p])
            if not o.forced_min_iou or iou[g][p] >= o.forced_min_iou:
                codes[p] = g
    if o.forced == "bipartite":
        pairs = [(p, g) for p in range(len(priors)) for g in truths if iou[g][p] > o.forced_min_iou]
        while pairs:
            p, g = argmax(pairs, lambda pair: iou[pair[1]][pair[0]])
            codes[p] = g
            pairs = [pair for pair in pairs if pair[0] != p and pair[1] != g]
    return codes


OPTIONS = [
    {},
    {"inclusive": False},
    {"iou_eps": 1e-5, "iou_threshold": 0.45},
    {"forced": "none"},
    {"forced_min_iou": 0.2, "iou_threshold": 0.35},
    {"forced": "bipartite", "forced_min_iou": 1e-6, "candidate_max_iou": 0.4},
    {"forced": "bipartite", "tie": "last", "inclusive": False},
    {"tie": "last"},
    {"tie": "last", "degenerate": "keep"},
    {"candidate_max_iou": 0.3, "degenerate": "keep"},
    {"forced": "bipartite", "degenerate": "keep", "inclusive": False},
    {"iou_threshold": 0.0},
    {"iou_threshold": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["random", "ties", "degenerate"])
def test_match_is_the_rule(device, options, kind):
    config = MatchConfig(prior_format="xyxy", **options)
    counts = [4, 0, 1, 9, 30]
    for _ in range(4):
        boxes = grid_boxes(sum(counts)) if kind == "ties" else random_boxes(sum(counts))
        priors = grid_boxes(60) if kind == "ties" else random_boxes(60)
        if kind == "degenerate":
            boxes[0, 2:] = boxes[0, :2]
            boxes[5, 0] = boxes[5, 2] + 0.1
            boxes[8] = NAN
            boxes[10, 3] = INF
            priors[9, 1] = NAN
            priors[7, 2:] = priors[7, :2]
        offsets = offsets_of(counts)
        codes = match(boxes.to(device), offsets.to(device), priors.to(device), **asdict(config))
        assert codes.dtype == torch.int32 and codes.shape == (5, 60) and codes.device.type == device.type
        for b, truth in enumerate(boxes.split(counts)):
            assert codes[b].tolist() == match_one_by_loops(truth, priors, config)


@pytest.mark.parametrize("kind", ["random", "ties", "nan"])
def test_match_is_torchvisions(kind):
    pytest.importorskip("torchvision")
    model = torchvision_ssd.bare_ssd()
    counts = [3, 0, 1, 17]
    boxes = grid_boxes(21) * 30 if kind == "ties" else random_boxes(21, size=300)
    priors = grid_boxes(400) * 30 if kind == "ties" else random_boxes(400, size=300)
    if kind == "nan":
        boxes[5, 1] = NAN
    expected = torch.stack(torchvision_ssd.match(model, list(boxes.split(counts)), priors))
    config = MultiBoxConfig.preset("torchvision").match
    assert torch.equal(match(boxes, offsets_of(counts), priors, **asdict(config)).long(), expected)
    if kind == "nan":
        assert (expected[3] >= 0).all()  # a NaN ground truth matches every prior there


def test_match_by_hand(device):
    """Three unit priors in a row; 0.5 exactly reaches the threshold; the last truth owns a shared prior."""
    priors = torch.tensor([[0.0, 0, 1, 1], [2, 0, 3, 1], [4, 0, 5, 1]], device=device)
    boxes = torch.tensor([[0.0, 0, 1, 0.5], [2, 0, 3, 1], [2, 0, 3, 0.9], [9, 9, 10, 10]], device=device)

    def codes(rows, **options):
        truth = boxes[rows]
        offsets = offsets_of([len(rows)], device)
        return match(truth, offsets, priors, prior_format="xyxy", **options)[0].tolist()

    assert codes([0], forced="none") == [0, -1, -1]
    assert codes([0], forced="none", inclusive=False) == [-1, -1, -1]
    assert codes([0], forced="none", candidate_max_iou=0.5, inclusive=False) == [IGNORED, -1, -1]
    assert codes([1, 2]) == [-1, 1, -1]  # truth 0 fits better and is lost
    assert codes([1, 2], forced="none") == [-1, 0, -1]
    assert codes([1, 2], forced="bipartite") == [-1, 0, -1]  # truth 1 overlaps no other prior
    assert codes([3]) == [0, -1, -1]  # no overlap anywhere: prior 0
    assert codes([3], tie="last") == [-1, -1, 0]
    assert codes([3], forced_min_iou=1e-6) == [-1, -1, -1]
    assert codes([3], forced="bipartite") == [-1, -1, -1]


def test_bipartite_gives_the_second_choice(device):
    """Both truths prefer prior 1; the one with the larger IoU has it, the other takes what is left."""
    priors = torch.tensor([[0.0, 0, 1, 1], [0.5, 0, 1.5, 1]], device=device)
    boxes = torch.tensor([[0.4, 0, 1.4, 1], [0.5, 0, 1.5, 1]], device=device)
    found = match(boxes, offsets_of([2], device), priors, prior_format="xyxy", forced="bipartite")
    assert found.tolist() == [[0, 1]]


@pytest.mark.parametrize("bad", [[1, 1, 1, 2], [2, 1, 1, 2], [NAN, 0, 1, 1], [0, 0, INF, 1], [0, 0, 1, -INF]])
@pytest.mark.parametrize("forced", ["argmax", "bipartite", "none"])
def test_an_ignored_truth_matches_nothing(device, bad, forced):
    priors = to_xyxy(random_priors(50)).to(device)
    boxes = torch.cat([torch.tensor([bad]).float(), random_boxes(2)]).to(device)
    offsets = offsets_of([3], device)
    with_bad = match(boxes, offsets, priors, prior_format="xyxy", forced=forced)
    without = match(boxes[1:], offsets_of([2], device), priors, prior_format="xyxy", forced=forced)
    assert torch.equal(with_bad, torch.where(without >= 0, without + 1, without))


def test_match_of_priors_per_image(device):
    priors = random_priors(40).to(device).reshape(2, 20, 4)
    boxes, offsets = random_boxes(7).to(device), offsets_of([3, 4], device)
    codes = match(boxes, offsets, priors)
    assert torch.equal(codes[0], match(boxes[:3], offsets_of([3], device), priors[0])[0])
    assert torch.equal(codes[1], match(boxes[3:], offsets_of([4], device), priors[1])[0])


@pytest.mark.parametrize("forced", ["argmax", "bipartite", "none"])
def test_match_of_nothing(device, forced):
    none = torch.zeros(0, 4, device=device)
    assert match(none, offsets_of([], device), random_priors(5).to(device), forced=forced).shape == (0, 5)
    assert match(none, offsets_of([0, 0], device), none, forced=forced).shape == (2, 0)
    truth = random_boxes(3).to(device)
    assert match(truth, offsets_of([3], device), none, forced=forced).shape == (1, 0)
    assert (match(none, offsets_of([0], device), random_priors(5).to(device)) == BACKGROUND).all()


# ---------------------------------------------------------------- mining


def ordered(row):
    """Indices of a list by (key descending, index ascending), NaN first."""

    def before(i, j):
        a, b = row[i], row[j]
        if math.isnan(a) or math.isnan(b):
            return int(math.isnan(b)) - int(math.isnan(a)) or i - j
        return (a < b) - (a > b) or i - j

    return sorted(range(len(row)), key=functools.cmp_to_key(before))


def awkward_keys(rows, width):
    keys = torch.randint(-2, 4, (rows, width)).float()
    special = torch.tensor([NAN, INF, -INF, -0.0, 0.0, 1e-45, -1e-45, 3.0])
    return torch.where(torch.rand(rows, width) < 0.3, special[torch.randint(0, 8, (rows, width))], keys)


@pytest.mark.parametrize("width", [0, 1, 2, 33, 200])
def test_top_k_is_the_documented_order(device, width):
    keys = awkward_keys(12, width)
    k = torch.tensor([-3, 0, 1, 2, 3, 5, width // 2, width - 1, width, width + 1, 10**6, 7])
    mask = top_k_per_row(keys.to(device), k.to(device)).cpu()
    threshold, tie_index, count, total = (x.cpu() for x in threshold_per_row(keys.to(device), k.to(device)))
    for b in range(12):
        chosen = ordered(keys[b].tolist())[: max(int(k[b]), 0)]
        assert mask[b].nonzero()[:, 0].tolist() == sorted(chosen)
        assert count[b] == len(chosen)
        if chosen:
            assert tie_index[b] == chosen[-1]
            torch.testing.assert_close(threshold[b], keys[b, chosen[-1]], equal_nan=True)
            torch.testing.assert_close(total[b], keys[b][mask[b]].sum(), equal_nan=True)
        else:
            assert (threshold[b], tie_index[b], total[b]) == (INF, -1, 0)


def test_threshold_selects_what_top_k_selects(device):
    keys = torch.randint(0, 5, (50, 70)).float().to(device)
    k = torch.randint(1, 75, (50,), device=device)
    threshold, tie_index, _, _ = threshold_per_row(keys, k)
    index = torch.arange(70, device=device)
    tied = (keys == threshold[:, None]) & (index <= tie_index[:, None])
    assert torch.equal((keys > threshold[:, None]) | tied, top_k_per_row(keys, k))


def test_number_of_negatives(device):
    """3 positives of 10; a ratio of 1.5 asks for 4.5."""
    keys = torch.arange(10.0, device=device)[None]
    positive = (keys >= 7).to(device)

    def selected(**options):
        return select_hard_negatives(keys, positive, **options)[0].nonzero()[:, 0].tolist()

    assert selected(ratio=1.5, rounding="floor") == [3, 4, 5, 6]
    assert selected(ratio=1.5, rounding="ceil") == [2, 3, 4, 5, 6]
    assert selected(ratio=0.0) == []
    assert selected(ratio=0.0, min_negatives=2) == [5, 6]
    assert selected(ratio=INF) == list(range(7))
    assert not select_hard_negatives(keys, positive & False, ratio=INF).any()
    assert selected(ratio=3.0) == list(range(7))  # 9 wanted, 7 there
    assert selected(ratio=3.0, cap="all") == list(range(9))  # two of the positives at -inf, lowest first
    assert selected(ratio=9.0, cap="all") == list(range(10))
    assert selected(ratio=9.0, cap="all_but_one") == list(range(9))
    assert selected(ratio=2.0, cap="all", positive_fill="zero") == [1, 2, 3, 4, 5, 6]
    assert selected(ratio=3.0, cap="all", positive_fill="zero") == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    candidates = (keys < 3) | positive
    assert selected(candidates=candidates, ratio=1.0) == [0, 1, 2]
    assert selected(candidates=candidates, ratio=3.0, cap="all") == [0, 1, 2, 7, 8, 9]


def test_the_product_with_the_ratio_is_float32():
    """2.2 * 25 is 55 in float32 and 55.00000000000001 in float64; 1.2 * 25 is above 30 in float32 only."""
    positive = (torch.arange(200) < 25)[None]
    keys = torch.rand(1, 200)
    assert select_hard_negatives(keys, positive, ratio=2.2, rounding="ceil").sum() == 55
    assert select_hard_negatives(keys, positive, ratio=1.2, rounding="ceil").sum() == 31


def test_excluded_rows_stay_out_even_behind_minus_infinity():
    keys = torch.tensor([[-INF, 5.0, -INF, 1.0]])
    candidates = torch.tensor([[True, False, True, True]])
    chosen = select_hard_negatives(
        keys, torch.zeros_like(candidates), candidates=candidates, min_negatives=4, cap="all"
    )
    assert torch.equal(chosen, candidates)
