"""focal_loss: the reference, torchvision's sigmoid_focal_loss, hand-worked cases, gradients, errors."""

from __future__ import annotations

import math

import pytest
import torch
from focal_cases import CHANGES, WEIGHTS, assert_close, batch_of, reference_of
from simd_levels import at_every_level

from ssd_cuda import FocalConfig, nn, ops, reference
from ssd_cuda.ops.focal import op_options

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def run(loc, conf, gt, priors, config, device="cpu"):
    loc, conf = (t.detach().to(device).requires_grad_() for t in (loc, conf))
    losses = ops.focal_loss(loc, conf, gt.to(device), priors.to(device), config)
    total = losses[0] * WEIGHTS[0] + losses[1] * WEIGHTS[1]
    return losses, torch.autograd.grad(total, (loc, conf))


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize(
    "layout, dtype", [*(("bpc", dtype) for dtype in DTYPES), ("bcp", torch.float32), ("bcp", torch.float16)]
)
def test_the_references_loss_and_gradients(device, change, layout, dtype):
    config = FocalConfig(layout=layout, **change)
    case = batch_of(config, dtype=dtype)
    assert_close(run(*case, config, device), reference_of(*case, config), dtype)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    "width, classes", [(1, 1), (1, 2), (700, 2), (33, 91), (1024, 3), (5, 1030), (300, 21)]
)
def test_sizes(device, form, width, classes):
    """Images of less than a chunk of 1024 logits, of some, and rows longer than one."""
    config = FocalConfig(form=form)
    case = batch_of(config, (2, 1), width, classes)
    if classes == 1:
        case[2].labels.zero_()
    assert_close(run(*case, config, device), reference_of(*case, config), torch.float32)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("counts, width", [((), 9), ((0, 0), 0), ((0, 0), 9)])
@pytest.mark.parametrize("normalizer", ["batch", "per_image", "selected", "batch_min_one"])
def test_nothing_to_sum(device, form, counts, width, normalizer):
    for clamp in (True, False):
        config = FocalConfig(form=form, normalizer=normalizer, clamp_normalizer=clamp)
        case = batch_of(config, counts, width)
        assert_close(run(*case, config, device), reference_of(*case, config), torch.float32)


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (None, 0.0), (0.9, 1.3)])
def test_is_torchvisions_sigmoid_focal_loss(device, alpha, gamma):
    theirs = pytest.importorskip("torchvision.ops").sigmoid_focal_loss
    conf = 4 * torch.randn(2, 300, 7, device=device)
    target = torch.randint(-1, 7, (2, 300), device=device)  # -1 is the background, 3 is ignored
    config = FocalConfig(alpha=alpha, gamma=gamma, background="none", ignore_label=3)
    ours, expected = conf.clone().requires_grad_(), conf.clone().requires_grad_()
    loc = torch.zeros(2, 300, 4, device=device)
    loss = ops.focal_loss_on_targets(loc, ours, loc, target, config).classification
    counts = target != 3
    true = torch.nn.functional.one_hot(target.clamp(min=0), 7) * (target >= 0)[..., None]
    summed = theirs(expected[counts], true[counts].float(), -1 if alpha is None else alpha, gamma, "sum")
    want = summed / (counts & (target >= 0)).sum()
    torch.testing.assert_close(loss, want, rtol=2e-6, atol=0)
    loss.backward(), want.backward()
    torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-7)


def test_softmax_form_of_gamma_0_is_the_cross_entropy(device):
    conf, target = 3 * torch.randn(1, 200, 9, device=device), torch.randint(0, 9, (1, 200), device=device)
    config = FocalConfig(form="softmax", alpha=None, gamma=0.0, normalizer="selected")
    loc = torch.zeros(1, 200, 4, device=device)
    ours, theirs = conf.clone().requires_grad_(), conf.clone().requires_grad_()
    loss = ops.focal_loss_on_targets(loc, ours, loc, target, config).classification
    want = torch.nn.functional.cross_entropy(theirs[0], target[0])
    torch.testing.assert_close(loss, want)
    loss.backward(), want.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def test_by_hand(device):
    """Logits 0: p = 1/2 everywhere. log(2) / 4 a column, .25 of it where it is the label's, else .75."""
    conf, loc = torch.zeros(1, 2, 3, device=device), torch.zeros(1, 2, 4, device=device)
    target = torch.tensor([[2, 0]], device=device)
    losses = ops.focal_loss_on_targets(loc, conf, loc + 2, target)
    assert losses.num_positives.item() == 1
    assert losses.localization.item() == 4 * 1.5
    assert losses.classification.item() == pytest.approx(math.log(2) / 4 * (0.25 + 5 * 0.75))
    softmax = FocalConfig(form="softmax")  # (2/3)^2 log 3, .25 and .75 of it
    value = ops.focal_loss_on_targets(loc, conf, loc + 2, target, softmax).classification.item()
    assert value == pytest.approx(4 / 9 * math.log(3))


@pytest.mark.parametrize("change", CHANGES[:8], ids=str)
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_gradcheck(change, layout):
    config = FocalConfig(layout=layout, match={"candidate_max_iou": 0.3}, **change)
    loc, conf, gt, priors = batch_of(config, (2, 1), 12, 4, torch.float64)

    def loss(x, y):
        return ops.focal_loss(x, y, gt, priors, config)[:2]

    assert torch.autograd.gradcheck(loss, (loc.requires_grad_(), conf.requires_grad_()))


def test_easy_and_hopeless_logits(device):
    """An easy row has the loss that it has in float64, down to numbers that 1 + exp(-x) does not hold."""
    conf = torch.linspace(-100, 100, 801, device=device).reshape(1, 267, 3)
    target = torch.randint(-1, 3, (1, 267), device=device)
    loc = torch.zeros(1, 267, 4, device=device)
    for config in (
        FocalConfig(background="none", gamma=0.0),
        FocalConfig(background="none", gamma=0.5),
        FocalConfig(background="none"),
    ):
        x = conf.clone().requires_grad_()
        exact = conf.double().requires_grad_()
        loss = ops.focal_loss_on_targets(loc, x, loc, target, config).classification
        want = reference.focal.focal_loss_on_targets(
            loc.double(), exact, loc.double(), target,
            form="sigmoid", alpha=0.25, gamma=config.gamma, background=-1,
        )[1]  # fmt: skip
        torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=0)
        loss.backward(), want.backward()
        torch.testing.assert_close(
            x.grad.double(), exact.grad, rtol=1e-5, atol=1e-16
        )  # torch: sigmoid(x) - 1


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_bad_numbers_stay_in_their_rows(device, form):
    """A nan in a row that counts makes the loss nan; in an ignored one nothing, not even a gradient."""
    config = FocalConfig(form=form, ignore_label=-1)
    conf, loc = torch.randn(1, 9, 3, device=device), torch.zeros(1, 9, 4, device=device)
    conf[0, 4, 1] = math.nan
    conf[0, 5] = math.inf
    target = torch.tensor([[1, 0, 2, 0, -1, -1, 0, 1, 0]], device=device)
    x = conf.clone().requires_grad_()
    loss = ops.focal_loss_on_targets(loc, x, loc, target, config).classification
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all() and (x.grad[0, 4:6] == 0).all()
    target[0, 4] = 2
    assert ops.focal_loss_on_targets(loc, conf, loc, target, config).classification.isnan()


def test_a_class_that_is_none_is_nan(device):
    conf, loc = torch.zeros(1, 5, 3, device=device), torch.zeros(1, 5, 4, device=device)
    target = torch.tensor([[1, 0, 7, 0, 0]], device=device)
    for form in ("sigmoid", "softmax"):
        options = op_options(FocalConfig(form=form))
        found = torch.ops.ssd_cuda.focal_loss(
            loc, conf, target, loc, *(None,) * 4, **options, with_gradients=False
        )
        assert found[1].isnan() and found[0].item() == 0


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_strides(device, form):
    """One head for both: rows of 10 numbers; images that lie apart; a row for all priors."""
    config = FocalConfig(form=form)
    loc, conf, gt, priors = batch_of(config, (2, 3))
    loc, conf, gt, priors = (t.to(device) for t in (loc, conf, gt, priors))
    expected = run(loc, conf, gt, priors, config, device)
    joined = torch.cat([loc, conf], -1)
    views = [
        (joined[..., :4], joined[..., 4:]),
        (loc.transpose(0, 1).contiguous().transpose(0, 1), conf.transpose(0, 1).contiguous().transpose(0, 1)),
    ]
    for x, y in views:
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        losses = ops.focal_loss(x, y, gt, priors, config)
        assert torch.equal(torch.stack(losses[:2]), torch.stack(expected[0][:2]))
        total = losses[0] * WEIGHTS[0] + losses[1] * WEIGHTS[1]
        for ours, theirs in zip(torch.autograd.grad(total, (x, y)), expected[1], strict=True):
            assert torch.equal(ours, theirs)
    one = conf[:, :1].expand_as(conf)
    dense = run(loc, one.contiguous(), gt, priors, config, device)
    assert torch.equal(ops.focal_loss(loc, one, gt, priors, config).classification, dense[0][1])


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_at_every_instruction_set(form, dtype):
    config = FocalConfig(form=form, gamma=1.7)
    case = batch_of(config, width=333, dtype=dtype)

    def bits():
        losses, gradients = run(*case, config)
        return [*losses, *gradients]

    at_every_level(bits)


def test_module_and_process_of_one():
    config = {"form": "softmax", "normalizer": "global"}
    case = batch_of(FocalConfig(**config))
    ours, batch = nn.FocalLoss(config)(*case), ops.focal_loss(*case, FocalConfig(form="softmax"))
    torch.testing.assert_close(ours.classification, batch.classification)
    torch.testing.assert_close(ours.localization, batch.localization)
    assert "form='softmax'" in repr(nn.FocalLoss(config))


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_opcheck_and_compile(form):
    config = FocalConfig(form=form)
    loc, conf, gt, priors = batch_of(config, (2, 1), 20)
    loc, conf = loc.requires_grad_(), conf.requires_grad_()
    codes = ops.match(gt, priors)
    tensors = (loc, conf, codes, gt.boxes, gt.labels, gt.offsets, priors, None)
    for wants in (False, True):
        options = {**op_options(config), "with_gradients": wants}
        torch.library.opcheck(torch.ops.ssd_cuda.focal_loss.default, tensors, options)
    with pytest.raises(NotImplementedError, match="focal_loss has a first derivative only"):
        (grad,) = torch.autograd.grad(
            ops.focal_loss(loc, conf, gt, priors, config).classification, conf, create_graph=True
        )
        grad.sum().backward()


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: FocalConfig(gamma=-1.0), ValueError, r"gamma must lie in \[0.0, inf\], got -1.0"),
        (lambda: FocalConfig(alpha=1.5), ValueError, r"alpha must lie in \[0.0, 1.0\], got 1.5"),
        (
            lambda: FocalConfig(form="softmax", background="none"),
            ValueError,
            "background must be 'first' or 'last' for form='softmax', got 'none'",
        ),
        (
            lambda: ops.focal_loss(*batch_of(FocalConfig(), classes=3)[:2], *batch_of(FocalConfig())[2:]),
            ValueError,
            r"gt.labels of focal_loss must give a class in \[0, 3\), got \d as label \d+",
        ),
        (
            lambda: ops.focal_loss_on_targets(
                torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.tensor([[1, 3]])
            ),
            ValueError,
            r"conf_target must lie in \[0, 3\), got 3",
        ),
        (
            lambda: ops.focal_loss_on_targets(
                torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.tensor([[1, -2]]),
                FocalConfig(background="none"),
            ),
            ValueError,
            r"conf_target must lie in \[-1, 3\), got -2",
        ),
        (
            lambda: ops.focal_loss(torch.zeros(1, 2, 4), torch.zeros(2, 3), None, None),
            ValueError,
            r"conf must have shape \[B, P, C\], got \[2, 3\]",
        ),
    ],
)  # fmt: skip
def test_errors(call, error, words):
    torch.manual_seed(0)
    with pytest.raises(error, match=words):
        call()
