"""Panels of the emulated nms kernels: the first one, and the boxes that are left to be resolved."""

from __future__ import annotations

import math

import pytest
import torch
from emulator.harness import kernels
from nms_cases import AT_ONCE, LEFT, MANY, SMALL, SOME, chain, same, scene, tuning


@pytest.fixture(scope="module")
def emulated():
    return kernels("nms")


def test_panels_cover_the_ranks():
    """Each is so many times the last, up to the most; together every rank once; few boxes are one."""

    def panels(n, **changes):
        return kernels("nms").module.panels(n, tuning(**changes))

    small = {"first_panel": 64, "growth": 2}
    assert panels(0, **small) == [] and panels(128, **small) == [(0, 128)]
    assert panels(700, **small) == [(0, 64), (64, 192), (192, 448), (448, 700)]
    sizes = [end - begin for begin, end in panels(200_000)]
    assert sizes == [1024, 9216, *[32768] * 5, 200_000 - 10_240 - 5 * 32768]


@pytest.mark.parametrize("n", [150, 1024, 1120])
def test_first_panel(emulated, n):
    """One panel of one pass, whole or not, and of two: pairs within a word, a pass and across passes."""
    one_panel = {"first_panel": 1024}
    assert len(kernels("nms").module.panels(n, tuning(**one_panel))) == 1
    emulated = emulated.with_seeds(0, 2)
    boxes, ranks = scene(n, extent=400.0), -torch.arange(n).float()
    last = boxes[-1].clone()
    for remover in (0, 31, 32, n * 9 // 10, n - 2):  # of the last box, and of nothing else
        apart = torch.arange(n).float()[:, None] * 9 + torch.tensor([0.0, 0.0, 5.0, 5.0])
        apart[-1], apart[remover] = last, last
        assert same(emulated.with_seeds(0), apart, ranks, 0.5, panels=one_panel) == n - 1
    same(emulated, boxes, torch.rand(n), 0.3, torch.randint(0, 3, (n,)), panels=one_panel)
    for scores in (ranks, -ranks, torch.rand(n)):
        same(emulated.with_seeds(0), chain(n), scores, 0.3, panels=one_panel)
    crowd = scene(1).repeat(n, 1)
    crowd[n // 2 :] += 1000
    assert same(emulated.with_seeds(0), crowd, ranks, 0.5, panels=one_panel) == 2


def test_largest_first_panel(emulated):
    n = 2048
    assert kernels("nms").module.panels(n, tuning()) == [(0, n)]
    same(emulated.with_seeds(2), chain(n), torch.rand(n), 0.3)


def test_first_panel_of_inert_boxes(emulated):
    """Boxes that neither remove nor can be removed, among others."""
    boxes, scores = scene(1100, extent=200.0), torch.rand(1100)
    boxes[::3] = math.nan
    same(emulated.with_seeds(0, 2), boxes, scores, 0.4)


@pytest.mark.parametrize(
    "panels", [SMALL, AT_ONCE, LEFT, MANY, SOME], ids=["three looks", "many", "none", "full card", "half"]
)
@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 0.9])
def test_several_panels(emulated, threshold, panels):
    boxes, scores = scene(500), torch.rand(500)
    emulated = emulated.with_seeds(0, 2)
    same(emulated, boxes, scores, threshold, panels=panels)
    same(emulated, boxes, scores, threshold, torch.randint(0, 3, (500,)), panels=panels)


@pytest.mark.parametrize("n", [193, 400])
def test_one_remover_in_the_first_panel(emulated, n):
    """Of a box of the second panel, or of the third: any place of the first panel, one of its class only, and
    by the offset of pixels alone."""
    emulated, ranks = emulated.with_seeds(0, 2), -torch.arange(n).float()
    for remover in (0, 31, 32, 63):
        for removed in (64, n - 1):
            apart = torch.arange(n).float()[:, None] * 9 + torch.tensor([0.0, 0.0, 5.0, 5.0])
            apart[removed] = apart[remover]
            assert same(emulated, apart, ranks, 0.5, panels=SMALL) == n - 1
            classes = (torch.arange(n) == removed).long()
            assert same(emulated, apart, ranks, 0.5, classes, panels=SMALL) == n
            apart[removed] = apart[remover] + torch.tensor([5.5, 0.0, 5.5, 0.0])
            apart[:, 1::2] *= 1000  # no others touch
            apart[removed, 1::2] = apart[remover, 1::2]
            assert same(emulated, apart, ranks, 0.01, panels=SMALL, pixel_offset=1.0) == n - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_normal_area_of_a_subnormal_width(emulated, dtype):
    """Centres and spans of such boxes lose half of the least number each."""
    n, unit, tall = (193, 2.0**-149, 1e14) if dtype == torch.float32 else (193, 2.0**-1074, 1e300)
    boxes = (torch.arange(n).double()[:, None] * 9 + torch.tensor([0.0, 0.0, 5.0, 5.0])).to(dtype)
    boxes[0] = torch.tensor([0.0, 0.0, unit, tall], dtype=dtype)
    boxes[64] = torch.tensor([0.0, 0.0, 2 * unit, tall], dtype=dtype)  # their IoU is 1/2
    assert same(emulated.with_seeds(0, 2), boxes, -torch.arange(n).to(dtype), 0.45, panels=SMALL) == n - 1


@pytest.mark.slow
def test_panels_as_shipped(emulated):
    boxes, scores = scene(4097, extent=600.0), torch.rand(4097)
    assert same(emulated.with_seeds(0, 2), boxes, scores, 0.5) > 1000


@pytest.mark.parametrize("order", ["along", "back", "mixed"])
def test_chains(emulated, order):
    """Each box removes the next one only (IoU 1/3): every second stays; along the chain, back, shuffled."""
    n = 600
    x, boxes = torch.arange(n).float(), chain(n)
    scores = {"along": -x, "back": x, "mixed": torch.rand(n)}[order]
    for panels in (SMALL, MANY, {"attempts": 2}):
        count = same(emulated.with_seeds(0, 2), boxes, scores, 0.3, panels=panels)
        assert order == "mixed" or count == n / 2


def test_more_suppressors_than_a_list_holds(emulated):
    """Stripes that overlap 40 others each, in every order: lists are cut and searched again."""
    n = 300
    x = torch.arange(n).float()
    boxes = torch.stack([x, torch.zeros(n), x + 80, torch.ones(n)], 1)
    for scores in (-x, x, torch.rand(n)):
        for threshold in (1 / 3, 0.98):
            for panels in ({"attempts": 1}, SMALL, LEFT, MANY):
                same(emulated.with_seeds(0, 2), boxes, scores, threshold, panels=panels)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_boxes_that_wait_for_their_own_word(emulated, elsewhere):
    """The last box of a copy has more suppressors than a list holds. All but one go early: that one is of its
    word, stays open for long and is kept. elsewhere: one of another word stays open as long, and goes."""
    copies, links = 2, 60

    def at(x, y=0.0):
        return torch.tensor([x, y, x + 80, y + 10])

    crowd = [at(60.0 - 20 * j) for j in range(4, -1, -1)] + [at(80 + 0.01 * k) for k in range(40)]
    slow = [at(100.0, 4.0 + 4 * j) for j in range(links, -1, -1)]
    other = [at(140.0 + 20 * j) for j in range(links, -1, -1)] + [at(120.0)] if elsewhere else []
    apart = [at(5000.0 + 200 * k) for k in range(21)]
    boxes = torch.stack([*crowd, *slow[:-1], *other, *apart, slow[-1], at(100.0)])
    boxes = (boxes[:, None] + 1000 * torch.arange(copies)[:, None] * torch.tensor([0.0, 1, 0, 1])).flatten(
        0, 1
    )
    before = torch.tensor([[-9e3, -9e3, -8e3, -8e3], [-7e3, -9e3, -6e3, -8e3]])  # the first panel
    boxes = torch.cat([before, boxes])
    scores = -torch.arange(len(boxes)).float()
    panels = {"first_panel": 2, "growth": 4096, "attempts": 0}
    same(emulated.with_seeds(0, 2, 3), boxes, scores, 0.4, panels=panels)
