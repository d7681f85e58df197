"""multibox: the fused loss against the reference, the seed's class, gradcheck and hand-worked cases."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from emulator.harness import fuzz_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from multibox_cases import (
    assert_same_loss,
    batch_of,
    certain_negatives,
    gradients,
    reference_loss,
    targets_with_ignored,
)
from oracles import seed
from torch.nn import functional as F

import ssd_cuda
from ssd_cuda import MiningConfig, MultiBoxConfig, ops, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
PRESETS = MultiBoxConfig.preset_names()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_presets_are_the_reference(device, preset, dtype):
    config = MultiBoxConfig.preset(preset)
    assert_same_loss(*batch_of(config, (3, 0, 5), dtype=dtype, device=device), config)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_on_awkward_batches(device, preset):
    config = MultiBoxConfig.preset(preset)
    for counts, options in (
        ((0, 0), {}),
        ((40, 1), dict(width=20)),  # more positives than negatives
        ((2, 3), dict(ties=True)),
        ((1, 2), dict(width=1)),
        ((1, 2), dict(classes=2)),
        ((3,), dict(width=700, classes=91)),
    ):
        assert_same_loss(*batch_of(config, counts, device=device, **options), config)


CHANGES = [
    dict(loc_loss="l1"),
    dict(beta=0.1),
    dict(beta=0.0),
    dict(loc_reduction="mean4"),
    dict(normalizer="per_image"),
    dict(normalizer="selected"),
    dict(normalizer="global"),
    dict(normalizer="batch_min_one"),
    dict(clamp_normalizer=False),
    dict(loc_weight=2.5),
    dict(background="last"),
    dict(label_offset=1),
    dict(ignore_label=2),
    dict(single_class=True),
    dict(variances=(0.2, 0.1, 0.3, 0.15)),
    dict(layout="bcp"),
    *(dict(zero_label=kind) for kind in ("positive", "localize", "background")),
    *(dict(zero_label=kind, background="last") for kind in ("positive", "localize", "background")),
    dict(mining=MiningConfig(ratio=2.4, rounding="ceil")),
    dict(mining=MiningConfig(ratio=0.0)),
    dict(mining=MiningConfig(min_negatives=7)),
    dict(mining=MiningConfig(cap="all", positive_fill="zero", ratio=50.0)),
    dict(mining=MiningConfig(cap="all_but_one", ratio=50.0, count_positives_twice=True)),
    dict(mining=MiningConfig(cap="all", positive_fill="zero", ratio=50.0, count_positives_twice=True)),
    dict(match=ssd_cuda.MatchConfig(candidate_max_iou=0.3), mining=MiningConfig(ratio=60.0)),
    *(
        dict(
            match=ssd_cuda.MatchConfig(candidate_max_iou=0.1),
            mining=MiningConfig(cap="all", positive_fill="zero", ratio=20.0, count_positives_twice=twice),
            ignored_key="zero",
            ignore_label=2,
            normalizer="selected",
        )
        for twice in (False, True)
    ),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: ", ".join(change))
@pytest.mark.parametrize("per_image_priors", [False, True])
def test_options_are_the_reference(device, change, per_image_priors):
    config = MultiBoxConfig(**change)
    loc, conf, gt, priors = batch_of(config, (4, 0, 2, 1), device=device)
    if "zero_label" in change:
        labels = torch.tensor([0, 1, 5, 2, 0, 5, 3], device=device)
        gt = dataclasses.replace(gt, labels=labels)
    if per_image_priors:
        priors = priors[None] + 0.05 * torch.rand(4, 1, 1, device=device)
    assert_same_loss(loc, conf, gt, priors, config)


def test_negatives_of_loss_0_are_counted(device):
    config, case = certain_negatives(device)
    assert_same_loss(*case, config)


def test_per_prior_variances(device):
    config = MultiBoxConfig()
    loc, conf, gt, priors = batch_of(config, (4, 3), device=device)
    loc.requires_grad_()
    same = torch.tensor([0.1, 0.1, 0.2, 0.2], device=device).expand_as(priors)
    expected = ops.multibox_loss(loc, conf, gt, priors, config)
    assert torch.equal(ops.multibox_loss(loc, conf, gt, priors, variances=same).localization, expected[0])
    own = 0.05 + 0.3 * torch.rand_like(priors)
    codes = ops.match(gt, priors)
    loss = ops.multibox_loss(loc, conf, gt, priors, codes=codes, variances=own).localization
    matched = codes >= 0
    image, prior = matched.nonzero(as_tuple=True)
    truth = gt.boxes[gt.offsets[image] + codes[matched]]
    target = reference.boxes.encode(truth, priors[prior], own[prior])
    by_hand = F.smooth_l1_loss(loc[matched], target, reduction="sum") / matched.sum()
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize("classes", [2, 21])
@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("ratio", [3.0, 0.5, 2.3])
def test_ssd_loss_is_the_seeds(device, classes, density, ratio):
    loc, loc_target = torch.randn(2, 3, 200, 4, device=device)
    conf = 3 * torch.randn(3, 200, classes, device=device)
    conf_target = torch.randint(1, classes, (3, 200), device=device)
    conf_target[torch.rand(3, 200, device=device) >= density] = 0
    loc.requires_grad_(), conf.requires_grad_()
    result = ssd_cuda.nn.SSDLoss(classes, ratio)(loc, conf, loc_target, conf_target)
    expected = seed.SSDLoss(classes, ratio)(loc, conf, loc_target, conf_target)
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(gradients(result, loc, conf), gradients(expected, loc, conf), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_ssd_loss_skips_torchs_ignored_class(device):
    loc, conf, target = torch.zeros(1, 4, 4), torch.randn(1, 4, 3), torch.tensor([[1, -100, 0, 0]])
    loc, conf, target = loc.to(device), conf.to(device).requires_grad_(), target.to(device)
    loss = ops.ssd_loss(loc, conf, loc, target, 2.0)[1]
    expected = F.cross_entropy(conf[0, [0, 2, 3]], torch.tensor([1, 0, 0], device=device), reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert not torch.autograd.grad(loss, conf)[0][0, 1].any()


@pytest.mark.parametrize("ratio", [1.0, 3.0, 100.0])
@pytest.mark.parametrize("ignored", [0.2, 0.7, 1.0])
def test_ssd_loss_ranks_ignored_rows_as_the_seed(device, ignored, ratio):
    """Mining reaches the zeros: an ignored row takes a place there that a positive would count twice in."""
    loc, conf, loc_target, target = targets_with_ignored(ignored, device=device)
    result = ops.ssd_loss(loc, conf, loc_target, target, ratio)
    expected = seed.SSDLoss(conf.shape[2], ratio)(loc, conf, loc_target, target)
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    d_loc, d_conf = gradients(result, loc, conf)
    for mine, theirs in zip((d_loc, d_conf), gradients(expected, loc, conf), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)
    assert not d_conf[target == -100].any()


def test_an_ignored_row_takes_the_place_of_a_positive_by_hand(device):
    """k = 2: the one negative, then the lowest of the zeros, which is ignored: the positive counts once."""
    loc = torch.zeros(1, 3, 4, device=device)
    conf = torch.zeros(1, 3, 2, device=device)
    target = torch.tensor([[-100, 1, 0]], device=device)
    assert ops.ssd_loss(loc, conf, loc, target)[1].item() == pytest.approx(2 * math.log(2))
    target = target[:, [1, 0, 2]]  # here the positive is the lowest
    assert ops.ssd_loss(loc, conf, loc, target)[1].item() == pytest.approx(3 * math.log(2))


@pytest.mark.parametrize("background, offset", [("first", 0), ("last", 0), ("first", 2)])
def test_the_ignored_label_may_be_that_of_the_background(device, background, offset):
    """Of ready targets: the label is asked first, so nothing is left to mine, nor has a gradient."""
    loc, conf = torch.zeros(2, 300, 4, device=device), torch.randn(2, 300, 6, device=device)
    own = 5 if background == "last" else 0
    target = torch.where(torch.rand(2, 300, device=device) < 0.1, 3, own) - offset
    config = MultiBoxConfig(background=background, label_offset=offset, ignore_label=own - offset)
    conf.requires_grad_()
    loss = ops.multibox_loss_on_targets(loc, conf, loc, target, config).classification
    positive = target == 3 - offset
    expected = reference.multibox.cross_entropy(conf.detach()[positive], torch.full_like(target[positive], 3))
    torch.testing.assert_close(loss.detach(), expected.sum() / positive.sum())
    loss.backward()
    assert (conf.grad != 0).any(2).equal(positive)


def test_an_ignored_row_is_not_ranked_where_the_rule_says_so(device):
    """The same targets under an ignore_label: the positive is the only zero and counts twice."""
    loc, conf = torch.zeros(1, 3, 4, device=device), torch.zeros(1, 3, 2, device=device)
    target = torch.tensor([[-100, 1, 0]], device=device)
    config = MultiBoxConfig.preset("seed", ignore_label=-100, ignored_key="none")
    losses = ops.multibox_loss_on_targets(loc, conf, loc, target, config)
    assert losses.classification.item() == pytest.approx(3 * math.log(2))


READY_RULES = {
    "background last": dict(background="last"),
    "label_offset": dict(label_offset=1),
    "background last, label_offset": dict(background="last", label_offset=1),
    "single_class": dict(single_class=True),
    "ignore_label": dict(background="last", ignore_label=-7),
    "nvidia": dict(layout="bcp", normalizer="per_image"),
}


@pytest.mark.parametrize("name", READY_RULES)
def test_ready_targets_are_those_of_the_matching(device, name):
    """The targets that the codes stand for, handed over as given: before the offset, background too."""
    config = MultiBoxConfig(**READY_RULES[name])
    loc, conf, gt, priors = batch_of(config, (3, 0, 5), device=device)
    codes = ops.match(gt, priors, config=config.match)
    classes = conf.shape[1 if config.layout == "bcp" else 2]
    background = (classes - 1 if config.background == "last" else 0) - config.label_offset
    rows = (gt.offsets[:-1, None] + codes.clamp(min=0)).clamp(max=len(gt.labels) - 1)
    target = torch.where(codes >= 0, gt.labels[rows], background)
    loc_target = ops.encode(gt.boxes[rows], priors, config.variances)
    if config.layout == "bcp":
        loc_target = loc_target.transpose(1, 2)
    if config.ignore_label is not None:
        ignored = gt.labels[0].item()
        config = dataclasses.replace(config, ignore_label=ignored)
        assert (target == ignored).any()
    loc.requires_grad_(), conf.requires_grad_()
    ready = ops.multibox_loss_on_targets(loc, conf, loc_target, target, config)
    ragged = ops.multibox_loss(loc, conf, gt, priors, config, codes=codes)
    torch.testing.assert_close(ready, ragged, rtol=1e-5, atol=1e-6)
    assert ready.num_positives > 0
    for mine, theirs in zip(gradients(ready, loc, conf), gradients(ragged, loc, conf), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_gradcheck(device, layout):
    for change in (dict(), dict(normalizer="per_image", loc_weight=2.0), dict(normalizer="global", beta=0.5)):
        config = MultiBoxConfig(layout=layout, **change)
        loc, conf, gt, priors = batch_of(
            config, (2, 1), width=5, classes=3, dtype=torch.float64, device=device
        )
        loc.requires_grad_(), conf.requires_grad_()
        codes = ops.match(gt, priors, config=config.match)
        assert torch.autograd.gradcheck(
            lambda x, y, c=config, g=gt, p=priors, m=codes: ops.multibox_loss(x, y, g, p, c, codes=m)[:2],
            (loc, conf),
        )


def test_by_hand(device):
    """One image, four priors: prior 1 is the box, the others are background of rising hardness."""
    small = [0.1, 0.1]
    priors = torch.tensor([[0.2, 0.2, *small], [0.5, 0.5, 0.4, 0.4], [0.8, 0.8, *small], [0.9, 0.1, *small]])
    gt = ops.GroundTruth.from_list([torch.tensor([[0.3, 0.3, 0.7, 0.7]])], [torch.tensor([1])]).to(device)
    conf = torch.tensor([[[0.0, 1.0], [0.0, 0.0], [0.0, 3.0], [0.0, 2.0]]], device=device)
    loc = torch.tensor([[[9.0] * 4, [0.5, -2.0, 0.0, 0.0], [9.0] * 4, [9.0] * 4]], device=device)
    conf.requires_grad_(), loc.requires_grad_()
    config = MultiBoxConfig(mining=MiningConfig(ratio=2.0))
    losses = ops.multibox_loss(loc, conf, gt, priors.to(device), config)
    assert losses.num_positives.item() == 1
    assert losses.localization.item() == pytest.approx(0.5 * 0.25 + (2.0 - 0.5), abs=1e-5)
    assert losses.classification.item() == pytest.approx(
        math.log(2) + math.log1p(math.exp(3)) + math.log1p(math.exp(2)), rel=1e-6
    )
    d_loc, d_conf = gradients(losses, loc, conf, (1.0, 1.0))
    torch.testing.assert_close(d_loc[0, 1].tolist(), [0.5, -1.0, 0.0, 0.0], rtol=1e-4, atol=1e-5)
    s2, s3 = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-3))
    expected = [[0.0, 0.0], [0.5, -0.5], [-s3, s3], [-s2, s2]]
    torch.testing.assert_close(d_conf[0].cpu(), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert not d_loc[0, [0, 2, 3]].any()


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 1), (2, 5, 1)])
def test_empty_shapes(device, shape):
    batch, width, _classes = shape
    none, no_label = torch.empty(0, 4), torch.empty(0).long()
    gt = ops.GroundTruth.from_list([none] * batch, [no_label] * batch, device=device)
    loc = torch.zeros(batch, width, 4, device=device, requires_grad=True)
    conf = torch.zeros(shape, device=device, requires_grad=True)
    losses = ops.multibox_loss(loc, conf, gt, torch.rand(width, 4, device=device))
    assert [x.item() for x in losses] == [0.0, 0.0, 0]
    for grad, like in zip(gradients(losses, loc, conf), (loc, conf), strict=True):
        assert grad.shape == like.shape
        assert not grad.any()


NORMALIZERS = ("batch", "per_image", "selected", "global", "batch_min_one")


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_batch_without_images_is_0_and_one_without_positives_0_over_0(device, normalizer):
    """clamp_normalizer=False: nan says that nothing was positive, where there were images to say it of."""
    config = MultiBoxConfig(normalizer=normalizer, clamp_normalizer=False)
    assert_same_loss(*batch_of(config, (), device=device), config)
    assert_same_loss(*batch_of(config, (0, 0), device=device), config)
    losses = ops.multibox_loss(*batch_of(config, (), device=device), config)
    assert [x.item() for x in losses] == [0, 0, 0]
    loc, conf, *_ = batch_of(config, (), device=device)
    ready = ops.multibox_loss_on_targets(loc, conf, loc, conf[..., 0].long(), config)
    assert [x.item() for x in ready] == [0, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits(device, dtype):
    config = MultiBoxConfig()
    loc, conf, gt, priors = batch_of(config, (2, 3), dtype=dtype, device=device)
    big = 1e4 * conf.sign()
    one = torch.zeros_like(conf)
    one[:, ::7, 3] = 200.0
    for logits in (big, one, torch.zeros_like(conf)):
        result = ops.multibox_loss(loc, logits, gt, priors, config)
        expected = reference_loss(loc.double(), logits.double(), gt, priors, config)
        assert result.classification.isfinite()
        torch.testing.assert_close(result.classification.double(), expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_logit_shows(device, value):
    loc, conf, gt, priors = batch_of(MultiBoxConfig(), (2, 0), device=device)
    conf[0, 17, 2] = value
    assert ops.multibox_loss(loc, conf, gt, priors).classification.isnan()
    conf, clean = conf.clone(), conf.clone()
    conf[0, 17, 2], clean[0, 17, 2] = -math.inf, -1e30
    torch.testing.assert_close(
        ops.multibox_loss(loc, conf, gt, priors)[:2], ops.multibox_loss(loc, clean, gt, priors)[:2]
    )
    positive = int((ops.match(gt, priors)[0] >= 0).nonzero()[0])
    loc[0, positive, 1] = value
    assert not ops.multibox_loss(loc, clean, gt, priors).localization.isfinite()


@settings(max_examples=fuzz_examples(40), deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(1, 60),
    st.integers(2, 40),
    st.sampled_from(PRESETS),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_fuzz_batches(counts, width, classes, preset, ties, seed):
    torch.manual_seed(seed)
    config = MultiBoxConfig.preset(preset)
    assert_same_loss(*batch_of(config, counts, width=width, classes=classes, ties=ties), config)
