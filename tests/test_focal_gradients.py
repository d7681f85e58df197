"""The gradients that the forward of the focal loss leaves: the backward's, once, for who can use them."""

from __future__ import annotations

import pytest
import torch
from focal_cases import CHANGES, batch_of, without_gradients
from torch.utils._python_dispatch import TorchDispatchMode

from ssd_cuda import FocalConfig, ops
from ssd_cuda.ops.focal import op_options

SIZES = [(1, 2), (33, 91), (700, 2), (257, 21), (1024, 3), (40, 16), (5, 1030)]


class Backwards(TorchDispatchMode):
    """Counts the calls of the backward."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.count += op._schema.name == "ssd_cuda::focal_loss_backward"
        return op(*args, **(kwargs or {}))


def case_of(config, *sizes, dtype=torch.float32):
    loc, conf, gt, priors = batch_of(config, (2, 0, 3), *sizes, dtype=dtype)
    return loc.requires_grad_(), conf.requires_grad_(), gt, priors, config


def gradients(case, loc_factor=1.0, conf_factor=1.0):
    """Both gradients, and how many backwards were run for them."""
    losses = ops.focal_loss(*case)
    with Backwards() as backwards:
        total = losses.localization * loc_factor + losses.classification * conf_factor
        found = torch.autograd.grad(total, case[:2])
    return found, backwards.count


def made_by_the_backward(case):
    found, count = without_gradients(lambda: gradients(case))
    assert count == 1
    return found


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_are_the_backwards_bits(change, layout):
    case = case_of(FocalConfig(layout=layout, **change))
    found, count = gradients(case)
    assert count == 0
    assert_same(found, made_by_the_backward(case))


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
@pytest.mark.parametrize("width, classes", SIZES)
def test_sizes(form, layout, width, classes):
    """Rows that are fewer or shorter than a vector, tiles and chunks that end early."""
    case = case_of(FocalConfig(form=form, layout=layout), width, classes)
    found, count = gradients(case)
    assert count == 0 and found[1].any()
    assert_same(found, made_by_the_backward(case))


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_an_image_without_a_scale_has_zeros(form):
    """An image of no positives counts nowhere under per_image: even a nan there has the gradient 0."""
    case = case_of(FocalConfig(form=form, normalizer="per_image", clamp_normalizer=False))
    with torch.no_grad():
        case[1][1, 3, 2] = torch.nan
    found, _ = gradients(case)
    assert (found[1][1] == 0).all() and found[1][0].any()
    assert_same(found, made_by_the_backward(case))


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_an_ignored_row_has_zeros_whatever_it_holds(form, layout):
    config = FocalConfig(form=form, layout=layout, ignore_label=-1)
    conf, target = torch.randn(1, 40, 20), torch.randint(0, 20, (1, 40))
    conf[0, 7, 3], conf[0, 9], target[0, [7, 9, 39]] = torch.nan, torch.inf, -1
    if layout == "bcp":
        conf = conf.transpose(1, 2).contiguous()
    loc = torch.zeros(1, 40, 4) if layout == "bpc" else torch.zeros(1, 4, 40)
    loc, conf = loc.requires_grad_(), conf.requires_grad_()
    with Backwards() as backwards:
        losses = ops.focal_loss_on_targets(loc, conf, torch.zeros_like(loc), target, config)
        d_conf = torch.autograd.grad(losses.localization + losses.classification, (loc, conf))[1]
    rows = d_conf if layout == "bpc" else d_conf.transpose(1, 2)
    assert backwards.count == 0 and rows.isfinite().all()
    assert (rows[0, [7, 9, 39]] == 0).all() and rows[0, 8].all()


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_other_factors_are_the_backwards(form):
    case = case_of(FocalConfig(form=form))
    for factors in ((2.0, 1.0), (1.0, 0.5)):
        found, count = gradients(case, *factors)
        assert count == 1
        for ours, one, factor in zip(found, made_by_the_backward(case), factors, strict=True):
            torch.testing.assert_close(ours, one * factor)


def test_a_loss_that_is_not_used_has_the_gradient_zero():
    case = case_of(FocalConfig())
    d_loc, d_conf = torch.autograd.grad(ops.focal_loss(*case).classification, case[:2])
    assert not d_loc.any() and torch.equal(d_conf, made_by_the_backward(case)[1])


def test_a_second_backward_has_its_own():
    case = case_of(FocalConfig(form="softmax"))
    losses = ops.focal_loss(*case)
    total = losses.localization + losses.classification
    first, second = (torch.autograd.grad(total, case[:2], retain_graph=True) for _ in range(2))
    for mine, other in zip(first, second, strict=True):
        assert mine.data_ptr() != other.data_ptr() and torch.equal(mine, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_have_none(dtype):
    config = FocalConfig()
    _, count = gradients(case_of(config, dtype=dtype))
    assert count == 1
    loc, conf, gt, priors, _ = case_of(config, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    codes, boxes, priors = ops.match(gt, priors), gt.boxes.to(wide), priors.to(wide)
    tensors = (loc, conf, codes, boxes, gt.labels, gt.offsets, priors, None)
    with pytest.raises(RuntimeError, match="with_gradients must be False but for float32 on the CPU"):
        torch.ops.ssd_cuda.focal_loss(*tensors, **op_options(config), with_gradients=True)


def test_who_asks_for_them(monkeypatch):
    conf = torch.zeros(1, 2, 3, requires_grad=True)
    wants = ops.focal._wants_gradients
    assert wants(conf) and not wants(conf.detach()) and not wants(conf.double())
    with torch.no_grad():
        assert not wants(conf)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not wants(conf)


def test_under_compile():
    case = case_of(FocalConfig(form="softmax"))
    loc, conf, gt, priors, config = case

    def loss(loc, conf):
        losses = ops.focal_loss(loc, conf, gt, priors, config)
        return losses.localization + losses.classification

    total = torch.compile(loss, backend="aot_eager")(loc, conf)
    assert_same(torch.autograd.grad(total, (loc, conf)), made_by_the_backward(case))
