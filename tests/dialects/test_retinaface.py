"""biubug6/Pytorch_Retinaface: its drop-ins, its landmarks."""

from __future__ import annotations

import pytest
import torch
from compat_scene import B, P, assert_same, scene
from conftest import random_boxes

from ssd_cuda import DetectConfig, ops
from ssd_cuda.compat import retinaface
from ssd_cuda.reference.dialects import retinaface as retinaface_rule


def test_retinaface_multibox_loss():
    loc, _, priors, boxes, _ = scene()
    conf = torch.randn(B, P, 2, requires_grad=True)
    landm = torch.randn(B, P, 10, requires_grad=True)
    labels = [torch.tensor([1, -1] * 5)[: len(b)] for b in boxes]
    points = [torch.rand(len(b), 10) for b in boxes]
    targets = [
        torch.cat([b, p, n[:, None].float()], 1) for b, p, n in zip(boxes, points, labels, strict=True)
    ]
    criterion = retinaface.MultiBoxLoss(2, 0.35, True, 0, True, 7, 0.35, False)
    loss_l, loss_c, loss_landm = criterion((loc, conf, landm), priors, targets)
    weighted, expected_c = retinaface_rule.loss(loc, conf, boxes, labels, priors)
    assert_same((loss_l, loss_c), (weighted / 2, expected_c), (loc, conf))

    total, count = torch.zeros(()), 0
    for i in range(B):  # that codebase's landmark term, one prior at a time
        owner, _ = retinaface_rule.assign(boxes[i], labels[i], priors)
        for prior in (owner >= 0).nonzero()[:, 0].tolist():
            if labels[i][owner[prior]] > 0:
                target = points[i][owner[prior]].view(5, 2) - priors[prior, :2]
                target = (target / (0.1 * priors[prior, 2:])).flatten()
                total = total + torch.nn.functional.smooth_l1_loss(landm[i, prior], target, reduction="sum")
                count += 1
    torch.testing.assert_close(loss_landm, total / max(count, 1), rtol=1e-5, atol=1e-5)
    assert landm.grad is None and torch.autograd.grad(loss_landm, landm)[0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_predictions_have_the_landmark_targets_of_float32(dtype):
    """As in that codebase: a prior 0.02 wide divides by 0.002, and with it what half has rounded."""
    loc, _, priors, boxes, _ = scene()
    targets = [torch.cat([b, torch.rand(len(b), 10), torch.ones(len(b), 1)], 1) for b in boxes]
    halves = [x.detach().to(dtype) for x in (loc, torch.randn(B, P, 2), torch.randn(B, P, 10))]
    found = retinaface.MultiBoxLoss()(halves, priors, targets)
    expected = retinaface.MultiBoxLoss()([x.float() for x in halves], priors, targets)
    assert [loss.dtype for loss in found] == [torch.float32] * 3 and expected[2] > 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_constructor_numbers_take_effect():
    loc, _, priors, boxes, _ = scene()
    conf, landm = torch.randn(B, P, 2), torch.randn(B, P, 10)
    targets = [torch.cat([b, torch.rand(len(b), 10), torch.ones(len(b), 1)], 1) for b in boxes]

    def losses(overlap, ratio):
        return retinaface.MultiBoxLoss(2, overlap, True, 0, True, ratio, 0.35, False)(
            (loc, conf, landm), priors, targets
        )

    usual, fewer, strict = losses(0.35, 7), losses(0.35, 1), losses(0.95, 7)
    assert fewer[1] < usual[1] and fewer[0] == usual[0]  # negatives have no place in the first loss
    assert strict[0] != usual[0] and strict[2] != usual[2]


def test_a_face_without_width_forces_no_prior_as_there():
    """Its best IoU, 0, is below the .2 that code demands of a forced prior."""
    loc, _, priors, boxes, _ = scene()
    conf, landm = torch.randn(B, P, 2), torch.randn(B, P, 10)
    boxes[1][0, 2] = boxes[1][0, 0]
    targets = [torch.cat([b, torch.rand(len(b), 10), torch.ones(len(b), 1)], 1) for b in boxes]
    ours = retinaface.MultiBoxLoss()((loc, conf, landm), priors, targets)
    labels = [torch.ones(len(b), dtype=torch.int64) for b in boxes]
    theirs = retinaface_rule.loss(loc, conf, boxes, labels, priors)
    torch.testing.assert_close(ours[:2], (theirs[0] / 2, theirs[1]), rtol=1e-5, atol=1e-5)
    assert ours[2].isfinite()


def test_retinaface_without_faces():
    loc, _, priors, _, _ = scene()
    conf, landm = torch.randn(B, P, 2), torch.randn(B, P, 10)
    losses = retinaface.MultiBoxLoss()((loc, conf, landm), priors, [torch.zeros(0, 15)] * B)
    assert [loss.item() for loss in losses] == [0.0, 0.0, 0.0]


def test_retinaface_py_cpu_nms():
    rows = torch.cat([random_boxes(300, size=50), torch.rand(300, 1)], 1)
    assert retinaface.py_cpu_nms(rows.numpy(), 0.4) == retinaface_rule.py_cpu_nms(rows, 0.4)


def test_py_cpu_nms_rounds_the_threshold_as_that_codebase_does():
    """IoU = float32(2/5), a little above 0.4 (sides measured as x2 - x1 + 1): numpy keeps such a box."""
    rows = torch.tensor([[0.0, 0, 9, 0, 0.9], [6.0, 0, 9, 0, 0.8], [0.0, 0, 4, 0, 0.7]])
    assert retinaface.py_cpu_nms(rows.numpy(), 0.4) == retinaface_rule.py_cpu_nms(rows, 0.4) == [0, 1]


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("prior_format", ["cxcywh", "xyxy"])
def test_landmarks_of_what_was_found(device, own, prior_format):
    """decode_landm row by row: centre + code * .1 * size of the prior of each detection."""
    loc, _, priors, _, _ = scene()
    conf, codes = 3 * torch.randn(B, P, 2), torch.randn(B, P, 10)
    each = torch.stack([priors * (1 + 0.1 * b) for b in range(B)]) if own else priors
    given = torch.cat([each[..., :2] - each[..., 2:] / 2, each[..., :2] + each[..., 2:] / 2], -1)
    given = given if prior_format == "xyxy" else each
    config = DetectConfig.preset(
        "retinaface", pixel_offset=0.0, prior_format=prior_format, detections_per_image=P
    )
    inputs = [x.to(device) for x in (loc.detach(), conf, given)]
    found = ops.detect(*inputs, config, extra=codes.to(device))
    points = ops.decode_landmarks(found, inputs[2], prior_format=prior_format).cpu()
    assert points.shape == (B, P, 10) and int(found.counts.min()) > 5
    for b in range(B):
        n = int(found.counts[b])
        for k in range(n):
            row = int(found.prior_indices[b, k])
            cx, cy, w, h = (each[b] if own else each)[row].tolist()
            x, y = codes[b, row, 0::2] * 0.1 * w + cx, codes[b, row, 1::2] * 0.1 * h + cy
            torch.testing.assert_close(points[b, k], torch.stack([x, y], 1).flatten(), rtol=1e-5, atol=1e-6)
        assert (points[b, n:] == 0).all()


def test_landmarks_of_nothing():
    found = ops.detect(
        torch.zeros(2, 0, 4), torch.zeros(2, 0, 2), torch.zeros(0, 4), extra=torch.zeros(2, 0, 10)
    )
    assert ops.decode_landmarks(found, torch.zeros(0, 4)).shape == (2, 200, 10)


def test_landmark_errors():
    loc, conf, priors = torch.zeros(1, 3, 4), torch.zeros(1, 3, 2), torch.rand(3, 4)
    plain = ops.detect(loc, conf, priors)
    with pytest.raises(
        TypeError, match="found must be Detections with landmark codes as extra, got Detections"
    ):
        ops.decode_landmarks(plain, priors)
    with pytest.raises(TypeError, match=r"found must be Detections .* got list"):
        ops.decode_landmarks([plain], priors)
    odd = ops.detect(loc, conf, priors, extra=torch.zeros(1, 3, 9))
    with pytest.raises(ValueError, match=r"found.extra must have an even number of columns, x and y, got 9"):
        ops.decode_landmarks(odd, priors)
    even = ops.detect(loc, conf, priors, extra=torch.zeros(1, 3, 10))
    with pytest.raises(ValueError, match=r"priors must have shape \[P, 4\], got \[3, 5\]"):
        ops.decode_landmarks(even, torch.rand(3, 5))
    for variance in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="variance must"):
            ops.decode_landmarks(even, priors, variance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_landmarks_of_half_codes_are_float32_and_of_double_codes_double(dtype):
    """A code of 1/3 at a prior of 1,000 pixels: 33.3 of them, more digits than float16 has."""
    priors = torch.tensor([[0.0, 0.0, 1000.0, 1000.0]], dtype=torch.float64)
    codes, wide = (
        torch.full((1, 1, 2), 1 / 3, dtype=dtype),
        max(torch.float32, dtype, key=lambda d: d.itemsize),
    )
    found = ops.detect(torch.zeros(1, 1, 4), torch.tensor([[[0.0, 9.0]]]), priors.float(), extra=codes)
    points = ops.decode_landmarks(found, priors)[0, 0]
    assert points.dtype == wide
    assert points.tolist() == pytest.approx([codes[0, 0, 0].item() * 100] * 2, rel=1e-6)
