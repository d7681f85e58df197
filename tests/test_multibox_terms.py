"""multibox with class weights and smoothed labels: torch's cross_entropy, mined by loss or background."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from multibox_cases import assert_same_loss, batch_of, gradients
from torch.nn import functional as F

import ssd_cuda
from ssd_cuda import MiningConfig, MultiBoxConfig, ops, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SMOOTHING = [0.0, 0.1, 0.75]


def weights_of(classes: int, device="cpu", dtype=torch.float32) -> torch.Tensor:
    """Distinct weights, one of them 0."""
    weights = 0.25 + 2 * torch.rand(classes)
    weights[min(2, classes - 1)] = 0.0
    return weights.to(device, dtype)


def by_torch(loc, conf, target, weights, smoothing, key="ce", ratio=3.0):
    """The loss of torch's cross_entropy and the reference's mining. target: [B, P], 0 is background."""
    options = dict(weight=weights, label_smoothing=smoothing, reduction="none")
    losses = F.cross_entropy(conf.transpose(1, 2), target, **options)
    keys = losses if key == "ce" else -F.log_softmax(conf, 2)[..., 0]
    positive = target > 0
    negative = reference.mining.select_hard_negatives(keys.detach(), positive, ratio=ratio)
    return losses[positive | negative].sum() / positive.sum().clamp(min=1)


@pytest.mark.parametrize("key", ["ce", "background"])
@pytest.mark.parametrize("smoothing", SMOOTHING)
@pytest.mark.parametrize("weighted", [False, True])
def test_is_torchs_cross_entropy(device, weighted, smoothing, key):
    """Ready targets: losses and gradients of torch's own function on the rows that the reference mines."""
    classes = 7
    conf = (3 * torch.randn(3, 90, classes, device=device, dtype=torch.float64)).requires_grad_()
    loc = torch.randn(3, 90, 4, device=device, dtype=torch.float64)
    target = torch.randint(1, classes, (3, 90), device=device)
    target[torch.rand(3, 90, device=device) < 0.9] = 0
    weights = weights_of(classes, device, torch.float64) if weighted else None
    config = MultiBoxConfig(label_smoothing=smoothing, mining=MiningConfig(key=key))
    mine = ops.multibox_loss_on_targets(loc, conf, loc, target, config, class_weights=weights).classification
    theirs = by_torch(loc, conf, target, weights, smoothing, key)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(mine, conf), torch.autograd.grad(theirs, conf), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


def test_the_key_decides_what_is_mined(device):
    """Smoothing ranks a row of one certain class high; the background's loss alone does not."""
    conf = torch.zeros(1, 3, 3, device=device)
    conf[0, 1] = torch.tensor([9.0, -9.0, -9.0])  # background for certain: smoothing is dear
    conf[0, 2] = torch.tensor([0.0, 0.5, 0.0])
    target, loc = torch.tensor([[1, 0, 0]], device=device), torch.zeros(1, 3, 4, device=device)
    smooth = F.cross_entropy(conf[0], target[0], reduction="none", label_smoothing=0.5)
    for key, mined in (("ce", 1), ("background", 2)):
        config = MultiBoxConfig(label_smoothing=0.5, mining=MiningConfig(ratio=1.0, key=key))
        found = ops.multibox_loss_on_targets(loc, conf, loc, target, config).classification
        torch.testing.assert_close(found, smooth[0] + smooth[mined])


def test_by_hand(device):
    """Two classes, logits 0: each log p is -log 2; weights 3 and 1, e = 0.2."""
    loc, conf = torch.zeros(1, 2, 4, device=device), torch.zeros(1, 2, 2, device=device)
    target, weights = torch.tensor([[1, 0]], device=device), torch.tensor([3.0, 1.0], device=device)
    config = MultiBoxConfig(label_smoothing=0.2)
    found = ops.multibox_loss_on_targets(loc, conf, loc, target, config, class_weights=weights)
    both = 0.1 * (3 + 1)  # e / C of each class
    expected = math.log(2) * ((0.8 * 1 + both) + (0.8 * 3 + both))
    assert found.classification.item() == pytest.approx(expected, rel=1e-6)
    assert found.num_positives == 1  # the divisor is a count, not a sum of weights


OPTIONS = [
    dict(),
    dict(mining=MiningConfig(cap="all", positive_fill="zero", ratio=50.0, count_positives_twice=True)),
    dict(
        mining=MiningConfig(cap="all", positive_fill="zero", ratio=50.0), ignored_key="zero", ignore_label=2
    ),
    dict(normalizer="selected", background="last", layout="bcp"),
    dict(normalizer="per_image", zero_label="localize"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", ["ce", "background"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_options_are_the_reference(device, smoothing, key, dtype):
    for change in OPTIONS:
        config = MultiBoxConfig(label_smoothing=smoothing, **change)
        config = replace(config, mining=replace(config.mining, key=key))
        for classes in (2, 6, 33):
            case = batch_of(config, (4, 0, 2), width=100, classes=classes, dtype=dtype, device=device)
            assert_same_loss(*case, config, class_weights=weights_of(classes, device))


@pytest.mark.parametrize("key", ["ce", "background"])
def test_smoothing_alone_is_the_reference(device, key):
    """More priors than a tile has."""
    config = MultiBoxConfig(label_smoothing=0.2, mining=MiningConfig(key=key))
    assert_same_loss(*batch_of(config, (4, 0, 2), width=700, classes=21, device=device), config)


def test_a_background_of_no_weight_ranks_by_index(device):
    """Every key is 0 then: ties go to the lowest prior, and the rows mined cost nothing."""
    config = MultiBoxConfig()
    loc, conf, gt, priors = batch_of(config, (3,), device=device)
    conf.requires_grad_()
    weights = torch.ones(6, device=device)
    weights[0] = 0
    loss = ops.multibox_loss(loc, conf, gt, priors, config, class_weights=weights).classification
    positive = ops.match(gt, priors)[0] >= 0
    expected = F.cross_entropy(
        conf[0, positive], gt.labels[ops.match(gt, priors)[0, positive]], reduction="sum"
    )
    torch.testing.assert_close(loss, expected / positive.sum())
    assert not torch.autograd.grad(loss, conf)[0][0, ~positive].any()


@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_gradcheck(device, layout):
    config = MultiBoxConfig(layout=layout, label_smoothing=0.3)
    loc, conf, gt, priors = batch_of(config, (2, 1), width=5, classes=3, dtype=torch.float64, device=device)
    loc.requires_grad_(), conf.requires_grad_()
    weights = weights_of(3, device, torch.float64)
    codes = ops.match(gt, priors, config=config.match)
    assert torch.autograd.gradcheck(
        lambda x, y: ops.multibox_loss(x, y, gt, priors, config, codes=codes, class_weights=weights)[:2],
        (loc, conf),
    )


def test_opcheck_and_compile(device):
    """With every option of the loss that takes another way through the kernels."""
    config = MultiBoxConfig(label_smoothing=0.1, loc_loss="ciou", mining=MiningConfig(scope="batch"))
    loc, conf, gt, priors = batch_of(config, (2, 1), width=30, device=device)
    loc.requires_grad_(), conf.requires_grad_()
    weights = weights_of(6, device)
    targets = (ops.match(gt, priors), gt.boxes, gt.labels, gt.offsets, priors, None, weights)
    options = {**ops.multibox.op_options(config), "with_zeros": False}
    torch.library.opcheck(torch.ops.ssd_cuda.multibox_loss.default, (loc, conf, *targets), options)

    def step(x, y):
        return ops.multibox_loss(x, y, gt, priors, config, class_weights=weights).classification

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(loc, conf)
    torch.testing.assert_close(compiled, step(loc, conf))
    torch.testing.assert_close(
        torch.autograd.grad(compiled, conf), torch.autograd.grad(step(loc, conf), conf)
    )


def test_any_number_of_threads_gives_the_same_bits():
    config = MultiBoxConfig(label_smoothing=0.1, mining=MiningConfig(key="background"))
    loc, conf, gt, priors = batch_of(config, (5, 0, 9), width=700, classes=21)
    loc.requires_grad_(), conf.requires_grad_()
    threads, results = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        losses = ops.multibox_loss(loc, conf, gt, priors, config, class_weights=weights_of(21).fill_(0.7))
        results.append([*losses, *gradients(losses, loc, conf)])
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_modules_hold_their_weights(device):
    loc, conf = torch.randn(2, 40, 4, device=device), torch.randn(2, 40, 5, device=device)
    target = torch.randint(0, 5, (2, 40), device=device) * (torch.rand(2, 40, device=device) < 0.2)
    weights = weights_of(5)
    module = ssd_cuda.nn.SSDLoss(5, class_weights=weights, label_smoothing=0.1).to(device)
    assert [name for name, _ in module.named_buffers()] == ["class_weights"]
    mine = module(loc, conf, loc, target)[1]
    torch.testing.assert_close(mine, by_torch(loc, conf, target, weights.to(device), 0.1))
    config = MultiBoxConfig(label_smoothing=0.1)
    _, _, gt, priors = batch_of(config, (3, 2), width=40, classes=5, device=device)
    module = ssd_cuda.nn.MultiBoxLoss(config, class_weights=weights).to(device)
    expected = ops.multibox_loss(loc, conf, gt, priors, config, class_weights=weights.to(device))
    assert torch.equal(module(loc, conf, gt, priors).classification, expected.classification)
    assert not list(ssd_cuda.nn.MultiBoxLoss(config).state_dict())


LOC, CONF, TARGET = torch.zeros(1, 3, 4), torch.zeros(1, 3, 2), torch.tensor([[1, 0, 0]])


@pytest.mark.parametrize(
    "weights, error, words",
    [
        ([1.0, 1.0], TypeError, "class_weights must be a tensor, got list"),
        (torch.ones(3), ValueError, r"class_weights must have shape \[2\], got \[3\]"),
        (torch.ones(2).int(), TypeError, "class_weights must be float32.*got int32"),
        (torch.tensor([1.0, -0.5]), ValueError, "at least 0, got -0.5 for class 1"),
        (torch.tensor([math.nan, 1.0]), ValueError, "finite and at least 0, got nan for class 0"),
        (torch.tensor([1.0, math.inf]), ValueError, "finite and at least 0, got inf for class 1"),
        (torch.ones(2).requires_grad_(), ValueError, "class_weights must not require a gradient"),
    ],
)
def test_weights_that_are_none_are_refused(weights, error, words):
    with pytest.raises(error, match=words):
        ops.ssd_loss(LOC, CONF, LOC, TARGET, class_weights=weights)
    if "gradient" not in words:
        with pytest.raises(error, match=words):
            ssd_cuda.nn.SSDLoss(2, class_weights=weights)


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_a_smoothing_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="label_smoothing must"):
        MultiBoxConfig(label_smoothing=value)
    with pytest.raises(ValueError, match="label_smoothing must"):
        ops.ssd_loss(LOC, CONF, LOC, TARGET, label_smoothing=value)
    options = {**ops.multibox.op_options(MultiBoxConfig()), "label_smoothing": value, "with_zeros": False}
    with pytest.raises(RuntimeError, match=r"label_smoothing must lie in \[0, 1\)"):
        torch.ops.ssd_cuda.multibox_loss(LOC, CONF, TARGET, LOC, *[None] * 5, **options)
