"""multibox with losses of boxes: torchvision's GIoU, DIoU and CIoU of what loc decodes to, with gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import random_boxes
from multibox_cases import assert_same_loss, batch_of
from torch.nn import functional as F

from ssd_cuda import MatchConfig, MultiBoxConfig, ops, reference
from ssd_cuda.reference.box_losses import iou_loss

KINDS = ["giou", "diou", "ciou"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def by_torchvision(kind, boxes, truth):
    """[N] losses."""
    tv = pytest.importorskip("torchvision.ops")
    names = {
        "giou": "generalized_box_iou_loss",
        "diou": "distance_box_iou_loss",
        "ciou": "complete_box_iou_loss",
    }
    return getattr(tv, names[kind])(boxes, truth, reduction="none")


def localization(kind, loc, truth, priors, **options):
    """The op's loss of rows loc [N, 4] matched to truth [N, 4], a row of an image each, as one sum."""
    count = len(loc)
    labels = [torch.ones(1).long().to(loc.device)] * count
    gt = ops.GroundTruth.from_list(list(truth.split(1)), labels, degenerate="keep")
    config = MultiBoxConfig(loc_loss=kind, match=MatchConfig(degenerate="keep"), **options)
    conf = loc.new_zeros(count, 1, 2)
    codes = torch.zeros(count, 1, dtype=torch.int32, device=loc.device)
    own = priors.view(count, 1, 4)
    losses = ops.multibox_loss(loc.view(count, 1, 4), conf, gt, own, config, codes=codes)
    return losses.localization * count


def scene(count, device, dtype=torch.float64):
    """loc, truth, priors: [N, 4]; some boxes apart, some inside each other, one on its target."""
    truth = random_boxes(count).to(device, dtype)
    priors = reference.boxes.to_cxcywh(random_boxes(count).to(device, dtype))
    loc = torch.randn(count, 4, device=device, dtype=dtype)
    near = reference.boxes.encode(truth, priors)
    loc[::3] = near[::3] + 0.2 * torch.randn_like(near[::3])
    loc[0] = near[0]
    return loc, truth, priors


@pytest.mark.parametrize("kind", KINDS)
def test_is_torchvisions_loss_of_the_decoded_boxes(device, kind):
    loc, truth, priors = scene(60, device)
    loc.requires_grad_()
    mine = localization(kind, loc, truth, priors)
    theirs = by_torchvision(kind, reference.boxes.decode(loc, priors), truth).sum()
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, loc)[0] for loss in (mine, theirs)]
    torch.testing.assert_close(*[g[1:] for g in gradients], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_torchvision(device, kind):
    boxes, truth = random_boxes(80).to(device).double(), random_boxes(80).to(device).double()
    boxes[:9] = truth[:9]  # ties of every corner: the gradient is shared
    boxes[9:20, 2:] = truth[9:20, 2:]
    boxes.requires_grad_()
    mine, theirs = iou_loss(boxes, truth, kind), by_torchvision(kind, boxes, truth)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(mine.sum(), boxes), torch.autograd.grad(theirs.sum(), boxes), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_corners_that_meet_share_the_gradient(device, kind):
    """The prior is the truth and loc is 0: decoded exactly, every maximum is a tie, shared as torch does."""
    priors = torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.25, 0.5, 0.5, 0.25]], device=device, dtype=torch.float64)
    truth = reference.boxes.to_xyxy(priors)
    truth[1, 2] += 0.125  # three corners meet
    loc = torch.zeros(2, 4, device=device, dtype=torch.float64, requires_grad=True)
    mine = localization(kind, loc, truth, priors)
    theirs = by_torchvision(kind, reference.boxes.decode(loc, priors), truth).sum()
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(mine, loc), torch.autograd.grad(theirs, loc), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_options_are_the_reference(device, kind, dtype):
    for change in (
        dict(),
        dict(loc_weight=2.5, normalizer="per_image", variances=(0.2, 0.1, 0.3, 0.15)),
        dict(layout="bcp", match=MatchConfig(prior_format="xyxy"), zero_label="localize"),
        dict(label_smoothing=0.1),
    ):
        config = MultiBoxConfig(loc_loss=kind, **change)
        case = batch_of(config, (4, 0, 2), dtype=dtype, device=device)
        assert_same_loss(*case, config)
        loc, conf, gt, priors = case
        assert_same_loss(loc, conf, gt, priors[None] + 0.05 * torch.rand(3, 1, 1, device=device), config)


@pytest.mark.parametrize("kind", KINDS)
def test_per_prior_variances(device, kind):
    loc, truth, priors = scene(1, device)
    gt = ops.GroundTruth.from_list([truth], [torch.tensor([1], device=device)])
    own = torch.tensor([[0.3, 0.2, 0.1, 0.4]], device=device, dtype=torch.float64)
    config = MultiBoxConfig(loc_loss=kind)
    conf = loc.new_zeros(1, 1, 2)
    codes = torch.zeros(1, 1, dtype=torch.int32, device=device)
    found = ops.multibox_loss(loc[None], conf, gt, priors, config, codes=codes, variances=own).localization
    expected = by_torchvision(kind, reference.boxes.decode(loc, priors, own), truth).sum()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(device, kind):
    config = MultiBoxConfig(loc_loss=kind)
    loc, conf, gt, priors = batch_of(config, (2, 1), width=6, classes=3, dtype=torch.float64, device=device)
    loc.requires_grad_()
    codes = ops.match(gt, priors, config=config.match)
    if kind == "ciou":  # alpha has no gradient: the derivative of the value is another
        expected = reference.multibox.multibox_loss(
            loc, conf, gt.boxes, gt.labels, gt.offsets, priors, loc_loss=kind, codes=codes
        )[0]
        mine = ops.multibox_loss(loc, conf, gt, priors, config, codes=codes).localization
        torch.testing.assert_close(
            torch.autograd.grad(mine, loc), torch.autograd.grad(expected, loc), rtol=1e-9, atol=1e-12
        )
        return
    assert torch.autograd.gradcheck(
        lambda x: ops.multibox_loss(x, conf, gt, priors, config, codes=codes).localization, (loc,)
    )


def test_by_hand(device):
    """A box beside the truth, as large: IoU 0, a hull of three widths, centres two of them apart."""
    priors = torch.tensor([[0.625, 0.5, 0.25, 0.5]], device=device)
    truth = torch.tensor([[0.0, 0.25, 0.25, 0.75]], device=device)
    loc = torch.zeros(1, 4, device=device)
    assert localization("giou", loc, truth, priors).item() == pytest.approx(1 + 1 / 3, rel=1e-5)
    apart = 0.5**2 / (0.75**2 + 0.5**2)
    assert localization("diou", loc, truth, priors).item() == pytest.approx(1 + apart, rel=1e-5)
    loc[0, 2] = 5 * math.log(2)  # twice as wide: atan(1/2) against atan(1)
    wide = 4 / math.pi**2 * (math.atan(1.0) - math.atan(0.5)) ** 2
    apart = 0.5**2 / (0.875**2 + 0.5**2)
    expected = 1 + apart + wide**2 / (1 + wide)
    assert localization("ciou", loc, truth, priors).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bad_code_shows(device, kind, value):
    loc, truth, priors = scene(1, device, torch.float32)
    for column in range(2):  # a size of 0 is a box all the same
        bad = loc.clone()
        bad[0, column] = value
        assert not localization(kind, bad, truth, priors).isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_far_apart_and_empty_ones_are_finite(device, kind):
    """No overlap, truths of no area: as torchvision, nothing divides by 0 but the shape of CIoU."""
    priors = torch.tensor([[0.5, 0.5, 0.1, 0.1]], device=device)
    for truth in ([5.0, 5.0, 9.0, 9.0], [0.5, 0.5, 0.5, 0.6], [0.45, 0.45, 0.55, 0.55]):
        truth = torch.tensor([truth], device=device)
        loc = torch.zeros(1, 4, device=device, requires_grad=True)
        mine = localization(kind, loc, truth, priors)
        theirs = by_torchvision(kind, reference.boxes.decode(loc, priors), truth).sum()
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        assert torch.autograd.grad(mine, loc)[0].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_empty_hulls_are_divided_with_eps(device, kind):
    """Boxes whose areas are below eps: it decides the quotients, as in torchvision."""
    loc, truth, priors = scene(20, device)
    truth, priors = 1e-4 * truth, 1e-4 * priors
    mine = localization(kind, loc, truth, priors)
    theirs = by_torchvision(kind, reference.boxes.decode(loc, priors), truth).sum()
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_the_classification_is_not_touched(device):
    config = MultiBoxConfig()
    case = batch_of(config, (4, 2), device=device)
    plain = ops.multibox_loss(*case, config)
    other = ops.multibox_loss(*case, replace(config, loc_loss="giou"))
    assert torch.equal(plain.classification, other.classification)
    assert not torch.equal(plain.localization, other.localization)


def test_what_no_loss_of_boxes_can_do_is_refused():
    with pytest.raises(
        ValueError, match=r"loc_reduction must be 'sum' with a loss of boxes.*'mean4'.*'giou'"
    ):
        MultiBoxConfig(loc_loss="giou", loc_reduction="mean4")
    with pytest.raises(ValueError, match=r"loc_loss must be one of 'smooth_l1', 'l1', 'giou'.* got 'iou'"):
        MultiBoxConfig(loc_loss="iou")
    config = MultiBoxConfig(loc_loss="diou")
    loc, conf, target = torch.zeros(1, 3, 4), torch.zeros(1, 3, 2), torch.tensor([[1, 0, 0]])
    with pytest.raises(
        ValueError, match=r"config.loc_loss must be 'smooth_l1' or 'l1' on ready targets.*'diou'"
    ):
        ops.multibox_loss_on_targets(loc, conf, loc, target, config)
    options = {**ops.multibox.op_options(config), "with_zeros": False}
    with pytest.raises(RuntimeError, match="loc_loss must be smooth_l1 or l1 without labels"):
        torch.ops.ssd_cuda.multibox_loss(loc, conf, target, loc, *[None] * 5, **options)


def test_l1_is_smooth_l1_of_beta_0(device):
    config = MultiBoxConfig(loc_loss="l1")
    loc, conf, gt, priors = batch_of(config, (3,), device=device)
    codes = ops.match(gt, priors)[0]
    rows = codes >= 0
    target = ops.encode(gt.boxes[codes[rows]], priors[rows])
    found = ops.multibox_loss(loc, conf, gt, priors, config).localization
    torch.testing.assert_close(found, F.l1_loss(loc[0, rows], target, reduction="sum") / rows.sum())
