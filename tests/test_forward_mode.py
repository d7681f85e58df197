"""Tangents of forward mode: the ops have none, and say so instead of giving 0."""

from __future__ import annotations

import pytest
import torch
from conftest import random_boxes, random_priors
from torch.autograd import forward_ad

from ssd_cuda import DetectConfig, ops

PRIORS = random_priors(9)
GT = ops.GroundTruth.from_list([random_boxes(2)], [torch.tensor([1, 2])])
LOC, CONF = torch.randn(1, 9, 4), torch.randn(1, 9, 3)
CLASSES = torch.zeros(1, 9, dtype=torch.int64)
CALLS = {
    "box_iou": (lambda x: ops.box_iou(x, random_boxes(3)), random_boxes(4)),
    "encode": (lambda x: ops.encode(x, PRIORS), random_boxes(9)),
    "decode": (lambda x: ops.decode(x, PRIORS), LOC[0]),
    "decode priors": (lambda x: ops.decode(LOC[0], x), PRIORS),
    "multibox_loss loc": (lambda x: ops.multibox_loss(x, CONF, GT, PRIORS).localization, LOC),
    "multibox_loss conf": (lambda x: ops.multibox_loss(LOC, x, GT, PRIORS).classification, CONF),
    "focal_loss conf": (lambda x: ops.focal_loss(LOC, x, GT, PRIORS).classification, CONF),
    "ssd_loss": (lambda x: ops.ssd_loss(LOC, x, LOC, CLASSES)[1], CONF),
    "ssd_loss targets": (lambda x: ops.ssd_loss(LOC, CONF, x, CLASSES)[0], LOC),
    "detect": (lambda x: ops.detect(LOC, x, PRIORS).scores, CONF),
    "top_k_threshold": (lambda x: ops.top_k_threshold(x, torch.tensor([2])).sum, CONF[..., 0]),
}


@pytest.mark.parametrize("name", CALLS)
def test_jvp_and_dual_tensors_are_refused(name):
    call, value = CALLS[name]
    with pytest.raises(
        NotImplementedError, match=r"must not carry a tangent \(jvp\): the ops have derivatives"
    ):
        torch.func.jvp(call, (value,), (torch.ones_like(value),))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="must not carry a tangent"):
        call(forward_ad.make_dual(value, torch.ones_like(value)))


@pytest.mark.parametrize(
    "name", ["encode", "decode", "multibox_loss loc", "multibox_loss conf", "focal_loss conf", "ssd_loss"]
)
def test_derivatives_within_torch_func_are_refused(name):
    """torch's own error speaks of a method of a class that the user has not seen."""
    call, value = CALLS[name]
    for transform in (torch.func.grad, torch.func.jacrev):
        with pytest.raises(NotImplementedError, match="has a derivative by autograd alone, got inputs"):
            transform(lambda x: call(x).sum())(value)


def test_matching_within_vmap():
    """Nothing is asked of the codes, which are those of every call."""
    priors = torch.stack([PRIORS, PRIORS.flip(0)])
    found = torch.vmap(lambda x: ops.match(GT, x))(priors)
    assert torch.equal(found, torch.stack([ops.match(GT, one) for one in priors]))


def test_what_has_no_tangent_passes_within_a_level():
    """Indices and masks have no derivative: torch's argmax takes dual tensors too."""
    boxes, scores = random_boxes(9), torch.rand(9)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(boxes, torch.ones_like(boxes))
        assert torch.equal(ops.nms(dual, scores, 0.5), ops.nms(boxes, scores, 0.5))
        found = ops.detect(LOC, CONF, PRIORS, DetectConfig())
        detached = forward_ad.make_dual(CONF, torch.ones_like(CONF)).detach()
        assert torch.equal(ops.detect(LOC, detached, PRIORS).scores, found.scores)
