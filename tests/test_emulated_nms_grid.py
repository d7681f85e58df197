"""Where nms looks for the boxes that may remove another: nowhere too little, of pairs made to be missed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from emulator.harness import kernels
from nms_cases import suppression

THRESHOLDS = (0.0, 1e-7, 0.01, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 0.99)
N = 8_000  # pairs of a call


@pytest.fixture(scope="module")
def emulated():
    return kernels("nms").with_seeds(0)


def uniform(low, high, *shape):
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64)


def least(dtype):
    """The exponent of the least subnormal number."""
    return -149 if dtype == torch.float32 else -1074


def boxes_of(x, y):
    """Pairs [2, N, 4] of ends [2, N, 2] along x and y; mirrored, turned and exchanged by chance."""
    x = torch.where(torch.rand(x.shape[1], 1) < 0.5, x, -x.flip(2))
    y = torch.where(torch.rand(y.shape[1], 1) < 0.5, y, -y.flip(2))
    first, second = torch.where((torch.rand(x.shape[1], 1) < 0.5), torch.stack([x, y]), torch.stack([y, x]))
    boxes = torch.stack([first[..., 0], second[..., 0], first[..., 1], second[..., 1]], 2)
    return torch.where(torch.rand(x.shape[1], 1) < 0.5, boxes, boxes.flip(0))


def apart(threshold, dtype):
    """Along x as far as the threshold allows, almost; of any size, shape and distance from the origin."""
    size = 2.0 ** uniform(-110, 110, N, 1)
    ratio = threshold + (1 - threshold) * torch.rand(N, 1, dtype=torch.float64)
    both = torch.stack([size, size * ratio])
    reach = both.sum(0) * (1 - threshold) / (2 * (1 + threshold))
    centre = size * 2.0 ** uniform(-4, 22, N, 1)
    centre = torch.stack([centre, centre + reach * (1 - 2.0 ** uniform(-30, -3, N, 1))])
    x = centre + both / 2 * torch.tensor([-1.0, 1.0])
    height = 2.0 ** uniform(-60, 60, N, 1) / size
    y = height * (uniform(-9, 9, N, 1) + torch.tensor([0.0, 1.0]))
    return boxes_of(x.to(dtype), y.to(dtype).expand(2, N, 2))


def nested(threshold, dtype):
    """One inside the other, of sizes as unlike as the threshold allows, the larger next to a power of two."""
    places = torch.finfo(dtype).eps / 2 * torch.randint(-3, 4, (N, 1)).double()
    large = 2.0 ** torch.randint(-40, 40, (N, 1)) * (1 + places)
    small = large * threshold * (1 + 2.0 ** uniform(-40, -3, N, 1))
    shift = (large - small) * torch.rand(N, 1)
    x = torch.stack([large * torch.tensor([0.0, 1.0]), shift + small * torch.tensor([0.0, 1.0])])
    y = large / 2 * torch.tensor([0.0, 1.0])
    return boxes_of(x.to(dtype), y.to(dtype).expand(2, N, 2))


def at_a_border(threshold, dtype):
    """One with its centre on a border of its cells, or next to it; the other as far from it as may be, to a
    few of the last places."""
    half = (torch.randint(1, 9, (N, 1)) * 2.0 ** torch.randint(-30, 30, (N, 1))).to(dtype)
    cell = 2.0 ** torch.floor(torch.log2(half.double()) + 2 - torch.randint(0, 3, (N, 1)))
    centre = (cell * torch.randint(-20, 20, (N, 1))).to(dtype)
    own = torch.cat([centre - half, centre + half], 1)
    next_to = own + half * torch.finfo(dtype).eps * torch.randint(-2, 3, (N, 1))
    own = torch.where(torch.rand(N, 1) < 0.5, own, next_to)
    size = half * uniform(0.6, 6, N, 1).to(dtype)
    end = own[:, :1] + (2 * half + size) * (threshold / (1 + threshold))
    for _ in range(3):
        up = torch.nextafter(end, torch.tensor(math.inf, dtype=dtype))
        end = torch.where(torch.rand(N, 1) < 0.7, up, end)
    y = half * torch.tensor([0.0, 1.0], dtype=dtype)
    return boxes_of(torch.stack([own, torch.cat([end - size, end], 1)]), y.expand(2, N, 2))


def at_the_origin(threshold, dtype):
    """The one lies about the origin and ends where the other begins, whose centre is a border of cells, but
    for roundings."""
    places = torch.finfo(dtype).eps * torch.randint(-2, 4, (2, N, 1)).to(dtype)
    border = (torch.randint(1, 5, (N, 1)) * 2.0 ** torch.randint(-30, 30, (N, 1))).to(dtype)
    begin = border * 2.0 ** uniform(-28, -1, N, 1).to(dtype)
    end = begin * (1 + places[0])
    own = torch.cat([begin, (2 * border - begin) * (1 + places[1] / 2)], 1)
    other = torch.cat([-end * uniform(0.5, 1.5, N, 1).to(dtype), end], 1)
    y = border * torch.tensor([0.0, 1.0], dtype=dtype)
    return boxes_of(torch.stack([own, other]), y.expand(2, N, 2))


def far(threshold, dtype):
    """Where a centre between two numbers is rounded to one of them, up to the largest numbers."""
    digits, most = (23, 125) if dtype == torch.float32 else (52, 1021)
    last = 2.0 ** torch.randint(-2, 3, (N, 1)).double()
    high = torch.rand(N, 1) < 0.2
    unit = torch.where(high, last * 2.0 ** (most - digits), last)
    low = 2.0**digits + torch.randint(0, 16, (2, N, 1)).double()
    x = torch.cat([low, low + torch.randint(1, 40, (2, N, 1))], 2) * unit
    y = torch.where(high, 1 / unit, 1.0) * torch.tensor([0.0, 1.0], dtype=torch.float64)
    return boxes_of(x.to(dtype), y.to(dtype).expand(2, N, 2))


def subnormal(threshold, dtype):
    """Areas in range, of a few of the least number along x."""
    x = torch.randint(-5, 2, (2, N, 1)).double()
    x = torch.cat([x, x + torch.randint(1, 7, (2, N, 1))], 2) * 2.0 ** least(dtype)
    tall = 2.0 ** (50 if dtype == torch.float32 else 120)
    return boxes_of(x.to(dtype), (tall * torch.tensor([0.0, 1.0])).to(dtype).expand(2, N, 2))


def whole(threshold, dtype):
    """Small whole numbers, also of empty boxes; some so large that they swallow an offset of pixels."""
    low, size = torch.randint(-4, 4, (2, N, 2, 1)), torch.randint(-1, 9, (2, N, 2, 1))
    scale = torch.where(torch.rand(N, 1, 1) < 0.3, 2.0 ** torch.randint(20, 36, (N, 1, 1)), 1.0)
    ends = torch.cat([low, low + size], 3) * scale
    return boxes_of(*ends.to(dtype).unbind(2))


def anywhere(threshold, dtype):
    """Some boxes twice, else two of any sizes and places: in cells of the one, the other is out of range."""
    most = 120 if dtype == torch.float32 else 1010
    size = 2.0 ** uniform(-most / 3, most / 3, 2, N, 2, 1)
    low = 2.0 ** uniform(-most, most, 2, N, 2, 1) * torch.where(torch.rand(2, N, 2, 1) < 0.5, 1.0, -1.0)
    low = torch.where(torch.rand(2, N, 2, 1) < 0.3, low, size * uniform(-9, 9, 2, N, 2, 1))
    high = torch.maximum(low + size, low + low.abs() * torch.finfo(dtype).eps)
    x, y = torch.cat([low, high], 3).to(dtype).unbind(2)
    same = (torch.rand(N, 1) < 0.3) | torch.zeros(2, 1, 1, dtype=torch.bool)
    return boxes_of(torch.where(same, x[0], x), torch.where(same, y[0], y))


PAIRS = [apart, nested, at_a_border, at_the_origin, far, subnormal, whole, anywhere]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("finer", [0, 1, 2])
@pytest.mark.parametrize("pixel_offset", [0.0, 1.0])
@pytest.mark.parametrize("pairs", PAIRS, ids=lambda f: f.__name__)
def test_a_search_looks_where_every_remover_is(emulated, pairs, pixel_offset, finer, dtype):
    removed = 0
    for threshold, inclusive in itertools.product(THRESHOLDS, (False, True)):
        if threshold == 0 and inclusive:
            continue  # every box is odd
        a, b = pairs(threshold, dtype)
        settings = suppression(threshold, inclusive, 0.0, pixel_offset)
        removes, found, too_few = emulated.finds(a, b, settings, finer)
        missed = removes > found
        assert not bool(missed.any()), (threshold, a[missed][0].tolist(), b[missed][0].tolist())
        assert not bool(too_few.any())
        removed += int(removes.sum())
    assert removed > N / 4 or pixel_offset > 0, removed
