"""The nms kernels' device code on the CPU against the reference: panels, classes, rules, schedules."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from nms_cases import MANY, SMALL, run, same, scene, suppression, tuning

from ssd_cuda import reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def emulated():
    return kernels("nms")


def test_merges_reach_one_tile():
    """Passes times the size of a group are enough, and no group is larger than is allowed."""
    for n in (1, 512, 513, 10_000, 16_384, 16_385, 100_000, 10**6, 10**8, 2**31 - 2):
        fan, passes = kernels("nms").module.merges(n, tuning())
        tiles = -(-n // 512)
        assert fan**passes >= tiles and (fan <= 32 or passes == 1)
        assert passes == 1 or fan == 2 or (fan - 1) ** passes < tiles


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"iou_eps": 1e-5}, {"pixel_offset": 1.0}], ids=str)
def test_the_rule_is_the_division(emulated, dtype, options):
    """IoUs a few units in the last place from the threshold, far from it, of tiny and huge boxes."""
    n = 4_000
    eps, pixel_offset = options.get("iou_eps", 0.0), options.get("pixel_offset", 0.0)

    def pairwise(a, b):
        return reference.boxes.box_iou(a, b, eps, pixel_offset).diagonal()

    for threshold in (1e-7, 0.3, 0.5, 0.7000001, 1.0):
        nearly = threshold * (
            1 + (torch.rand(n, dtype=torch.float64) - 0.5) * 2.0 ** -torch.randint(1, 26, (n,))
        )
        size = torch.rand(n, 2, dtype=torch.float64) * 2.0 ** torch.randint(-70, 60, (n, 1))
        a = torch.cat([torch.zeros(n, 2), size], 1)
        b = torch.cat([torch.zeros(n, 2), size * torch.stack([nearly, torch.ones(n)], 1)], 1)
        a, b = a.to(dtype), b.to(dtype)
        iou = torch.stack([pairwise(a[i : i + 500], b[i : i + 500]) for i in range(0, n, 500)])
        for inclusive in (False, True):
            expected = iou.double() >= threshold if inclusive else iou.double() > threshold
            settings = suppression(threshold, inclusive, eps, pixel_offset)
            got, sure, near = emulated.with_seeds(0).removes(a, b, settings)
            assert torch.equal(got.bool(), expected.flatten())
            assert 0 < got.sum() < n or threshold == 1.0
            assert bool((near >= got).all())
            known = sure < 2  # without the division
            assert torch.equal(sure[known], got[known])
            assert threshold < 2**-20 or (bool(known.any()) and not bool(known.all()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pixel_offset", [0.0, 1.0])
def test_boxes_far_from_the_origin_are_near(emulated, dtype, pixel_offset):
    """Where a centre between two whole numbers is rounded to one of them."""
    far = 2.0 ** (23 if dtype == torch.float32 else 52)
    x = far + torch.randint(0, 16, (50_000, 2, 2)).to(dtype)
    size = torch.randint(1, 40, (50_000, 1, 2)).to(dtype)
    a, b = torch.cat([x, x + size], 2).unbind(1)
    for threshold in (0.1, 0.3, 0.5, 0.7):
        settings = suppression(threshold, False, 0.0, pixel_offset)
        got, _, near = emulated.with_seeds(0).removes(a, b, settings)
        assert bool((near >= got).all()) and got.sum() > 1000
        assert not bool(near.all()) or pixel_offset > 0  # such boxes are odd


@pytest.mark.parametrize("options", [{}, {"iou_eps": 1e-5}, {"pixel_offset": 1.0}], ids=str)
def test_the_test_without_a_branch_is_the_rule(emulated, options):
    """Boxes that are empty, inverted, huge, not finite: right where it is sure; of boxes apart it is sure."""
    eps, pixel_offset = options.get("iou_eps", 0.0), options.get("pixel_offset", 0.0)
    values = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0, 1e-30, 1e-42, 1e19, 3e38, -3e38, math.inf, math.nan])
    a, b = values[torch.randint(0, len(values), (2, 20_000, 4))]
    for threshold, inclusive in itertools.product((0.0, 1e-7, 0.5, 1.0), (False, True)):
        settings = suppression(threshold, inclusive, eps, pixel_offset)
        got, sure, near = emulated.with_seeds(0).removes(a, b, settings)
        assert bool((near >= got).all())  # boxes whose centres are not near do not remove each other
        assert torch.equal(sure[sure < 2], got[sure < 2]) and len(sure.unique()) > 1
        for x, y in ((5.0, 5.0), (5.0, 0.0), (0.0, 5.0)):
            apart = torch.tensor([[0.0, 0.0, 1.0, 1.0], [x, y, x + 2, y + 2]])
            _, sure, near = emulated.with_seeds(0).removes(apart, apart.flip(0), settings)
            none = (sure == 0).all() and (near == 0).all()
            assert none or (threshold == 0 and inclusive)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 31, 32, 33, 257])
def test_is_the_reference(emulated, n, dtype):
    emulated = emulated if n < 100 else emulated.with_seeds(1)
    boxes, scores = scene(n, extent=80.0).to(dtype), torch.rand(n).to(dtype)
    for threshold in (0.0, 0.3, 1.0) if n < 100 else (0.3,):
        same(emulated, boxes, scores, threshold)
        same(emulated, boxes, scores, threshold, torch.randint(0, 3, (n,)), inclusive=True)


def test_nothing(emulated):
    keep, count = run(emulated, torch.zeros(0, 4), torch.zeros(0), 0.5, rows=3)
    assert keep.tolist() == [-1, -1, -1] and count == 0


def crowded(n):
    return scene(10, extent=100.0).repeat(n // 10, 1) + torch.rand(n, 4)


ADVERSARIAL = {
    "all boxes equal": lambda n: torch.tensor([[1.0, 2.0, 30.0, 40.0]]).repeat(n, 1),
    "one giant box over all": lambda n: torch.cat([torch.tensor([[-1e6, -1e6, 1e6, 1e6]]), scene(n - 1)]),
    "boxes in one cell": lambda n: scene(n, size=0.1, extent=0.5) + 1000,
    "crowds": crowded,
    "levels far apart": lambda n: scene(n, extent=50.0) * 2.0 ** torch.randint(-9, 9, (n, 1)),
    "far from the origin": lambda n: scene(n) - 3e6,
    "inverted and empty": lambda n: torch.cat([scene(n // 2), scene(n - n // 2)[:, [2, 3, 0, 1]]]),
    "at the end of the range": lambda n: scene(n) * 10.0 ** torch.randint(-24, 19, (n, 1)),
}


@pytest.mark.parametrize("panels", [SMALL, MANY], ids=["few", "many"])
@pytest.mark.parametrize("boxes", ADVERSARIAL.values(), ids=list(ADVERSARIAL))
def test_adversarial_scenes(emulated, boxes, panels):
    boxes, scores = boxes(260), (torch.rand(260) * 200).round()
    for threshold in (1e-6, 0.5, 0.95):
        same(emulated.with_seeds(0, 2), boxes, scores, threshold, panels=panels)


def test_boxes_out_of_range_remove_those_in_it(emulated):
    """Areas on both sides of what the grid takes, in a later panel: the box in range has no other remover."""
    others = scene(200)
    large = torch.finfo(torch.float32).max / 16
    small = torch.finfo(torch.float32).tiny * 2**20
    pairs = []
    for y in range(8):
        for area in (1.02, 0.98):
            pairs.append([0.0, 4.0 * y, large * area, 4.0 * y + 1])
    side = small**0.5
    pairs += [[0.0, 0.0, side * 0.98, side * 0.98], [0.0, 0.0, side * 1.04, side * 1.04]]
    boxes, scores = torch.cat([others, torch.tensor(pairs)]), torch.arange(218.0, 0.0, -1.0)
    kept = same(emulated.with_seeds(0, 2), boxes, scores, 0.5, panels=SMALL)
    assert kept == 9 + len(reference.nms.nms(others, scores[:200], 0.5))


def test_the_first_cell_of_every_row_is_searched(emulated):
    """Flat boxes, each with its only remover at the left end of its last row of cells: the row of a cell is a
    product with a rounded 1 / width, which for 41, 47, 55 and 61 cells is a little too small."""
    widths = torch.arange(36.0, 126.0, 0.6)
    n = len(widths)
    y = 50.0 * torch.arange(n)
    flat = torch.stack([0 * y, y, widths, y + 0.5], 1)
    removers = torch.stack([0 * y - 1.3, y, 0 * y + 0.1, y + 0.5], 1)
    boxes = torch.cat([scene(2000) + 2e4, removers, flat])
    scores = torch.arange(len(boxes) * 1.0, 0.0, -1.0)
    panels = {**SMALL, "growth": 64}
    keep, count = run(emulated.with_seeds(0, 2), boxes, scores, 1e-4, panels=panels)
    assert torch.equal(keep[:count], reference.nms.nms(boxes, scores, 1e-4))
    assert keep[:count].max() == 2000 + n - 1  # every flat box is removed


def test_classes_of_one_box_each(emulated):
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(200, 1)
    idxs = torch.randperm(200) * (2**40) - 2**45
    assert same(emulated.with_seeds(0, 2), boxes, torch.rand(200), 0.0, idxs, panels=SMALL) == 200


def test_many_classes(emulated):
    n = 500
    idxs = torch.where(torch.arange(n) % 5 == 0, torch.arange(n) % 97, 1000)
    same(emulated.with_seeds(0, 2), scene(n, extent=100.0), torch.rand(n), 0.3, idxs, panels=SMALL)


def test_every_pair_counts(emulated):
    """IoU >= 0 removes boxes that do not overlap; a NaN (two empty boxes) removes nothing."""
    boxes, scores = scene(300), torch.rand(300)
    boxes[::3, 2:] = boxes[::3, :2]
    boxes[1::9, 0] += 100  # a negative area
    idxs = torch.randint(0, 4, (300,))
    same(emulated.with_seeds(0, 2), boxes, scores, 0.0, idxs, inclusive=True, panels=SMALL)


@pytest.mark.parametrize("options", [{"iou_eps": 1e-5}, {"pixel_offset": 1.0}, {"inclusive": True}])
def test_options(emulated, options):
    corner, size = torch.randint(0, 9, (200, 2)).float(), torch.randint(0, 5, (200, 2)).float()
    boxes = torch.cat([corner, corner + size], 1)  # IoUs on the threshold, empty boxes
    for threshold in (0.0, 0.25, 1 / 3, 0.5):
        same(emulated, boxes, (torch.rand(200) * 8).round(), threshold, panels=SMALL, **options)


def test_bad_boxes_and_scores(emulated):
    inf, nan = math.inf, math.nan
    boxes = torch.tensor(
        [[nan, 0, 1, 1], [0, 0, inf, 1], [1, 1, 1, 1], [2, 2, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    )
    scores = torch.tensor([0.5, nan, -0.0, 0.0, -inf, inf])
    for threshold in (0.0, 0.5):
        same(emulated, boxes.repeat(24, 1), scores.repeat(24), threshold, panels=SMALL)


VALUES = [0.5, math.nan, -math.inf, math.inf, 0.0, -0.0, -1.5, 1.0, 2.0**-20, -(2.0**-20)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_is_that_of_torch(emulated, dtype):
    """Boxes that do not meet are all kept, so what comes back is the order: of special values, of ties."""
    n = 70
    x = torch.arange(n).to(dtype) * 2
    boxes = torch.stack([x, x * 0, x + 1, x * 0 + 1], 1)
    scores = torch.tensor(VALUES * 7, dtype=dtype)
    assert same(emulated.with_seeds(0), boxes, scores, 0.5) == n


@pytest.mark.parametrize(
    ("n", "merge"),
    [(512, (32, 32)), (513, (32, 32)), (2100, (32, 32)), (1700, (1, 2)), (2561, (2, 3))],
)
def test_merges(emulated, n, merge):
    """One tile, several in one pass, several passes, a last tile of one box; ties by index."""
    boxes = torch.arange(n).float()[:, None] * 2 + torch.tensor([0.0, 0.0, 1.0, 1.0])
    panels = {"merge_once": merge[0], "merge_most": merge[1], "first_panel": 4096}
    for scores in ((torch.rand(n) * 500).round(), torch.zeros(n)):
        assert same(emulated.with_seeds(2), boxes, scores, 0.5, panels=panels) == n


@pytest.mark.parametrize(("box", "score"), [(torch.float32, torch.float64), (torch.float16, torch.float32)])
def test_scores_of_another_dtype(emulated, box, score):
    boxes, scores = scene(300).to(box), torch.rand(300, dtype=score)
    assert len(scores.unique()) > len(scores.to(box).unique()) - 1
    same(emulated.with_seeds(0, 2), boxes, scores, 0.5, panels=SMALL)


@pytest.mark.parametrize("n", [0, 1, 511, 1025, 8193, 150_000])
def test_compact(emulated, n):
    """One block or all, one step of a block or several, fewer or more rows than are kept."""
    states, order = torch.randint(1, 3, (n,), dtype=torch.uint8), torch.randperm(n).int()
    expected = order[states == 1].long()
    for rows in {0, 1, len(expected) // 2, len(expected), n + 3} if n < 10_000 else {n - 7}:
        keep, count = emulated.with_seeds(0, 3).compact(states, order, rows)
        kept = min(rows, len(expected))
        assert int(count) == kept and torch.equal(keep[:kept], expected[:kept])
        assert bool((keep[kept:] == -1).all())


@settings(deadline=None, max_examples=fuzz_examples())
@given(
    n=st.integers(0, 90),
    seed=st.integers(0, 2**31),
    threshold=st.sampled_from([0.0, 0.2, 0.25, 0.5, 1.0]),
    classes=st.integers(0, 3),
    inclusive=st.booleans(),
)
def test_fuzz(n, seed, threshold, classes, inclusive):
    torch.manual_seed(seed)
    corner, size = torch.randint(0, 12, (n, 2)).float(), torch.randint(0, 6, (n, 2)).float()
    boxes, scores = torch.cat([corner, corner + size], 1), (torch.rand(n) * 9).round()
    idxs = torch.randint(0, classes, (n,)) if classes else None
    panels = {"first_panel": 16 + seed % 40, "growth": 1 + seed % 3, "attempts": seed % 4}
    emulated = kernels("nms").with_seeds(*sorted({0, 2, seed % 5 + 1}))
    same(emulated, boxes, scores, threshold, idxs, inclusive=inclusive, panels=panels)
