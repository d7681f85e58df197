"""exp, log and softmax in one stated order: the reference has the bits of the ops."""

from __future__ import annotations

import math
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import DetectConfig, MultiBoxConfig, ops, reference
from ssd_cuda.reference.exponential import exp, fma, log, sigmoid, softmax


def test_fma_rounds_once():
    """Against exact fractions; the first case is a tie of float32 that a bit decides which float64 loses."""
    tie = (1 + 2.0**-12, 1 + 2.0**-12, 2.0**-60)  # 1 + 2^-11 + 2^-24 + a little: rounds up
    pairs = torch.randn(3, 200) * torch.exp2(torch.randint(-20, 21, (3, 200)).float())
    cases = torch.cat([torch.tensor(tie)[:, None], pairs], 1)
    for a, b, c, got in zip(*cases.tolist(), fma(*cases).tolist(), strict=True):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        near = np.float32(float(exact))
        around = [near, np.nextafter(near, np.float32(-math.inf)), np.nextafter(near, np.float32(math.inf))]
        assert abs(Fraction(got) - exact) == min(abs(Fraction(float(x)) - exact) for x in around)


@pytest.mark.parametrize("function, torchs", [(exp, torch.exp), (log, torch.log)])
def test_near_the_library_with_its_gradient(function, torchs):
    x = torch.linspace(-80, 80, 4001) if function is exp else torch.exp2(torch.linspace(-60, 60, 4001))
    x.requires_grad_()
    want, got = torchs(x.detach().double()), function(x)
    # log near 1 is small beside its terms; 2 units in the last place elsewhere
    torch.testing.assert_close(got.double(), want, rtol=2.5e-7, atol=0 if function is exp else 1e-8)
    (gradient,) = torch.autograd.grad(got.sum(), x)
    (other,) = torch.autograd.grad(torchs(x).sum(), x)
    torch.testing.assert_close(gradient, other, rtol=1e-6, atol=0)


def test_ends_of_the_range():
    x = torch.tensor([-math.inf, -200.0, 0.0, 88.5, math.inf, math.nan])
    assert exp(x)[:5].tolist() == [0, 0, 1, math.inf, math.inf] and exp(x)[5].isnan()
    assert log(torch.tensor([1.0, math.inf])).tolist() == [0, math.inf] and log(x[5:]).isnan()
    rows = torch.tensor([[0.0, math.nan], [0.0, math.inf], [-math.inf, 2.0], [-math.inf, -math.inf]])
    assert softmax(rows)[[0, 1, 3]].isnan().all() and softmax(rows)[2].tolist() == [0, 1]
    assert sigmoid(torch.zeros(2)).tolist() == [0.5, 0.5]
    assert softmax(torch.zeros(3, 0)).shape == (3, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("num_classes", [2, 21, 33, 91])
def test_detections_have_the_references_bits(device, num_classes, scores, dtype):
    """Boxes, scores, order: nothing is rounded otherwise, so no two scores change places."""
    loc, conf = 2 * torch.randn(2, 90, 4), 3 * torch.randn(2, 90, num_classes)
    inputs = [x.to(device) for x in (loc.to(dtype), conf.to(dtype), random_priors(90))]
    config = DetectConfig(scores=scores, top_k=60, max_log_scale=math.log(62.5))
    want = reference.detect.detect(*inputs, **asdict(config))
    found = ops.detect(*inputs, config)
    assert int(found.counts.min()) > 20
    for got, expected in zip(found[:5], (*want[:4], want[4]), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("normalizer", ["batch", "selected"])
@pytest.mark.parametrize("num_classes", [2, 21])
def test_mined_rows_are_the_references(device, num_classes, normalizer):
    """Logits that hardly differ: cross entropies are a few units in the last place apart, or equal."""
    conf = torch.zeros(3, 400, num_classes).bernoulli_(0.4) * 3e-7 + 1
    boxes, labels = [random_boxes(4) for _ in range(3)], [torch.ones(4, dtype=torch.int64)] * 3
    gt, priors = ops.GroundTruth.from_list(boxes, labels, device=device), random_priors(400).to(device)
    loc = torch.zeros(3, 400, 4, device=device)
    picked = []
    for how in ("ops", "reference"):
        config = MultiBoxConfig(normalizer=normalizer)
        logits = conf.to(device).requires_grad_()
        if how == "ops":
            losses = ops.multibox_loss(loc, logits, gt, priors, config)
        else:
            target = gt.boxes, gt.labels, gt.offsets, priors
            losses = reference.multibox.multibox_loss(loc, logits, *target, **asdict(config))
        picked.append(torch.autograd.grad(losses[1], logits)[0].abs().sum(-1) > 0)
    assert torch.equal(*picked) and 0 < int(picked[0].sum()) < 1200
