"""lufficc/SSD: its drop-ins; the targets made in the data loader."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compat_scene import assert_same, encoded_targets, scene
from torch.utils.data import DataLoader

from ssd_cuda.compat import lufficc, qfgaohao, ulfg
from ssd_cuda.reference.dialects import lufficc as lufficc_rule


def test_lufficc_multibox_loss():
    loc, conf, priors, boxes, labels = scene()
    classes, codes = encoded_targets(boxes, labels, priors, iou_eps=1e-5)
    ours = lufficc.MultiBoxLoss(neg_pos_ratio=3)(conf, loc, classes, codes)
    assert_same(ours, lufficc_rule.loss(loc, conf, boxes, labels, priors), (loc, conf))


TRANSFORMS = [lufficc.SSDTargetTransform, qfgaohao.MatchPrior, ulfg.MatchPrior]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
def test_targets_of_one_image(transform, kind):
    _, _, priors, boxes, labels = scene()
    target = transform(priors, 0.1, 0.2, 0.4)
    for box, label in zip(boxes, labels, strict=True):
        codes, classes = target(kind(box), kind(label))
        owner, expected = lufficc_rule.assign(box, label, priors, 0.4)
        assert torch.equal(classes, expected) and codes.dtype == torch.float32
        rows = owner >= 0
        wanted = lufficc_rule.encode(box[owner[rows]], priors[rows])
        torch.testing.assert_close(codes[rows], wanted, rtol=1e-5, atol=1e-5)
        assert (codes[~rows] == 0).all()


def test_boxes_without_area_make_no_nan():
    """A crop leaves boxes without width or height, inverted, or nan: they match nothing."""
    priors = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]])
    good, flat = [0.0, 0.0, 0.5, 0.5], [0.6, 0.6, 0.6, 0.9]
    bad = [flat, [0.9, 0.9, 0.6, 0.6], [float("nan"), 0, 1, 1], [0, 0, float("inf"), 1]]
    target = qfgaohao.MatchPrior(priors, 0.1, 0.2, 0.5)
    codes, classes = target(torch.tensor([*bad, good]), torch.tensor([1, 2, 3, 4, 5]))
    assert classes.tolist() == [5, 0] and codes.tolist() == [[0.0] * 4] * 2
    for boxes in (torch.tensor(bad), torch.zeros(0, 4), np.zeros((0, 4), np.float32)):
        codes, classes = target(boxes, torch.ones(len(boxes), dtype=torch.int64))
        assert (classes == 0).all() and (codes == 0).all()


class Targets(torch.utils.data.Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 6

    def __getitem__(self, i):
        box = torch.tensor([[0.1, 0.1, 0.4 + 0.05 * i, 0.5]], dtype=torch.float64)
        return self.transform(box.numpy(), np.array([i + 1]))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_in_the_workers_of_a_data_loader(start):
    _, _, priors, _, _ = scene()
    data = Targets(qfgaohao.MatchPrior(priors, 0.1, 0.2, 0.5))
    here = [data[i] for i in range(6)]  # the op has run in this process before the workers start
    loader = DataLoader(data, batch_size=3, num_workers=1, multiprocessing_context=start)
    codes, classes = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert codes.dtype == torch.float64 and classes.shape == (6, len(priors))
    assert torch.equal(codes, torch.stack([c for c, _ in here]))
    assert torch.equal(classes, torch.stack([c for _, c in here])) and (classes > 0).any(1).all()
