"""The boxes kernels' device code on the CPU against the reference: every op, dtype and branch."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_boxes, random_priors
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_cuda import ops, reference

DTYPES = [torch.float32, torch.float64]
SIZES = [0, 1, 31, 255, 256, 257, 1000]  # about the block size, 256
NUMBERS = (0.1, 0.15, 0.2, 0.3)


@pytest.fixture(scope="module")
def boxes():
    return kernels("boxes")


def coder(boxes, name, value, priors, *, grad=None, variances=None, numbers=NUMBERS, xyxy=False, **clamp):
    options = {"variance": list(numbers), "xyxy": xyxy, "max_log": math.inf, "symmetric": False, **clamp}
    return getattr(boxes, name)(value, grad, priors, variances, options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, m", [(0, 3), (3, 0), (1, 1), (7, 129), (16, 16), (257, 3)])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_iou(boxes, dtype, n, m, eps):
    a, b = random_boxes(n, dtype=dtype), random_boxes(m, dtype=dtype)
    result = boxes.iou(a, b, {"eps": eps})
    assert torch.equal(result, reference.boxes.box_iou(a, b, eps))


def test_iou_of_bad_boxes(boxes):
    bad = torch.tensor([[1.0, 1, 1, 1], [2, 2, 1, 1], [math.nan, 0, 1, 1], [0, 0, math.inf, 1]])
    result, expected = boxes.iou(bad, bad, {"eps": 0.0}), reference.boxes.box_iou(bad, bad)
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("prior_format", ["cxcywh", "xyxy"])
@pytest.mark.parametrize("per_prior", [False, True])
def test_encode_decode(boxes, dtype, rows, prior_format, per_prior):
    priors = random_priors(rows, dtype=dtype)
    if prior_format == "xyxy":
        priors = reference.boxes.to_xyxy(priors)
    variances = 0.1 + torch.rand(rows, 4, dtype=dtype) if per_prior else None
    options = dict(variances=variances, xyxy=prior_format == "xyxy")
    used = NUMBERS if variances is None else variances
    truth = random_boxes(rows, dtype=dtype)
    loc = coder(boxes, "encode", truth, priors, **options)
    torch.testing.assert_close(loc, reference.boxes.encode(truth, priors, used, prior_format))
    decoded = coder(boxes, "decode", loc, priors, **options)
    torch.testing.assert_close(decoded, reference.boxes.decode(loc, priors, used, prior_format))
    torch.testing.assert_close(decoded, truth)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_the_cpu_kernels(boxes, dtype):
    """exp and log are the same formula on every device, in float64 too."""
    priors, truth = random_priors(300, dtype=dtype), random_boxes(300, dtype=dtype)
    assert torch.equal(coder(boxes, "encode", truth, priors), ops.encode(truth, priors, NUMBERS))
    loc = 3 * torch.randn(300, 4, dtype=dtype)
    assert torch.equal(coder(boxes, "decode", loc, priors), ops.decode(loc, priors, NUMBERS))


def test_priors_repeat_over_the_batch(boxes):
    priors, loc = random_priors(5), torch.randn(15, 4)
    expected = reference.boxes.decode(loc.reshape(3, 5, 4), priors, NUMBERS)
    torch.testing.assert_close(coder(boxes, "decode", loc, priors), expected.reshape(15, 4))
    variances = 0.1 + torch.rand(5, 4)  # they repeat as their priors do
    expected = reference.boxes.decode(loc.reshape(3, 5, 4), priors, variances)
    result = coder(boxes, "decode", loc, priors, variances=variances)
    torch.testing.assert_close(result, expected.reshape(15, 4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clamp", [{}, {"max_log": 0.1}, {"max_log": 0.1, "symmetric": True}])
def test_backward(boxes, dtype, clamp):
    priors, truth = random_priors(300, dtype=dtype), random_boxes(300, dtype=dtype)
    loc, grad = torch.randn(300, 4, dtype=dtype), torch.randn(300, 4, dtype=dtype)
    limits = {"max_log_scale": clamp.get("max_log"), "symmetric_log_scale": clamp.get("symmetric", False)}
    cases = {
        "decode_backward": (loc, lambda v: reference.boxes.decode(v, priors, NUMBERS, **limits), clamp),
        "encode_backward": (truth, lambda v: reference.boxes.encode(v, priors, NUMBERS), {}),
    }
    for name, (value, forward, options) in cases.items():
        leaf = value.clone().requires_grad_()
        (expected,) = torch.autograd.grad(forward(leaf), leaf, grad)
        result = coder(boxes, name, value, priors, grad=grad, **options)
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_gradient_at_the_clamp(boxes, symmetric):
    """A size at the limit is not cut yet; one that is not a number has no gradient that is one."""
    loc = torch.tensor([0.0, 0, 1, 1]) * torch.tensor([[0.25], [0.26], [-0.25], [-0.26], [math.nan]])
    ones = torch.ones(5, 4)
    options = dict(numbers=(1.0, 1, 1, 1), max_log=0.25, symmetric=symmetric)
    result = coder(boxes, "decode_backward", loc, random_priors(5), grad=ones.cumsum(1), **options)
    assert result[:4, 2].ne(0).tolist() == [True, False, True, not symmetric]
    assert result[4, 2:].isnan().all()


numbers = st.floats(-4, 4, width=32)


@settings(max_examples=fuzz_examples(), deadline=None)
@given(
    a=st.lists(st.tuples(*[numbers] * 4), min_size=1, max_size=40),
    b=st.lists(st.tuples(*[numbers] * 4), min_size=1, max_size=40),
    eps=st.sampled_from([0.0, 1e-5, 1.0]),
)
def test_fuzz_iou(a, b, eps):
    first, second = torch.tensor(a), torch.tensor(b)
    result = kernels("boxes").iou(first, second, {"eps": eps})
    assert torch.equal(result.nan_to_num(), reference.boxes.box_iou(first, second, eps).nan_to_num())


@settings(max_examples=fuzz_examples(), deadline=None)
@given(
    priors=st.integers(1, 90),
    batch=st.integers(1, 8),
    seed=st.integers(0, 2**31),
    xyxy=st.booleans(),
    max_log=st.sampled_from([math.inf, 0.5]),
    symmetric=st.booleans(),
)
def test_fuzz_decode(priors, batch, seed, xyxy, max_log, symmetric):
    generator = torch.Generator().manual_seed(seed)
    prior = random_priors(priors, generator=generator)
    if xyxy:
        prior = reference.boxes.to_xyxy(prior)
    loc = 3 * torch.randn(batch * priors, 4, generator=generator)
    result = coder(kernels("boxes"), "decode", loc, prior, xyxy=xyxy, max_log=max_log, symmetric=symmetric)
    expected = reference.boxes.decode(
        loc.reshape(batch, priors, 4), prior, NUMBERS, "xyxy" if xyxy else "cxcywh", max_log, symmetric
    )
    torch.testing.assert_close(result, expected.reshape(-1, 4))
