"""compat: each drop-in under its codebase's calling convention gives what that codebase's rule gives.

The calls are stand-ins written for these tests; the values come from ssd_cuda.reference.dialects.
"""

from __future__ import annotations

import pytest
import torch
from conftest import random_boxes, random_priors
from torch import Tensor

from ssd_cuda import ops
from ssd_cuda.compat import amdegroot, lufficc, nvidia, qfgaohao, retinaface
from ssd_cuda.reference.dialects import amdegroot as amdegroot_rule
from ssd_cuda.reference.dialects import lufficc as lufficc_rule
from ssd_cuda.reference.dialects import nvidia as nvidia_rule
from ssd_cuda.reference.dialects import qfgaohao as qfgaohao_rule
from ssd_cuda.reference.dialects import retinaface as retinaface_rule

B, P, C = 3, 300, 6


def scene(first_label: int = 1, counts=(4, 1, 9)):
    """Predictions that require gradients, priors, and per image boxes and labels."""
    torch.manual_seed(11)
    loc = torch.randn(B, P, 4, requires_grad=True)
    conf = (2 * torch.randn(B, P, C)).requires_grad_()
    boxes = [random_boxes(n) for n in counts]
    labels = [torch.randint(first_label, C - 1 + first_label, (n,)) for n in counts]
    return loc, conf, random_priors(P), boxes, labels


def assert_same(ours: tuple, theirs: tuple, inputs: tuple):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    mine = torch.autograd.grad(sum(ours), inputs, retain_graph=True)
    other = torch.autograd.grad(sum(theirs), inputs, retain_graph=True)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_amdegroot_multibox_loss():
    loc, conf, priors, boxes, labels = scene(first_label=0)
    criterion = amdegroot.MultiBoxLoss(C, 0.5, True, 0, True, 3, 0.5, False)
    targets = [torch.cat([b, n[:, None].float()], 1) for b, n in zip(boxes, labels, strict=True)]
    ours = criterion((loc, conf, priors), targets)
    assert_same(ours, amdegroot_rule.loss(loc, conf, boxes, labels, priors), (loc, conf))


@pytest.mark.parametrize("form", ["call", "forward", "apply"])
def test_amdegroot_detect(form):
    loc, conf, priors, _, _ = scene()
    loc, conf = 0.3 * loc.detach(), conf.detach()
    soft = conf.softmax(-1)
    arguments = (C, 0, 200, 0.01, 0.45)
    if form == "apply":
        output = amdegroot.Detect.apply(*arguments, loc, soft, priors)
    else:
        detect = amdegroot.Detect(*arguments)
        output = (detect if form == "call" else detect.forward)(loc, soft, priors)
    assert output.shape == (B, C, 200, 5)
    assert (output[:, 0] == 0).all()
    for image in range(B):
        box, score, label, _ = amdegroot_rule.detect(loc[image], conf[image], priors)
        for cl in range(1, C):
            mine = label == cl
            expected = torch.zeros(200, 5)
            expected[: mine.sum()] = torch.cat([score[mine, None], box[mine]], 1)
            torch.testing.assert_close(output[image, cl], expected, rtol=1e-5, atol=1e-5)


class DefaultBoxes:
    """The interface of that codebase's prior class."""

    scale_xy, scale_wh = 0.1, 0.2

    def __init__(self, priors: Tensor):
        self.priors = priors

    def __call__(self, order: str) -> Tensor:
        assert order == "xywh"
        return self.priors


def test_nvidia_loss():
    loc, conf, priors, boxes, labels = scene()
    ploc, plabel = (x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (loc, conf))
    gloc = priors.T[None].repeat(B, 1, 1)
    glabel = torch.zeros(B, P, dtype=torch.int64)
    for i in range(B):
        owner, glabel[i] = nvidia_rule.assign(boxes[i], labels[i], priors)
        rows = owner >= 0
        gloc[i, :, rows] = nvidia_rule.to_xywh(boxes[i][owner[rows]]).T
    ours = nvidia.Loss(DefaultBoxes(priors))(ploc, plabel, gloc, glabel)
    theirs = sum(nvidia_rule.loss(ploc, plabel, boxes, labels, priors))
    assert_same((ours,), (theirs,), (ploc, plabel))


def test_nvidia_decode_batch():
    loc, conf, priors, _, _ = scene()
    ploc, plabel = 0.3 * loc.detach().transpose(1, 2), conf.detach().transpose(1, 2)
    results = nvidia.decode_batch(DefaultBoxes(priors), ploc, plabel, nvidia_rule.CRITERIA, 200)
    for image, (box, label, score) in enumerate(results):
        expected = nvidia_rule.detect(ploc[image], plabel[image], priors)
        assert torch.equal(label, expected[2])
        torch.testing.assert_close(score, expected[1])
        torch.testing.assert_close(box, expected[0], rtol=1e-5, atol=1e-5)


def encoded_targets(dialect, boxes, labels, priors):
    """What that codebase's data loader hands over: a class and a box code for every prior."""
    codes, classes = torch.zeros(B, P, 4), torch.zeros(B, P, dtype=torch.int64)
    settings = {"iou_threshold": 0.45, "iou_eps": 1e-5} if dialect is qfgaohao_rule else {"iou_eps": 1e-5}
    owners = ops.match(ops.GroundTruth.from_list(boxes, labels), priors, **settings)
    for i in range(B):
        rows = owners[i] >= 0
        classes[i, rows] = labels[i][owners[i, rows].long()]
        codes[i, rows] = ops.encode(boxes[i][owners[i, rows].long()], priors[rows])
    return classes, codes


def test_lufficc_multibox_loss():
    loc, conf, priors, boxes, labels = scene()
    classes, codes = encoded_targets(lufficc_rule, boxes, labels, priors)
    ours = lufficc.MultiBoxLoss(neg_pos_ratio=3)(conf, loc, classes, codes)
    assert_same(ours, lufficc_rule.loss(loc, conf, boxes, labels, priors), (loc, conf))


def test_qfgaohao_multibox_loss():
    loc, conf, priors, boxes, labels = scene()
    classes, codes = encoded_targets(qfgaohao_rule, boxes, labels, priors)
    criterion = qfgaohao.MultiboxLoss(
        priors, iou_threshold=0.5, neg_pos_ratio=3, center_variance=0.1, size_variance=0.2, device="cpu"
    )
    ours = criterion(conf, loc, classes, codes)
    assert_same(ours, qfgaohao_rule.loss(loc, conf, boxes, labels, priors), (loc, conf))


@pytest.mark.parametrize("top_k", [-1, 5])
def test_qfgaohao_hard_nms(top_k):
    rows = torch.cat([random_boxes(400), torch.rand(400, 1)], 1)
    ours = qfgaohao.hard_nms(rows, 0.45, top_k=top_k, candidate_size=200)
    expected = qfgaohao_rule.hard_nms(rows, 0.45, candidate_size=200)
    assert torch.equal(ours, expected[:top_k] if top_k > 0 else expected)


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


def test_retinaface_without_faces():
    loc, _, priors, _, _ = scene()
    conf, landm = torch.randn(B, P, 2), torch.randn(B, P, 10)
    losses = retinaface.MultiBoxLoss()((loc, conf, landm), priors, [torch.zeros(0, 15)] * B)
    assert [loss.item() for loss in losses] == [0.0, 0.0, 0.0]


def test_retinaface_py_cpu_nms():
    rows = torch.cat([random_boxes(300, size=50), torch.rand(300, 1)], 1)
    assert retinaface.py_cpu_nms(rows.numpy(), 0.4) == retinaface_rule.py_cpu_nms(rows, 0.4)


def test_amdegroot_knows_one_background():
    with pytest.raises(ValueError, match="bkg_label must be 0, as that codebase assumes throughout, got 2"):
        amdegroot.Detect(C, bkg_label=2)
