"""nms: membership and order against the reference, torchvision and hand-worked cases."""

from __future__ import annotations

import math

import pytest
import torch
from emulator.harness import fuzz_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from simd_levels import at_every_level

from ssd_cuda import ops, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INF, NAN = math.inf, math.nan


def _scene(n: int, kind: str) -> torch.Tensor:
    """[n, 4] boxes in pixels."""
    if kind == "sparse":
        corner, size = torch.rand(n, 2) * 30 * n**0.5, 4 + 20 * torch.rand(n, 2)
    elif kind == "dense":
        corner, size = torch.rand(n, 2) * 300, 10 + 90 * torch.rand(n, 2)
    elif kind == "clustered":
        centres = torch.rand(max(n // 20, 1), 2) * 300
        corner = centres[torch.randint(len(centres), (n,))] + torch.randn(n, 2) * 3
        size = 30 + 10 * torch.rand(n, 2)
    elif kind == "sizes":  # from a thousandth of a pixel to the whole image, any aspect
        size = 1000 * 10 ** (-6 * torch.rand(n, 2))
        corner = torch.rand(n, 2) * (1000 - size) - 300
    elif kind == "duplicated":
        return _scene(max(n // 8, 1), "dense")[torch.randint(max(n // 8, 1), (n,))]
    elif kind == "grid":  # integer boxes: many IoUs are equal and lie on simple fractions
        corner, size = torch.randint(0, 12, (n, 2)).float(), torch.randint(0, 6, (n, 2)).float()
    else:
        raise AssertionError(kind)
    return torch.cat([corner, corner + size], 1)


SCENES = ["sparse", "dense", "clustered", "sizes", "duplicated", "grid"]


def _same(boxes, scores, threshold, idxs=None, **options):
    """Assert that every form of the op gives what the reference gives; returns the kept indices."""
    if idxs is None:
        expected = reference.nms.nms(boxes, scores, threshold, **options)
        result = ops.nms(boxes, scores, threshold, **options)
    else:
        expected = reference.nms.batched_nms(boxes, scores, idxs, threshold, **options)
        result = ops.batched_nms(boxes, scores, idxs, threshold, **options)
    assert result.dtype == torch.int64 and result.device == boxes.device
    assert torch.equal(result, expected)
    keep, count = ops.nms_padded(boxes, scores, threshold, idxs=idxs, **options)
    assert keep.shape == scores.shape and count.shape == () and count.dtype == torch.int64
    assert torch.equal(keep[:count], expected) and bool((keep[count:] == -1).all())
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 17, 200])
@pytest.mark.parametrize("kind", SCENES)
def test_is_the_reference(device, kind, n, dtype):
    boxes, scores = _scene(n, kind).to(device, dtype), torch.rand(n).to(device, dtype)
    _same(boxes, scores, 0.45)
    _same(boxes, scores, 0.45, torch.randint(-2, 3, (n,), device=device))


@pytest.mark.parametrize("threshold", [0.0, 0.003, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("kind", SCENES)
def test_every_threshold_through_the_grid(device, kind, threshold):
    n = 700  # 256 kept boxes start the grid
    boxes, scores = _scene(n, kind).to(device), torch.rand(n, device=device)
    _same(boxes, scores, threshold, torch.randint(0, 2, (n,), device=device))
    _same(boxes.double(), scores, threshold, inclusive=True)


@pytest.mark.parametrize(
    "options", [{"inclusive": True}, {"iou_eps": 1e-5}, {"iou_eps": 5.0}, {"pixel_offset": 1.0}]
)
@pytest.mark.parametrize("kind", ["dense", "sizes", "grid"])
def test_options(device, kind, options):
    n = 650
    boxes, scores = _scene(n, kind).to(device), torch.rand(n, device=device)
    for threshold in (0.0, 0.05, 0.5):
        _same(boxes, scores, threshold, **options)
    _same(boxes, scores, 0.4, torch.randint(0, 3, (n,), device=device), **options)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.6, 0.8, 1.0])
def test_iou_exactly_at_the_threshold(device, threshold):
    # The second box is the left `tenths` / 10 of the first: the IoU is that number rounded to fp32.
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, threshold * 10, 1]], device=device)
    scores = torch.tensor([1.0, 0.5], device=device)
    iou = reference.boxes.box_iou(boxes, boxes)[0, 1].double().item()
    for t in (threshold, iou, math.nextafter(iou, 0), min(math.nextafter(iou, 1), 1.0)):
        assert ops.nms(boxes, scores, t).tolist() == ([0] if iou > t else [0, 1])
        assert ops.nms(boxes, scores, t, inclusive=True).tolist() == ([0] if iou >= t else [0, 1])


def test_by_hand(device):
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1], [5, 5, 6, 6], [0, 0, 2, 2]], device=device)
    scores = torch.tensor([0.5, 0.9, 0.1, 0.5], device=device)
    assert ops.nms(boxes, scores, 0.4).tolist() == [1, 2]
    assert ops.nms(boxes, scores, 0.5).tolist() == [1, 0, 2]  # IoU .5 is not > .5; box 3 equals box 0
    assert ops.nms(boxes, scores, 0.5, inclusive=True).tolist() == [1, 2]
    assert ops.nms(boxes, scores, 1.0).tolist() == [1, 0, 3, 2]
    idxs = torch.tensor([0, 1, 1, 1], device=device)
    assert ops.batched_nms(boxes, scores, idxs, 0.4).tolist() == [1, 0, 2]
    keep, count = ops.nms_padded(boxes, scores, 0.5, max_output=2)
    assert keep.tolist() == [1, 0] and count.item() == 2
    keep, count = ops.nms_padded(boxes, scores, 0.4, max_output=5, idxs=idxs)
    assert keep.tolist() == [1, 0, 2, -1, -1] and count.item() == 3


@pytest.mark.parametrize("n", [40, 3000])
def test_chain_of_suppression(device, n):
    """Box k overlaps k+1 alone: every second box goes, and each only because its predecessor stayed."""
    x = torch.arange(n, dtype=torch.float32, device=device)
    boxes = torch.stack([x, torch.zeros_like(x), x + 2, torch.ones_like(x)], 1)  # neighbours: IoU 1/3
    scores = torch.arange(n, 0, -1, device=device).float()
    assert ops.nms(boxes, scores, 0.3).tolist() == list(range(0, n, 2))
    assert ops.nms(boxes, -scores, 0.3).tolist() == list(range(n - 1, -1, -2))
    assert ops.nms(boxes, scores, 0.34).tolist() == list(range(n))
    assert ops.batched_nms(boxes, scores, torch.arange(n, device=device) % 2, 0.3).tolist() == list(range(n))


def test_equal_scores_go_by_index(device):
    boxes = _scene(1000, "sparse").to(device)
    for scores in (torch.zeros(1000), torch.full((1000,), NAN)):
        keep = _same(boxes, scores.to(device), 0.99)
        assert torch.equal(keep, keep.sort().values)
    signed_zeros = torch.where(torch.arange(1000) % 3 == 0, -0.0, 0.0).to(device)
    assert ops.nms(boxes, signed_zeros, 1.0).tolist() == list(range(1000))
    _same(boxes, (torch.randint(0, 5, (1000,)) / 4).to(device), 0.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_every_kind(device, dtype):
    values = [0.5, NAN, -INF, INF, 0.0, -0.0, -1.5, NAN, 2.0**-14, -(2.0**-14), INF, 1.0]
    scores = torch.tensor(values * 60, dtype=dtype, device=device)  # 720: past the small sort
    boxes = _scene(len(scores), "sparse").to(device)
    expected = torch.sort(scores, descending=True, stable=True).indices
    assert torch.equal(ops.nms(boxes, scores, 1.0), expected)
    assert torch.equal(
        ops.nms(boxes[:12], scores[:12], 1.0), torch.sort(scores[:12], descending=True, stable=True)[1]
    )


ODD_BOXES = [
    [NAN, 0, 5, 5], [0, 0, 5, NAN], [0, 0, INF, 5], [-INF, -INF, INF, INF], [0, 0, INF, 0], [1, 1, 1, 1],
    [1, 1, 1, 4], [4, 4, 1, 1], [4, 1, 1, 4], [0, 0, 5, 5], [0, 0, 5, 5], [1e-25, 0, 3e-25, 1e-20],
    [0, 0, 2e-25, 1e-20], [0, 0, 1e-30, 1e30], [0, 0, 3e38, 3e38], [-3e38, -3e38, 3e38, 3e38],
    [0, 0, 1e19, 1e19], [0, 0, 1.1e19, 1e19], [1e18, 1e18, 1.0000002e18, 1.0000002e18],
    [0, 0, 1e-45, 1e-45], [1e30, 0, 1.1e30, 1e-30],
]  # fmt: skip


@pytest.mark.parametrize("around", [0, 600])
@pytest.mark.parametrize("options", [{}, {"inclusive": True}, {"pixel_offset": 1.0}, {"iou_eps": 1e-5}])
def test_degenerate_and_extreme_boxes(device, options, around):
    odd = torch.tensor(ODD_BOXES * 4, device=device)
    boxes = torch.cat([odd, _scene(around, "sparse").to(device)])
    boxes = boxes[torch.randperm(len(boxes), device=device)]
    scores = torch.rand(len(boxes), device=device)
    for threshold in (0.0, 1e-7, 0.5):
        _same(boxes, scores, threshold, **options)
        _same(boxes.double() * 1e20, scores.double(), threshold, **options)
    _same(boxes, scores, 1.0, torch.arange(len(boxes), device=device) % 3, **options)


def test_a_giant_box_behind_many(device):
    """Its area is beyond what the grid is made for; whatever lies in it overlaps it by more than 0."""
    x = 20.0 * torch.arange(600, device=device) - 20 * 300
    boxes = torch.stack([x, 0 * x, x + 10, 0 * x + 10], 1)
    boxes = torch.cat([boxes[:300], torch.tensor([[0.0, 0, 1e19, 1.1e19]], device=device), boxes[300:]])
    kept = _same(boxes, torch.linspace(1, 0, 601, device=device), 0.0)
    assert len(kept) == 301


def test_bad_boxes_stay_and_remove_nothing(device):
    boxes = torch.tensor(ODD_BOXES[:9], device=device)
    scores = torch.rand(9, device=device)
    assert len(ops.nms(boxes, scores, 0.0)) == 9


@pytest.mark.parametrize("idxs", [[5], [2**62, -(2**62)], [2**31, 0, -(2**31)], list(range(350))])
def test_any_class_numbers(device, idxs):
    boxes, scores = _scene(700, "dense").to(device), torch.rand(700, device=device)
    classes = torch.tensor(idxs, device=device)[torch.randint(len(idxs), (700,), device=device)]
    _same(boxes, scores, 0.3, classes)
    if max(idxs) < 2**15:
        for dtype in (torch.int32, torch.int16, torch.float32):
            expected = ops.batched_nms(boxes, scores, classes, 0.3)
            assert torch.equal(ops.batched_nms(boxes, scores, classes.to(dtype), 0.3), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_classes_are_told_apart_as_floats_are(device, dtype):
    """As by torchvision where boxes are many, class by class: 0.25 and 0.75 are two, 0.0 and -0.0 are one."""
    box_ops = pytest.importorskip("torchvision.ops.boxes")
    boxes, scores = _scene(300, "dense").to(device), torch.rand(300, device=device)
    numbers = torch.tensor([0.25, 0.75, -0.0, 0.0, 1.0, 1.5, -0.5], dtype=dtype, device=device)
    idxs = numbers[torch.randint(len(numbers), (300,), device=device)]
    expected = box_ops._batched_nms_vanilla(boxes, scores, idxs, 0.3)
    assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.3), expected)
    compiled = torch.compile(ops.nms_padded, backend="aot_eager", fullgraph=True)
    keep, count = compiled(boxes, scores, 0.3, idxs=idxs)
    assert torch.equal(keep[: int(count)], expected)


def test_classes_never_meet_whatever_the_coordinates(device):
    """The coordinate offsets of other implementations leak here: negative boxes, and half precision."""
    boxes = (_scene(600, "dense") - 250).to(device).half()
    scores, idxs = torch.rand(600, device=device), torch.randint(0, 50, (600,), device=device)
    separate = torch.cat(
        [(idxs == c).nonzero()[:, 0][ops.nms(boxes[idxs == c], scores[idxs == c], 0.5)] for c in range(50)]
    )
    assert sorted(ops.batched_nms(boxes, scores, idxs, 0.5).tolist()) == sorted(separate.tolist())


def test_max_output_keeps_the_best(device):
    boxes, scores = _scene(900, "dense").to(device), torch.rand(900, device=device)
    expected = ops.nms(boxes, scores, 0.5)
    for rows in (0, 1, len(expected) - 1, len(expected), 900, 2000):
        keep, count = ops.nms_padded(boxes, scores, 0.5, max_output=rows)
        assert count.item() == min(rows, len(expected))
        assert torch.equal(keep[:count], expected[:rows]) and bool((keep[count:] == -1).all())
        assert keep.shape == (rows,)


def test_views_are_accepted(device):
    wide = torch.rand(50, 9, device=device) * 10
    boxes, scores = wide[:, 1:5], wide[:, 7]
    idxs = torch.arange(100, device=device)[::2] % 3
    assert torch.equal(ops.nms(boxes, scores, 0.1), ops.nms(boxes.clone(), scores.clone(), 0.1))
    assert torch.equal(
        ops.batched_nms(boxes, scores, idxs, 0.1),
        ops.batched_nms(boxes.clone(), scores.clone(), idxs.clone(), 0.1),
    )
    same = boxes[:1].expand(50, 4)
    assert ops.nms(same, scores[:1].expand(50), 0.1).shape == (
        50 if (same[0, 2:] <= same[0, :2]).any() else 1,
    )


coordinate = st.one_of(
    st.integers(-4, 12).map(float), st.sampled_from([0.5, 1e-3, 1e6, 1e-20, 3e38, INF, -INF, NAN, -0.0])
)


@pytest.mark.parametrize("threshold", [0.05, 0.45, 0.5, 0.7, 0.9])
def test_pairs_as_far_apart_as_they_can_remove(threshold):
    """Pairs just over and just under the threshold, shifted along one axis, nested or of unequal size."""
    n = 600
    low = 300 * torch.rand(n, 2, dtype=torch.float64) + 400.0 * torch.arange(n)[:, None]  # pairs are apart
    size = 2.0 ** (6 * torch.rand(n, 2, dtype=torch.float64))
    ratio = threshold + (1 - threshold) * torch.rand(n, dtype=torch.float64)  # width of the other box
    reach = size[:, 0] * (1 + ratio) * (1 - threshold) / (2 * (1 + threshold))
    shift = reach * (1 + 1e-4 * torch.randn(n, dtype=torch.float64)) * (torch.randint(0, 2, (n,)) * 2 - 1)
    middle = low + size / 2
    other = torch.stack([middle[:, 0] + shift, middle[:, 1]], 1)
    half = torch.stack([ratio * size[:, 0], size[:, 1]], 1) / 2
    boxes = torch.cat([torch.cat([low, low + size], 1), torch.cat([other - half, other + half], 1)])
    for b in (boxes, boxes[:, [1, 0, 3, 2]], boxes.float()):
        keep = _same(b, torch.rand(2 * n), threshold)
        assert 0.3 * n < 2 * n - len(keep) < 0.7 * n


@settings(deadline=None, max_examples=fuzz_examples(150))
@given(
    rows=st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=24),
    values=st.lists(st.sampled_from([0.0, -0.0, 0.5, 1.0, NAN, INF, -INF]), min_size=24, max_size=24),
    threshold=st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 1.0]),
    classes=st.sampled_from([0, 1, 3]),
    inclusive=st.booleans(),
    offset=st.sampled_from([0.0, 1.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_fuzz(rows, values, threshold, classes, inclusive, offset, dtype):
    boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4).to(dtype)
    scores = torch.tensor(values[: len(rows)], dtype=torch.float64).to(dtype)
    idxs = torch.arange(len(rows)) % classes if classes else None
    _same(boxes, scores, threshold, idxs, inclusive=inclusive, pixel_offset=offset)


@settings(deadline=None, max_examples=fuzz_examples(20))
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(SCENES),
    scale=st.sampled_from([1e-18, 1e-3, 1.0, 1e12]),
    threshold=st.floats(0, 1),
    classes=st.sampled_from([1, 2, 40]),
)
def test_fuzz_through_the_grid(seed, kind, scale, threshold, classes):
    torch.manual_seed(seed)
    boxes = _scene(700, kind) * scale
    _same(boxes, torch.rand(700), threshold, torch.randint(0, classes, (700,)))


def test_every_instruction_set_gives_the_same():
    boxes, scores = _scene(2000, "dense"), torch.rand(2000)
    idxs = torch.randint(0, 3, (2000,))
    for kept in (
        at_every_level(lambda: ops.nms(boxes, scores, 0.5)),
        at_every_level(lambda: ops.batched_nms(boxes.double(), scores, idxs, 0.5)),
    ):
        assert all(torch.equal(kept[0], other) for other in kept)
