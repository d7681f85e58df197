"""NVIDIA DeepLearningExamples: its drop-ins, and the order of equal scores."""

from __future__ import annotations

import pytest
import torch
from compat_scene import B, P, assert_same, scene
from torch import Tensor

from ssd_cuda.compat import nvidia
from ssd_cuda.reference.dialects import nvidia as nvidia_rule


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


def rising(ploc, plabel, priors, criteria, max_output):
    """decode_single on one image: rising sorts whose end is taken, in a class and over the kept ones."""
    boxes, probs = nvidia_rule.decode(ploc.T, priors), torch.softmax(plabel.T, -1)
    out = []
    for label in range(1, probs.shape[1]):
        rows = (probs[:, label] > 0.05).nonzero()[:, 0]
        order = probs[rows, label].sort(stable=True).indices[-200:]
        while len(order):
            i = int(order[-1])
            out.append((boxes[rows[i]], label, probs[rows[i], label]))
            iou = nvidia_rule.calc_iou(boxes[rows[order]], boxes[rows[i]][None])[:, 0]
            order = order[iou < criteria]
    last = torch.stack([score for _, _, score in out]).sort(stable=True).indices[-max_output:]
    return [out[i] for i in last]


@pytest.mark.parametrize("kind", ["equal", "few", "random"])
@pytest.mark.parametrize("criteria, max_output", [(0.5, 200), (0.45, 30), (0.3, 7)])
def test_equal_scores_come_in_that_codebases_order(kind, criteria, max_output):
    loc, conf, priors, _, _ = scene()
    conf = conf.detach()
    if kind == "equal":
        conf = torch.zeros_like(conf)
    if kind == "few":
        conf = conf[:, :6][:, torch.arange(P) % 6]
    ploc, plabel = 0.3 * loc.detach().transpose(1, 2), conf.transpose(1, 2)
    results = nvidia.decode_batch(DefaultBoxes(priors), ploc, plabel, criteria, max_output)
    for image, (box, label, score) in enumerate(results):
        expected = rising(ploc[image], plabel[image], priors, criteria, max_output)
        assert label.tolist() == [row[1] for row in expected]
        torch.testing.assert_close(score, torch.stack([row[2] for row in expected]))
        torch.testing.assert_close(box, torch.stack([row[0] for row in expected]), rtol=1e-5, atol=1e-5)


def test_the_criteria_is_rounded_as_that_codebase_rounds_it():
    """IoU = float32(9/20), a little below 0.45 and not below float32(0.45): such a box is dropped there."""
    priors = torch.tensor([[10.0, 0.5, 20.0, 1.0], [4.5, 0.5, 9.0, 1.0]])
    plabel = torch.tensor([[[0.0, 0.0], [3.0, 2.0]]])
    ((box, _, _),) = nvidia.decode_batch(DefaultBoxes(priors), torch.zeros(1, 4, 2), plabel, 0.45, 200)
    assert box.tolist() == [[0.0, 0.0, 20.0, 1.0]]


def test_as_a_method_of_the_encoder():
    loc, conf, priors, _, _ = scene()

    class Encoder:
        """What that codebase's Encoder holds of the boxes."""

        scale_xy, scale_wh = 0.1, 0.2
        dboxes_xywh = priors[None]
        decode_batch = nvidia.decode_batch

    inputs = 0.3 * loc.detach().transpose(1, 2), conf.detach().transpose(1, 2), 0.5, 50
    results = Encoder().decode_batch(*inputs)
    for ours, expected in zip(results, nvidia.decode_batch(DefaultBoxes(priors), *inputs), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_an_image_without_detections():
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    plabel = torch.tensor([[[9.0], [0.0]]])
    ((box, label, score),) = nvidia.decode_batch(DefaultBoxes(priors), torch.zeros(1, 4, 1), plabel)
    assert len(box) == len(label) == len(score) == 0


def test_no_boxes_at_all_is_refused():
    loc, conf = torch.zeros(1, 4, 2), torch.zeros(1, 3, 2)
    priors = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2]])
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"max_output must be at least 1, got {wrong}"):
            nvidia.decode_batch(DefaultBoxes(priors), loc, conf, max_output=wrong)
