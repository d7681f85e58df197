"""boxes: IoU, encode, decode against the reference, torchvision, gradcheck and hand-worked cases."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import ops, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, m", [(0, 0), (0, 3), (3, 0), (1, 1), (7, 129), (300, 41)])
def test_iou_is_the_reference_bit_for_bit(device, dtype, n, m):
    a, b = random_boxes(n, dtype=dtype).to(device), random_boxes(m, dtype=dtype).to(device)
    result = ops.box_iou(a, b)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert torch.equal(result, reference.boxes.box_iou(a.to(wide), b.to(wide)))


def test_iou_is_torchvisions_bit_for_bit(device):
    box_ops = pytest.importorskip("torchvision.ops")
    a, b = random_boxes(200, size=300).to(device), random_boxes(150, size=300).to(device)
    assert torch.equal(ops.box_iou(a, b), box_ops.box_iou(a, b))


def test_iou_by_hand(device):
    a = torch.tensor([[0.0, 0, 2, 2]], device=device)
    b = torch.tensor([[1.0, 1, 3, 3], [2, 2, 3, 3], [0, 0, 2, 2], [0.5, 0.5, 1.5, 1.5]], device=device)
    assert ops.box_iou(a, b)[0].tolist() == pytest.approx([1 / 7, 0.0, 1.0, 0.25])
    assert ops.box_iou(a, b, eps=1.0)[0].tolist() == pytest.approx([1 / 8, 0.0, 4 / 5, 1 / 5])


def test_iou_of_bad_boxes_is_what_torch_gives(device):
    bad = torch.tensor(
        [[1.0, 1, 1, 1], [2, 2, 1, 1], [math.nan, 0, 1, 1], [0, 0, math.inf, 1]], device=device
    )
    result, expected = ops.box_iou(bad, bad), reference.boxes.box_iou(bad, bad)
    assert torch.equal(result.isnan(), expected.isnan())
    assert torch.equal(result.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (257,), (2, 33), (0, 5), (2, 3, 4)])
@pytest.mark.parametrize("prior_format", ["cxcywh", "xyxy"])
@pytest.mark.parametrize("variances", [(0.1, 0.2), (0.1, 0.15, 0.2, 0.3), "tensor"])
def test_encode_decode_match_the_reference(device, dtype, shape, prior_format, variances):
    priors = random_priors(shape[-1]).to(device)
    if prior_format == "xyxy":
        priors = reference.boxes.to_xyxy(priors)
    if variances == "tensor":
        variances = 0.1 + torch.rand(shape[-1], 4, device=device)
    boxes = random_boxes(math.prod(shape)).reshape(*shape, 4).to(device, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    keep = (boxes[..., 2:] > boxes[..., :2]).all(-1)  # half precision can close a box
    var = variances.to(wide) if isinstance(variances, torch.Tensor) else variances

    loc = ops.encode(boxes, priors, variances, prior_format=prior_format)
    expected = reference.boxes.encode(boxes.to(wide), priors.to(wide), var, prior_format)
    assert loc.dtype == wide
    torch.testing.assert_close(loc[keep], expected[keep], rtol=2e-5, atol=2e-5)

    back = ops.decode(loc, priors, variances, prior_format=prior_format)
    torch.testing.assert_close(back[keep], boxes.to(wide)[keep], rtol=1e-4, atol=1e-5)


def test_decode_is_torchvisions(device):
    coder_module = pytest.importorskip("torchvision.models.detection._utils")
    coder = coder_module.BoxCoder((10.0, 10.0, 5.0, 5.0))
    priors = random_boxes(500, size=300).to(device)
    loc = torch.randn(500, 4, device=device) * 4
    expected = coder.decode_single(loc, priors)
    limit = math.log(1000 / 16)
    result = ops.decode(loc, priors, prior_format="xyxy", max_log_scale=limit)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-3)
    boxes = random_boxes(500, size=300).to(device)
    torch.testing.assert_close(
        ops.encode(boxes, priors, prior_format="xyxy"),
        coder.encode_single(boxes, priors),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_decode_clamps(device, symmetric):
    priors = torch.tensor([[0.5, 0.5, 1.0, 1.0]], device=device)
    loc = torch.tensor([[0.0, 0.0, 50.0, -50.0]], device=device)
    box = ops.decode(loc, priors, (1.0, 1.0), max_log_scale=math.log(4), symmetric_log_scale=symmetric)[0]
    assert (box[2] - box[0]).item() == pytest.approx(4.0)
    assert (box[3] - box[1]).item() == pytest.approx(0.25 if symmetric else 0.0, abs=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_gradient_at_the_clamp(device, symmetric):
    """A size at the limit is not cut yet; one that is not a number has no gradient that is one."""
    sizes = torch.tensor([0.25, 0.26, -0.25, -0.26, math.nan], device=device)
    loc = torch.stack([0 * sizes, 0 * sizes, sizes, sizes], 1).requires_grad_()
    options = dict(max_log_scale=0.25, symmetric_log_scale=symmetric)
    boxes = ops.decode(loc, random_priors(5).to(device), (1.0, 1.0), **options)
    (grad,) = torch.autograd.grad(boxes[:, 2:].sum(), loc)
    assert grad[:4, 2].ne(0).tolist() == [True, False, True, not symmetric]
    assert grad[4, 2:].isnan().all()


@pytest.mark.parametrize("per_prior", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_gradients(device, per_prior, batched):
    priors = random_priors(5, dtype=torch.float64).to(device)
    shape = (2, 5, 4) if batched else (5, 4)
    var = 0.2 + torch.rand(5, 4, device=device, dtype=torch.float64) if per_prior else (0.1, 0.2)
    loc = torch.randn(*shape, device=device, dtype=torch.float64, requires_grad=True)
    boxes = random_boxes(10 if batched else 5, dtype=torch.float64).reshape(shape).to(device)
    boxes = boxes.requires_grad_()
    for options in ({}, {"max_log_scale": 0.1}, {"max_log_scale": 0.1, "symmetric_log_scale": True}):
        assert torch.autograd.gradcheck(lambda x, o=options: ops.decode(x, priors, var, **o), loc)
    assert torch.autograd.gradcheck(lambda x: ops.encode(x, priors, var), boxes)


@pytest.mark.parametrize("prior_format", ["cxcywh", "xyxy"])
@pytest.mark.parametrize("options", [{}, {"max_log_scale": 0.1, "symmetric_log_scale": True}])
def test_gradients_in_single_precision(device, prior_format, options):
    """Whole vectors of rows and some more, against the formulas in float64."""
    priors, var = random_priors(75).to(device), 0.2 + torch.rand(75, 4, device=device)
    if prior_format == "xyxy":
        priors = reference.boxes.to_xyxy(priors)
    grad, loc = torch.randn(2, 2, 75, 4, device=device)
    boxes = random_boxes(150).reshape(2, 75, 4).to(device)
    for op, rows, more in ((ops.decode, loc, options), (ops.encode, boxes, {})):
        results = []
        for dtype in (torch.float32, torch.float64):
            x = rows.to(dtype).requires_grad_()
            coded = op(x, priors.to(dtype), var.to(dtype), prior_format=prior_format, **more)
            results.append(torch.autograd.grad(coded, x, grad.to(dtype))[0])
        torch.testing.assert_close(results[0], results[1].float(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("op", [ops.encode, ops.decode])
def test_a_second_derivative_is_refused(device, op):
    rows = random_boxes(5).to(device).requires_grad_()
    (grad,) = torch.autograd.grad(op(rows, random_priors(5).to(device)).exp().sum(), rows, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"box_{op.__name__} has a first derivative only"):
        grad.sum().backward()


def test_views_are_accepted(device):
    wide = torch.rand(11, 9, device=device)
    boxes = wide[::2, 1:5]  # strided and misaligned
    flat = torch.rand(49, device=device)
    priors = flat[1:25].view(6, 4) + 0.1
    assert torch.equal(ops.decode(boxes, priors), ops.decode(boxes.clone(), priors.clone()))
    expanded = boxes[:1].expand(6, 4)
    assert torch.equal(ops.box_iou(expanded, priors), ops.box_iou(expanded.clone(), priors))


def test_opcheck(device):
    boxes, priors = random_boxes(6).to(device), random_priors(6).to(device)
    namespace = torch.ops.ssd_cuda
    options = {"variance": [0.1, 0.1, 0.2, 0.2], "xyxy": False}
    torch.library.opcheck(namespace.box_iou.default, (boxes, priors), {"eps": 0.0})
    torch.library.opcheck(namespace.box_encode.default, (boxes.requires_grad_(), priors, None), options)
    loc = torch.randn(2, 6, 4, device=device, requires_grad=True)
    options |= {"max_log": 4.0, "symmetric": False}
    torch.library.opcheck(namespace.box_decode.default, (loc, priors, None), options)


def test_compiles_without_a_break(device):
    priors = random_priors(8).to(device)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(loc):
        return ops.decode(loc, priors).sum()

    loc = torch.randn(8, 4, device=device, requires_grad=True)
    step(loc).backward()
    expected = torch.autograd.grad(ops.decode(loc, priors).sum(), loc)[0]
    torch.testing.assert_close(loc.grad, expected)


BOX = torch.zeros(3, 4)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ops.box_iou([1], BOX), TypeError, "boxes1 must be a tensor, got list"),
        (
            lambda: ops.box_iou(torch.zeros(3, 5), BOX),
            ValueError,
            r"boxes1 must have shape \[N, 4\], got \[3, 5\]",
        ),
        (lambda: ops.box_iou(BOX.int(), BOX), TypeError, "boxes1 must be float32.*got int32"),
        (lambda: ops.box_iou(BOX, BOX.double()), TypeError, "boxes2 must be float32, got float64"),
        (lambda: ops.box_iou(BOX, BOX, eps=-1), ValueError, r"eps must lie in \[0.0, inf\], got -1"),
        (
            lambda: ops.box_iou(BOX.clone().requires_grad_(), BOX),
            ValueError,
            "boxes1 must not require a gradient",
        ),
        (lambda: ops.encode(BOX, BOX[:2]), ValueError, r"priors must have shape \[..., 3, 4\], got \[2, 4\]"),
        (  # priors of fewer images do not start again
            lambda: ops.encode(BOX.expand(4, 3, 4), BOX.expand(2, 3, 4)),
            ValueError,
            r"priors must have shape \[P, 4\] or \[4, 3, 4\], got \[2, 3, 4\]",
        ),
        (
            lambda: ops.decode(BOX.expand(2, 3, 4), BOX[None]),
            ValueError,
            r"priors must have shape \[P, 4\] or \[2, 3, 4\], got \[1, 3, 4\]",
        ),
        (
            lambda: ops.encode(BOX, BOX, (0.1,)),
            ValueError,
            r"variances must be 2 or 4 positive numbers, got \(0.1,\)",
        ),
        (
            lambda: ops.decode(BOX, BOX, prior_format="ltrb"),
            ValueError,
            "prior_format must be one of 'cxcywh', 'xyxy'",
        ),
        (
            lambda: ops.decode(BOX, BOX, max_log_scale=-1),
            ValueError,
            r"max_log_scale must lie in \[0.0, inf\]",
        ),
        (lambda: ops.decode(BOX, BOX.to("meta")), ValueError, "must be on one device, got cpu, meta"),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()
