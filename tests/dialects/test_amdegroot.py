"""amdegroot/ssd.pytorch: its drop-ins, and the order of equal scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compat_scene import B, C, assert_same, scene

from ssd_cuda import MultiBoxConfig, PriorSpec, ops
from ssd_cuda.compat import amdegroot
from ssd_cuda.reference.dialects import amdegroot as amdegroot_rule


def test_amdegroot_multibox_loss():
    loc, conf, priors, boxes, labels = scene(first_label=0)
    criterion = amdegroot.MultiBoxLoss(C, 0.5, True, 0, True, 3, 0.5, False)
    targets = [torch.cat([b, n[:, None].float()], 1) for b, n in zip(boxes, labels, strict=True)]
    ours = criterion((loc, conf, priors), targets)
    assert_same(ours, amdegroot_rule.loss(loc, conf, boxes, labels, priors), (loc, conf))


def test_constructor_numbers_take_effect():
    loc, conf, priors, boxes, labels = scene(first_label=0)
    targets = [torch.cat([b, n[:, None].float()], 1) for b, n in zip(boxes, labels, strict=True)]
    gt = ops.GroundTruth.from_list(boxes, labels)
    for overlap, ratio in (0.5, 1), (0.95, 3):
        config = MultiBoxConfig.preset("amdegroot")
        changes = {"iou_threshold": overlap}, {"ratio": ratio}
        match, mining = (
            replace(part, **c) for part, c in zip((config.match, config.mining), changes, strict=True)
        )
        config = replace(config, match=match, mining=mining)
        want = ops.multibox_loss(loc, conf, gt, priors, config)[:2]
        ours = amdegroot.MultiBoxLoss(C, overlap, True, 0, True, ratio, 0.5, False)(
            (loc, conf, priors), targets
        )
        assert all(torch.equal(a, b) for a, b in zip(ours, want, strict=True))
        usual = amdegroot.MultiBoxLoss(C, 0.5, True, 0, True, 3, 0.5, False)((loc, conf, priors), targets)
        assert ours[1] != usual[1]


def test_a_box_without_width_shows_in_the_loss_as_it_does_there():
    """Its log is -inf, in that code and here: no error, and no finite number that hides it."""
    loc, conf, priors, boxes, labels = scene(first_label=0)
    boxes[1][0, 2] = boxes[1][0, 0]
    targets = [torch.cat([b, n[:, None].float()], 1) for b, n in zip(boxes, labels, strict=True)]
    ours = amdegroot.MultiBoxLoss(C)((loc, conf, priors), targets)
    theirs = amdegroot_rule.loss(loc, conf, boxes, labels, priors)
    assert ours[0].isinf() and ours[0] == theirs[0]
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-5)


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


def test_amdegroot_knows_one_background():
    with pytest.raises(ValueError, match="bkg_label must be 0, as that codebase assumes throughout, got 2"):
        amdegroot.Detect(C, bkg_label=2)


def test_by_hand_the_highest_of_equal_priors_is_kept():
    """Two priors of one score that overlap by .9: the second stays, whose x1 is .52 - .2."""
    priors = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.52, 0.5, 0.4, 0.4]])
    conf = torch.tensor([[[0.1, 0.9], [0.1, 0.9]]])
    output = amdegroot.Detect(2, 0, 200, 0.01, 0.45)(torch.zeros(1, 2, 4), conf, priors)
    assert output[0, 1, 0].tolist() == pytest.approx([0.9, 0.32, 0.3, 0.72, 0.7])
    assert (output[0, 1, 1:] == 0).all()


def ascending(boxes, scores, overlap, top_k):
    """That codebase's loop over a rising order: the last of the list is the next to keep."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order, keep = scores.sort(stable=True).indices[-top_k:], []
    while len(order):
        i, order = int(order[-1]), order[:-1]
        keep.append(i)
        low = torch.max(boxes[order, :2], boxes[i, :2])
        side = (torch.min(boxes[order, 2:], boxes[i, 2:]) - low).clamp(min=0)
        inter = side.prod(1)
        order = order[(inter / ((area[order] - inter) + area[i])).le(overlap)]
    return keep


@pytest.mark.parametrize("levels", [1, 3, 50])  # distinct scores: none, few, nearly as many as boxes
@pytest.mark.parametrize("overlap, top_k", [(0.45, 200), (0.3, 40)])
def test_equal_scores_come_in_that_codebases_order(levels, overlap, top_k):
    loc, _, priors, _, _ = scene()
    loc = 0.3 * loc.detach()
    conf = torch.randint(1, levels + 1, (B, loc.shape[1], C)) / (levels + 1)
    output = amdegroot.Detect(C, 0, top_k, 0.01, overlap)(loc, conf, priors)
    for image in range(B):
        boxes = amdegroot_rule.decode(loc[image], priors)
        for cl in range(1, C):
            keep = ascending(boxes, conf[image, :, cl], overlap, top_k)
            expected = torch.cat([conf[image, keep, cl, None], boxes[keep]], 1)
            torch.testing.assert_close(output[image, cl, : len(keep)], expected, rtol=1e-5, atol=1e-6)
            assert (output[image, cl, len(keep) :] == 0).all()


def test_what_an_untrained_head_shows():
    """All logits equal, SSD300, 21 classes: which 200 of a class's 8,732 equal candidates are looked at is
    open in torch's default sort; a stable one takes the highest. torchvision's NMS says how many stay."""
    torchvision = pytest.importorskip("torchvision")
    priors = ops.generate_priors(PriorSpec.preset("amdegroot"))
    scores = torch.full((len(priors),), 1 / 21)
    boxes = amdegroot_rule.decode(torch.zeros(len(priors), 4), priors)

    def kept(order):
        best_first = order[-200:].flip(0)
        return torchvision.ops.nms(boxes[best_first], torch.arange(200, 0, -1).float(), 0.45)

    conf = scores[None, :, None].expand(1, -1, 21)
    output = amdegroot.Detect(21, 0, 200, 0.01, 0.45)(torch.zeros(1, len(priors), 4), conf, priors)
    assert (output[0, 1:, :, 0] > 0).sum() == 20 * len(kept(scores.sort(stable=True).indices)) == 820
    if torch.__version__.startswith("2.14."):  # another torch may sort equal numbers otherwise
        assert 20 * len(kept(scores.sort(0)[1])) == 880


def test_the_threshold_is_rounded_as_that_codebase_rounds_it():
    """IoU = float32(3/10), a little above 0.3: torch's ``le(0.3)`` keeps such a box."""
    priors = torch.tensor([[5.0, 0.5, 10.0, 1.0], [8.5, 0.5, 3.0, 1.0]])  # 3 of 10
    conf = torch.tensor([[[0.1, 0.9], [0.2, 0.8]]])
    output = amdegroot.Detect(2, 0, 200, 0.01, 0.3)(torch.zeros(1, 2, 4), conf, priors)
    assert output[0, 1, :3, 0].tolist() == pytest.approx([0.9, 0.8, 0.0])
