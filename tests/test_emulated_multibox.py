"""The MultiBox kernels' device code on the CPU: the reference's values, the bits of the CPU kernels' keys."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from multibox_cases import (
    OTHER_KERNELS,
    batch_of,
    certain_negatives,
    gradients,
    reference_loss,
    targets_with_ignored,
)
from oracles import seed
from test_multibox import CHANGES, DTYPES, PRESETS, READY_RULES

from ssd_cuda import MultiBoxConfig, ops
from ssd_cuda.ops._checks import four_variances
from ssd_cuda.ops.matching import op_options as match_options
from ssd_cuda.ops.multibox import op_options


@pytest.fixture(scope="module")
def multibox():
    return kernels("multibox").with_seeds(0, 3)


def emulated(multibox, loc, conf, gt, priors, config, weights=(1.5, 0.7), class_weights=None, matches=False):
    """(localization, classification, num_positives, keys, d_loc, d_conf) of the emulated kernels. matches: of
    those that match as well; then the last is how many blocks the clusters had that did."""
    wide = torch.float64 if conf.dtype == torch.float64 else torch.float32
    codes = None if matches else ops.match(gt, priors, config=config.match)
    variances = None
    if config.variances != (0.1, 0.2):  # given to each prior then
        variances = torch.tensor(four_variances(config.variances), dtype=wide).expand_as(priors)
    *found, cluster = multibox.loss(
        loc.detach(),
        conf.detach(),
        config.layout == "bcp",
        gt.boxes.to(wide),
        gt.labels,
        codes,
        gt.offsets,
        priors.to(wide),
        variances,
        None if class_weights is None else class_weights.to(wide),
        op_options(config),
        *weights,
        match_options(config.match) if matches else None,
    )
    return [*found, cluster] if matches else found


def assert_is_reference(multibox, loc, conf, gt, priors, config, **terms):
    loc.requires_grad_(), conf.requires_grad_()
    result = emulated(multibox, loc, conf, gt, priors, config, **terms)
    expected = reference_loss(loc, conf, gt, priors, config, **terms)
    assert result[2].item() == expected[2].item()
    counts = expected[2] if config.normalizer == "global" else 1  # the kernels leave that sum undivided
    divisor = max(int(counts), 1)
    for mine, theirs in zip(result[:2], expected[:2], strict=True):
        torch.testing.assert_close(mine[0] / divisor, theirs.detach(), rtol=1e-5, atol=1e-5, equal_nan=True)
    if not (expected[0].isfinite() and expected[1].isfinite()):
        return
    half = loc.dtype in (torch.float16, torch.bfloat16)
    for mine, theirs in zip(result[4:], gradients(expected, loc, conf), strict=True):
        tolerance = dict(rtol=1e-2, atol=1e-5) if half else dict(rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mine / divisor, theirs, **tolerance)
        if not half:
            assert torch.equal((mine != 0).any(-1), (theirs != 0).any(-1))  # zero where nothing was selected


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(multibox, preset):
    config = MultiBoxConfig.preset(preset)
    assert_is_reference(multibox, *batch_of(config, (3, 0, 5), width=131), config)
    assert_is_reference(multibox, *batch_of(config, (30, 1), width=20, ties=True), config)
    assert_is_reference(multibox, *batch_of(config, (0,), width=1), config)


@pytest.mark.parametrize("counts, width", [((), 9), ((0, 0), 0), ((0, 0), 9)])
@pytest.mark.parametrize("normalizer", ["batch", "per_image", "selected", "batch_min_one"])
def test_nothing_to_sum(multibox, counts, width, normalizer):
    """No image, no prior, no positive: 0, and 0 / 0 where that is not clamped and there were images."""
    for clamp in (True, False):
        config = MultiBoxConfig(normalizer=normalizer, clamp_normalizer=clamp)
        assert_is_reference(multibox, *batch_of(config, counts, width=width), config)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
@pytest.mark.parametrize("classes", [1, 2, 3, 20, 21, 81, 6200])  # each pitch; rows too long to be staged
def test_classes_and_layouts(multibox, dtype, layout, classes):
    config = MultiBoxConfig(layout=layout, zero_label="localize")
    width = 9 if classes > 1000 else 140
    loc, conf, gt, priors = batch_of(config, (2, 1), width=width, classes=max(classes, 2), dtype=dtype)
    if classes == 1:
        conf = conf.narrow(1 if layout == "bcp" else 2, 0, 1).contiguous()
        gt = dataclasses.replace(gt, labels=torch.zeros_like(gt.labels))
    assert_is_reference(multibox, loc, conf, gt, priors, config)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: ", ".join(change))
def test_options(multibox, change):
    config = MultiBoxConfig(**change)
    loc, conf, gt, priors = batch_of(config, (4, 0, 2, 1))
    if "zero_label" in change:
        gt = dataclasses.replace(gt, labels=torch.tensor([0, 1, 5, 2, 0, 5, 3]))
    assert_is_reference(multibox, loc, conf, gt, priors, config)
    own = priors[None] + 0.05 * torch.rand(4, 1, 1)
    assert_is_reference(multibox, loc.detach(), conf.detach(), gt, own, config)


def test_negatives_of_loss_0_are_counted(multibox):
    config, case = certain_negatives()
    assert_is_reference(multibox, *case, config)


def keys_of_both(multibox, loc, conf, gt, priors, config, class_weights=None):
    """The keys of the emulated kernels and of the CPU's: [B, P] twice."""
    keys = emulated(multibox, loc, conf, gt, priors, config, class_weights=class_weights)[3]
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2), conf.transpose(1, 2)
    codes = ops.match(gt, priors)
    wide = torch.float64 if conf.dtype == torch.float64 else torch.float32
    weights = None if class_weights is None else class_weights.to(wide)
    targets = (codes, gt.boxes.to(wide), gt.labels, gt.offsets, priors.to(wide), None, weights)
    cpu = torch.ops.ssd_cuda.multibox_loss(loc, conf, *targets, **op_options(config), with_zeros=False)
    return keys, cpu[3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 6, 21])
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_keys_have_the_bits_of_the_cpu_kernels(multibox, dtype, classes, layout):
    config = MultiBoxConfig(layout=layout)
    case = batch_of(config, (3, 2), width=1100, classes=classes, dtype=dtype)
    assert torch.equal(*keys_of_both(multibox, *case, config))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes, layout", [(2, "bpc"), (21, "bpc"), (3, "bpc"), (6, "bcp"), (6200, "bpc")])
@pytest.mark.parametrize("architecture", [80, 90])
def test_keys_beside_matching(multibox, dtype, classes, layout, architecture):
    """The bits of one after the other; beside it where there are clusters. The checker sees what is touched
    too early."""
    config = MultiBoxConfig(layout=layout)
    width = 40 if classes > 1000 else 1100  # rows that are not staged wait
    case = batch_of(config, (3, 0, 2), width=width, classes=classes, dtype=dtype)
    *found, cluster = emulated(multibox.on(architecture), *case, config, matches=True)
    assert (cluster > 0) == (architecture == 90 and dtype != torch.float64)
    for mine, theirs in zip(found, emulated(multibox, *case, config), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("change", [*CHANGES, *OTHER_KERNELS], ids=lambda change: ", ".join(change))
def test_options_beside_matching(multibox, change):
    """Kernels of other options, and of a batch ranked as a whole, do not begin before the codes are there: of
    an odd number of classes, whose rows are copied as they lie."""
    config = MultiBoxConfig(**change)
    case = batch_of(config, (4, 0, 2, 1), classes=7)
    *found, _ = emulated(multibox.on(90), *case, config, matches=True)
    for mine, theirs in zip(found, emulated(multibox, *case, config), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("architecture, width", [(86, 12 * 1024 + 1), (75, 14 * 1024), (86, 22 * 1024)])
def test_long_rows(multibox, architecture, width):
    """More priors than registers hold, on cards of 64 and 99 KB; twice more than shared memory does."""
    multibox = multibox.on(architecture)
    config = MultiBoxConfig.preset("seed")
    loc, conf, gt, priors = batch_of(config, (3,), width=width, classes=2)
    assert_is_reference(multibox.with_seeds(0), loc, conf, gt, 0.1 * priors, config)


def test_more_tiles_than_are_added_at_once(multibox):
    """The sums of an image's tiles are loaded 128 at a time: all positives are in the last one."""
    config = MultiBoxConfig()
    loc, conf, gt, priors = batch_of(config, (3,), width=129 * 128, classes=2)
    priors = 0.1 * priors
    low, high = gt.boxes.split(2, 1)
    priors[-3:] = torch.cat([(low + high) / 2, high - low], 1)
    assert_is_reference(multibox.with_seeds(0), loc, conf, gt, priors, config)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes, width", [(21, 131), (3, 129), (5, 1)])
def test_images_that_start_anywhere(multibox, dtype, classes, width):
    """Images start at every multiple of an element within 16 bytes; some are shorter than that."""
    config = MultiBoxConfig()
    multibox = multibox.with_seeds(0)
    case = batch_of(config, (2, 0, 1, 1, 0, 3, 1, 1, 2), width=width, classes=classes, dtype=dtype)
    assert torch.equal(*keys_of_both(multibox, *case, config))
    assert_is_reference(multibox, *case, config)


@pytest.mark.parametrize("dtype, classes", [(torch.float32, 1), (torch.float16, 3), (torch.bfloat16, 1)])
def test_a_batch_ends_before_the_next_16_bytes(multibox, dtype, classes):
    """The last rows are fewer than would align their copy: nothing behind the tensor is read."""
    config, multibox = MultiBoxConfig(), multibox.with_seeds(0)
    for images in range(1, 9):
        loc, conf, gt, priors = batch_of(config, [0] * images, width=1, classes=3, dtype=dtype)
        conf = conf[..., :classes].contiguous()
        assert torch.equal(*keys_of_both(multibox, loc, conf, gt, priors, config))


def test_more_images_than_lanes(multibox):
    """The last block adds up images in strides of 32, the lanes of its first warp."""
    config = MultiBoxConfig(normalizer="per_image")
    counts = (*[0] * 64, 1)  # without a positive nothing is selected, which is quick
    assert_is_reference(multibox.with_seeds(0), *batch_of(config, counts, width=1), config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_gradients_are_the_float_ones_rounded_once(multibox, dtype):
    config = MultiBoxConfig()
    loc, conf, gt, priors = batch_of(config, (3, 2), width=70, classes=21, dtype=dtype)
    found = emulated(multibox, loc, conf, gt, priors, config)
    wide = emulated(multibox, loc.float(), conf.float(), gt, priors, config)
    for half, full in zip(found[4:], wide[4:], strict=True):
        assert torch.equal(half, full.to(dtype))


@pytest.mark.parametrize("classes", [5, 33, 96, 128, 129])
def test_every_row_of_a_run_counts(multibox, classes):
    """As many rows as a block has, all with a gradient of loc; classes by each number of groups of 32."""
    config, width = MultiBoxConfig(), 300
    loc, loc_target = torch.randn(2, 1, width, 4)
    conf, target = torch.randn(1, width, classes), torch.randint(1, classes, (1, width))
    inputs = (loc, conf, False, loc_target, target, *[None] * 5)
    *result, _ = multibox.with_seeds(1).loss(*inputs, op_options(config), 1.0, 1.0, None)
    x, y = loc.clone().requires_grad_(), conf.clone().requires_grad_()
    expected = gradients(ops.multibox_loss_on_targets(x, y, loc_target, target, config), x, y, (1.0, 1.0))
    for mine, theirs in zip(result[4:], expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("classes", [5, 129])
@pytest.mark.parametrize("label", [-1, 129])
def test_a_label_out_of_range_has_no_gradient(multibox, classes, label):
    """NaN in its own row, as its loss is, and numbers in all others that count."""
    target = torch.zeros(1, 70, dtype=torch.int64)
    target[0, :9] = 1
    target[0, 4] = label
    conf, loc = torch.randn(1, 70, classes), torch.randn(1, 70, 4)
    inputs = (loc, conf, False, torch.randn(1, 70, 4), target, *[None] * 5)
    *result, _ = multibox.loss(*inputs, op_options(MultiBoxConfig()), 1.0, 1.0, None)
    assert result[1].isnan() and result[5][0, 4].isnan().all()
    assert result[5].isnan().sum() == classes


@pytest.mark.parametrize("label, offset", [(2**63 - 1, 1), (-(2**63), -1), (5, -(2**63))])
def test_a_label_that_its_offset_takes_past_the_ends_of_int64(multibox, label, offset):
    """The sum wraps, as torch's does, and is no class."""
    target = torch.full((1, 40), label)
    inputs = (torch.randn(1, 40, 4), torch.randn(1, 40, 3), False, torch.randn(1, 40, 4), target, *[None] * 5)
    *result, _ = multibox.loss(*inputs, op_options(MultiBoxConfig(label_offset=offset)), 1.0, 1.0, None)
    assert result[1].isnan() and result[2].item() == 40


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_location_on_its_target_costs_nothing(multibox, beta):
    """At difference 0 the L1 loss is 0, and so is its gradient: no 0 / 0."""
    config = MultiBoxConfig(beta=beta)
    loc_target, conf = torch.randn(2, 70, 4), torch.randn(2, 70, 5)
    target = torch.randint(0, 5, (2, 70))
    inputs = (loc_target, conf, False, loc_target, target, *[None] * 5)
    *result, _ = multibox.loss(*inputs, op_options(config), 1.0, 1.0, None)
    assert result[0].item() == 0 and not result[4].any() and result[5].any()


@settings(max_examples=fuzz_examples(15), deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.integers(1, 140),
    st.integers(2, 30),
    st.sampled_from(PRESETS),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_fuzz(counts, width, classes, preset, ties, seed):
    torch.manual_seed(seed)
    config = MultiBoxConfig.preset(preset)
    case = batch_of(config, counts, width=width, classes=classes, ties=ties)
    assert_is_reference(kernels("multibox").with_seeds(0), *case, config)


def test_ready_targets(multibox):
    loc, loc_target = torch.randn(2, 2, 70, 4)
    conf = torch.randn(2, 70, 5)
    target = torch.randint(0, 5, (2, 70)) * (torch.rand(2, 70) < 0.2)
    options = op_options(MultiBoxConfig.preset("seed"))
    *result, _ = multibox.loss(loc, conf, False, loc_target, target, *[None] * 5, options, 1.0, 1.0, None)
    expected = ops.ssd_loss(loc, conf, loc_target, target)
    torch.testing.assert_close(result[0][0], expected[0])
    torch.testing.assert_close(result[1][0], expected[1])


@pytest.mark.parametrize("name", READY_RULES)
def test_ready_targets_follow_the_config(multibox, name):
    config = MultiBoxConfig(**READY_RULES[name])
    loc, conf, _, _ = batch_of(config, (1, 1), width=70)
    background = (5 if config.background == "last" else 0) - config.label_offset
    target = torch.randint(0, 6, (2, 70)) - config.label_offset
    target[torch.rand(2, 70) < 0.8] = background
    if config.ignore_label is not None:
        target[:, ::9] = config.ignore_label
    loc_target = torch.randn_like(loc)
    rows = loc_target.transpose(1, 2) if config.layout == "bcp" else loc_target
    inputs = (loc, conf, config.layout == "bcp", rows.contiguous(), target, *[None] * 5)
    *result, _ = multibox.loss(*inputs, op_options(config), 1.5, 0.7, None)
    x, y = loc.clone().requires_grad_(), conf.clone().requires_grad_()
    expected = ops.multibox_loss_on_targets(x, y, loc_target, target, config)
    assert result[2].item() == expected.num_positives.item() > 0
    for mine, theirs in zip(result[:2], expected, strict=False):
        torch.testing.assert_close(mine[0], theirs.detach(), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(result[4:], gradients(expected, x, y), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits(multibox, dtype):
    config = MultiBoxConfig()
    loc, conf, gt, priors = batch_of(config, (2, 3), dtype=dtype)
    one = torch.zeros_like(conf)
    one[:, ::7, 3] = 200.0
    low = conf.clone()
    low[:, ::5, 2] = -torch.inf
    for logits in (1e4 * conf.sign(), one, torch.zeros_like(conf), low):
        assert_is_reference(multibox, loc.detach(), logits, gt, priors, config)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_logit_is_hardest_and_shows(multibox, value):
    config = MultiBoxConfig()
    loc, conf, gt, priors = batch_of(config, (2, 1))
    conf[0, 17, 2] = value
    keys, cpu = keys_of_both(multibox, loc, conf, gt, priors, config)
    assert torch.equal(keys, cpu) and keys[0, 17] == -1  # all bits
    assert emulated(multibox, loc, conf, gt, priors, config)[1].isnan()


@pytest.mark.parametrize("ratio", [1.0, 3.0, 100.0])
@pytest.mark.parametrize("ignored", [0.0, 0.2, 0.7])
def test_ready_targets_with_ignored_rows_are_the_seeds(multibox, ignored, ratio):
    """Mining reaches the zeros, where positives, ignored rows and certain negatives share one key."""
    loc, conf, loc_target, target = targets_with_ignored(ignored)
    mining = dataclasses.replace(MultiBoxConfig.preset("seed").mining, ratio=ratio)
    options = op_options(MultiBoxConfig.preset("seed", ignore_label=-100, mining=mining))
    inputs = (loc.detach(), conf.detach(), False, loc_target, target)
    *result, _ = multibox.loss(*inputs, *[None] * 5, options, 1.5, 0.7, None)
    expected = seed.SSDLoss(conf.shape[2], ratio)(loc, conf, loc_target, target)
    assert result[2].item() == (target > 0).sum()
    for mine, theirs in zip(result[:2], expected, strict=True):
        torch.testing.assert_close(mine[0], theirs.detach(), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(result[4:], gradients(expected, loc, conf), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)
    assert not result[5][target == -100].any()
