"""The reference of the loss: by hand, against torchvision and the seed, and its numerical edges."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from conftest import random_boxes, random_priors
from oracles import torchvision_ssd
from oracles.seed import SSDLoss

from ssd_cuda import MultiBoxConfig
from ssd_cuda.reference.boxes import encode, to_xyxy
from ssd_cuda.reference.matching import IGNORED, match
from ssd_cuda.reference.multibox import cross_entropy, multibox_loss, ssd_loss

NAN, INF = math.nan, math.inf


def offsets_of(counts, device="cpu"):
    return torch.tensor([0, *counts], device=device).cumsum(0).int()


def test_cross_entropy_is_exact_for_extreme_rows(device):
    logits = torch.zeros(4, 21, device=device)
    logits[1, 5] = 200.0  # a row of its own: the others keep log(21)
    logits[2] = -1e4
    logits[3, 0] = 1e4
    labels = torch.tensor([0, 0, 7, 3], device=device)
    expected = [math.log(21), 200.0, math.log(21), 1e4]
    assert cross_entropy(logits, labels).tolist() == pytest.approx(expected, rel=1e-6)
    logits[0, 0], logits[1, 0] = NAN, INF
    assert not cross_entropy(logits, labels)[:2].isfinite().any()


def batch(device, counts=(2, 0, 5), num_priors=30, num_classes=4, dtype=torch.float64):
    priors, boxes = random_priors(num_priors, dtype=dtype), random_boxes(sum(counts), dtype=dtype)
    labels = torch.randint(1, num_classes, (sum(counts),))
    loc = torch.randn(len(counts), num_priors, 4, dtype=dtype)
    conf = torch.randn(len(counts), num_priors, num_classes, dtype=dtype)
    return [x.to(device) for x in (loc, conf, boxes, labels, offsets_of(counts), priors)]


def test_loss_by_hand(device):
    """One truth equal to prior 0, four priors: 1 positive, 3 negatives, all of weight 1."""
    priors = torch.tensor([[0.5, 0.5, 1, 1], [5, 5, 1, 1], [7, 7, 1, 1], [9, 9, 1, 1.0]], device=device)
    boxes, labels = torch.tensor([[0.0, 0, 1, 1]], device=device), torch.tensor([1], device=device)
    loc = torch.zeros(1, 4, 4, device=device)
    loc[0, 0] = torch.tensor([0.5, 2.0, 0, 0])
    conf = torch.zeros(1, 4, 2, device=device)
    got = multibox_loss(loc, conf, boxes, labels, offsets_of([1], device), priors)
    assert [x.item() for x in got] == pytest.approx([0.125 + 1.5, 4 * math.log(2), 1])
    got = multibox_loss(
        loc, conf, boxes, labels, offsets_of([1], device), priors, loc_loss="l1", loc_reduction="mean4"
    )
    assert got[0].item() == pytest.approx(2.5 / 4)
    got = multibox_loss(
        loc, conf, boxes, labels, offsets_of([1], device), priors, beta=0.25, normalizer="selected"
    )
    assert [x.item() for x in got] == pytest.approx([(0.375 + 1.875) / 4, math.log(2), 1])


def test_a_positive_counted_twice_is_one_selected_prior(device):
    """By hand: 4 priors, 1 positive, all rows taken as negatives: 5 times log 2 over 4 priors."""
    priors = torch.tensor([[0.5, 0.5, 1, 1], [5, 5, 1, 1], [7, 7, 1, 1], [9, 9, 1, 1.0]], device=device)
    args = torch.zeros(1, 4, 4, device=device), torch.zeros(1, 4, 2, device=device), to_xyxy(priors[:1])
    mining = {"ratio": 9.0, "cap": "all", "count_positives_twice": True}
    labels, offsets = torch.tensor([1], device=device), offsets_of([1], device)
    got = multibox_loss(*args, labels, offsets, priors, mining=mining, normalizer="selected")
    assert got[1].item() == pytest.approx(5 * math.log(2) / 4)


def test_normalizers(device):
    loc, conf, boxes, labels, offsets, priors = batch(device)
    args = (loc, conf, boxes, labels, offsets, priors)
    total = {n: multibox_loss(*args, normalizer=n) for n in ("batch", "global", "batch_min_one", "per_image")}
    n = total["batch"][2]
    assert total["global"][:2] == total["batch"][:2]
    torch.testing.assert_close(total["batch_min_one"][1] * (n + 1), total["batch"][1] * n)
    shares = [
        multibox_loss(loc[i : i + 1], conf[i : i + 1], boxes[a:b], labels[a:b], offsets_of([b - a]), priors)[
            1
        ]
        for i, (a, b) in enumerate([(0, 2), (2, 2), (2, 7)])
    ]
    torch.testing.assert_close(total["per_image"][1], sum(shares) / 3)
    torch.testing.assert_close(multibox_loss(*args, loc_weight=2.0)[0], 2 * total["batch"][0])


def test_layouts_are_the_same_loss(device):
    loc, conf, *rest = batch(device)
    flipped = (loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous())
    assert multibox_loss(*flipped, *rest, layout="bcp") == multibox_loss(loc, conf, *rest)


@pytest.mark.parametrize("counts", [(3, 0, 6), (9, 4, 1)])
@pytest.mark.parametrize("num_priors", [8, 200])
def test_loss_is_torchvisions(counts, num_priors):
    """Few priors: torchvision counts positives twice. Label 0: it counts in the box loss only."""
    pytest.importorskip("torchvision")
    model = torchvision_ssd.bare_ssd()
    for _ in range(5):
        boxes, priors = random_boxes(sum(counts), size=300), random_boxes(num_priors, size=300)
        labels = torch.randint(0, 5, (sum(counts),))
        loc, conf = torch.randn(3, num_priors, 4), torch.randn(3, num_priors, 5)
        ours = [loc.clone().requires_grad_(), conf.clone().requires_grad_()]
        theirs = [loc.clone().requires_grad_(), conf.clone().requires_grad_()]
        split = list(boxes.split(counts)), list(labels.split(counts))
        want = torchvision_ssd.compute_loss(model, *theirs, *split, priors)
        options = asdict(MultiBoxConfig.preset("torchvision"))
        got = multibox_loss(*ours, boxes, labels, offsets_of(counts), priors, **options)
        torch.testing.assert_close(torch.stack(got[:2]), torch.stack(want), rtol=1e-5, atol=1e-6)
        (want[0] + want[1]).backward()
        (got[0] + got[1]).backward()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels_first", [False, True])
def test_equal_rows_have_equal_keys(device, channels_first):
    """Else the rule for ties would mean nothing; torch sums strided rows differently at an edge."""
    for classes in (5, 21, 81):
        conf = (torch.randn(20, 1, classes) * 2).expand(20, 130, classes).to(device)
        if channels_first:
            conf = conf.transpose(1, 2).contiguous().transpose(1, 2)
        keys = cross_entropy(conf, torch.zeros(20, 130, dtype=torch.int64, device=device))
        assert torch.equal(keys, keys[:, :1].expand_as(keys))


def seed_inputs(device, num_priors=60, num_classes=5, positives=(4, 0, 9)):
    target = torch.zeros(len(positives), num_priors, dtype=torch.int64)
    for row, n in zip(target, positives, strict=True):
        row[torch.randperm(num_priors)[:n]] = torch.randint(1, num_classes, (n,))
    loc, loc_t = torch.randn(2, len(positives), num_priors, 4)
    conf = torch.randn(len(positives), num_priors, num_classes) * 2
    return [x.to(device) for x in (loc, conf, loc_t, target)]


@pytest.mark.parametrize("ratio", [3.0, 0.0, 1.5, 100.0])
@pytest.mark.parametrize("kind", ["random", "equal", "short", "certain", "none", "ignored"])
def test_ssd_loss_is_the_seeds(device, kind, ratio):
    """short, certain and ignored reach the zeros of the positives: the seed counts those twice."""
    positives = {"short": (30, 60, 1), "none": (0, 0, 0)}.get(kind, (4, 0, 9))
    loc, conf, loc_t, target = seed_inputs(device, positives=positives)
    if kind == "equal":
        conf.zero_()
    if kind == "certain":
        conf[:, 5:, 0] = 200.0  # a cross entropy of exactly 0 ties with the positives
    if kind == "ignored":
        target[torch.rand(target.shape, device=device) < 0.6] = -100
    seed, ours = ([x.clone().requires_grad_() for x in (loc, conf)] for _ in range(2))
    want = SSDLoss(5, ratio)(*seed, loc_t, target)
    got = ssd_loss(*ours, loc_t, target, ratio)
    torch.testing.assert_close(torch.stack(got), torch.stack(want))
    (want[0] + 2 * want[1]).backward()
    (got[0] + 2 * got[1]).backward()
    for mine, other in zip(ours, seed, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_the_seed_preset_is_the_seeds_loss(device):
    """Through matching: the same numbers when the targets come from the codes."""
    loc, conf, boxes, labels, offsets, priors = batch(device, num_priors=12, dtype=torch.float32)
    options = asdict(MultiBoxConfig.preset("seed"))
    got = multibox_loss(loc, conf, boxes, labels, offsets, priors, **options)
    codes = match(boxes, offsets, priors)
    owner = offsets[:-1, None] + codes.clamp(min=0)
    target = torch.where(codes >= 0, labels[owner.clamp(max=len(labels) - 1)], 0)
    loc_t = encode(boxes[owner.clamp(max=len(labels) - 1)], priors)
    want = SSDLoss(4)(loc, conf, loc_t, target)
    torch.testing.assert_close(torch.stack(got[:2]), torch.stack(want))


@pytest.mark.parametrize(
    "options", [{}, {"normalizer": "per_image", "loc_loss": "l1"}, {"zero_label": "localize"}]
)
def test_gradcheck(options):
    loc, conf, *rest = batch("cpu", num_priors=9)
    inputs = (loc.requires_grad_(), conf.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: multibox_loss(a, b, *rest, **options)[:2], inputs)


def test_rows_that_do_not_count_have_no_gradient(device):
    loc, conf, boxes, labels, offsets, priors = batch(device, num_priors=100)
    rest = boxes, labels, offsets, priors
    conf[match(boxes, offsets, priors) < 0] = -INF  # nan as soon as one counts
    loc.requires_grad_(), conf.requires_grad_()
    options = {"ratio": 0.0}
    got = multibox_loss(loc, conf, *rest, mining=options)
    (got[0] + got[1]).backward()
    n = int(got[2])
    assert (loc.grad != 0).any(-1).sum() == n and (conf.grad != 0).any(-1).sum() == n


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_logit_that_is_not_finite_is_never_hidden(device, value):
    """NaN is the hardest negative; +inf gives a NaN or infinite cross entropy, which is hard too."""
    loc, conf, boxes, labels, offsets, priors = batch(device, num_priors=100)
    far = torch.full_like(priors[:1], 50.0)
    priors = torch.cat([priors[:99], far])
    conf[0, 99, 1] = value
    assert not multibox_loss(loc, conf, boxes, labels, offsets, priors)[1].isfinite()
    assert multibox_loss(loc, conf, boxes, labels, offsets, priors)[0].isfinite()
    conf[0, 99, 1], conf[1, 99, 1] = 0, value  # an image without truths gives no negatives
    assert multibox_loss(loc, conf, boxes, labels, offsets, priors)[1].isfinite()
    assert not multibox_loss(loc, conf, boxes, labels, offsets, priors, mining={"min_negatives": 1})[
        1
    ].isfinite()


def test_all_logits_equal_selects_the_lowest_priors(device):
    loc, _, boxes, labels, offsets, priors = batch(device, counts=(1,), num_priors=50)
    conf = torch.zeros(1, 50, 3, dtype=torch.float64, device=device, requires_grad=True)
    multibox_loss(loc, conf, boxes, labels.clamp(max=2), offsets, priors)[1].backward()
    positive = match(boxes, offsets, priors)[0] >= 0
    negative = (conf.grad[0] != 0).any(-1) & ~positive
    lowest = (~positive).nonzero()[: 3 * int(positive.sum()), 0]
    assert torch.equal(negative.nonzero()[:, 0], lowest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(device, dtype):
    loc, conf, *rest = batch(device, dtype=torch.float32)
    loc, conf = loc.to(dtype), conf.to(dtype)
    half = [x.clone().requires_grad_() for x in (loc, conf)]
    full = [x.float().requires_grad_() for x in (loc, conf)]
    got, want = multibox_loss(*half, *rest), multibox_loss(*full, *rest)
    assert got == want and got[0].dtype == torch.float32
    got[1].backward(), want[1].backward()
    assert torch.equal(half[1].grad, full[1].grad.to(dtype))


def test_labels(device):
    """One truth on each of three priors; label 2 is ignored, label 0 is what zero_label says."""
    centers = torch.tensor([0.5, 2.5, 4.5, 6.5], device=device)
    priors = torch.stack([centers, centers, *torch.ones(2, 4, device=device)], 1)
    boxes = to_xyxy(priors[:3])
    args = (torch.zeros(1, 4, 4, device=device), torch.zeros(1, 4, 3, device=device), boxes)
    offsets = offsets_of([3], device)

    def counts(labels, **options):
        """Rows in the classification loss (each log 3), and priors in the normaliser."""
        rest = (torch.tensor(labels, device=device), offsets, priors)
        got = multibox_loss(*args, *rest, clamp_normalizer=True, **options)
        return round(got[1].item() * max(int(got[2]), 1) / math.log(3)), int(got[2])

    none = {"ratio": 0.0}
    assert counts([1, 2, 1], mining=none) == (3, 3)
    assert counts([1, 2, 1], mining=none, ignore_label=2) == (2, 2)
    assert counts([1, 2, 2], ignore_label=2) == (2, 1)  # the ignored are no negatives either
    assert counts([1, 0, 1], mining=none) == (2, 2)
    assert counts([1, 0, 0], zero_label="background") == (4, 1)  # they are negatives
    assert counts([1, 0, 0], zero_label="localize") == (4, 3)
    assert counts([1, 0, 1], mining=none, zero_label="positive") == (3, 3)
    assert counts([0, -1, 1], mining=none, label_offset=1) == (2, 2)
    assert counts([0, -1, 1], mining=none, label_offset=1, ignore_label=-1) == (2, 2)
    assert counts([-1, 7, 0], mining=none, single_class=True) == (2, 2)
    assert counts([0, 1, 2], mining=none, background="last") == (2, 2)
    with pytest.raises(ValueError, match=r"labels must give a class in \[0, 3\), got 3"):
        counts([1, 3, 1])


def test_ignored_priors_are_no_negatives(device):
    loc, conf, boxes, labels, offsets, priors = batch(device, num_priors=60)
    mining = {"ratio": 100.0}
    everything = multibox_loss(
        loc, conf, boxes, labels, offsets, priors, mining=mining, normalizer="selected"
    )
    codes = match(boxes, offsets, priors, candidate_max_iou=0.2)
    fewer = multibox_loss(
        loc, conf, boxes, labels, offsets, priors, mining=mining, normalizer="selected", codes=codes
    )
    skipped = (codes == IGNORED).sum()
    assert skipped > 0
    sums = [x[0] for x in (everything, fewer)]  # the localisation sums agree: the ratio tells the counts
    rows = sum(60 for n in (0, 2) if (codes[n] >= 0).any())
    torch.testing.assert_close(sums[0] * rows, sums[1] * (rows - skipped))


def test_losses_of_nothing(device):
    loc, conf, boxes, labels, _, priors = batch(device)
    none = boxes[:0], labels[:0]
    empty = [x.requires_grad_() for x in (loc, conf)]
    got = multibox_loss(*empty, *none, offsets_of([0, 0, 0], device), priors)
    (got[0] + got[1]).backward()
    assert [x.item() for x in got] == [0, 0, 0] and all((x.grad == 0).all() for x in empty)
    got = multibox_loss(*empty, *none, offsets_of([0, 0, 0], device), priors, mining={"min_negatives": 2})
    assert got[1] > 0 and got[0] == 0
    unclamped = multibox_loss(*empty, *none, offsets_of([0, 0, 0], device), priors, clamp_normalizer=False)
    assert unclamped[0].isnan() and unclamped[1].isnan()
    for normalizer in ("batch", "per_image", "selected", "batch_min_one", "global"):
        options = {"normalizer": normalizer, "clamp_normalizer": False}
        zero = multibox_loss(loc[:0], conf[:0], *none, offsets_of([], device), priors, **options)
        assert [x.item() for x in zero] == [0, 0, 0]
        zero = multibox_loss(
            loc[:, :0],
            conf[:, :0],
            boxes,
            labels,
            offsets_of([2, 0, 5], device),
            priors[:0],
            normalizer=normalizer,
        )
        assert [x.item() for x in zero] == [0, 0, 0]
    got = multibox_loss(
        loc, conf[..., :1], *none, offsets_of([0, 0, 0], device), priors, mining={"min_negatives": 9}
    )
    assert [x.item() for x in got] == [0, 0, 0]  # one class: nothing to tell apart


def test_views_are_accepted(device):
    """Expanded, strided and misaligned tensors give what their copies give."""
    loc, conf, boxes, labels, offsets, priors = batch(device, dtype=torch.float32)

    def misaligned(x):
        return torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape)

    def strided(x):
        return torch.stack([x, x], -1)[..., 0]

    shared = conf[:1].expand_as(conf)
    for view in (misaligned, strided):
        got = multibox_loss(view(loc), shared, view(boxes), strided(labels), strided(offsets), view(priors))
        assert got == multibox_loss(loc, shared.contiguous(), boxes, labels, offsets, priors)
