"""A default device is of tensors that users make. Ours are on the device of the inputs, and what the host
reads or copies from is on the host. Here it is ``meta``, which holds no numbers; mostly it is a card."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import ops
from ssd_cuda.compat import amdegroot, lufficc, nvidia, onnx, openvino, qfgaohao, retinaface
from ssd_cuda.compat.torchvision import _clip_sizes

BOXES, SCORES, PRIORS = random_boxes(6), torch.rand(6), random_priors(8)
LABELS = torch.tensor([1, 2, 1, 2, 1, 2])
LOC, CONF = torch.randn(2, 8, 4), torch.randn(2, 8, 3)
FACES = torch.cat([BOXES[:2], torch.rand(2, 10), torch.ones(2, 1)], 1)
ROWS = torch.cat([BOXES, SCORES[:, None]], 1)


class DefaultBoxes:
    scale_xy, scale_wh = 0.1, 0.2

    def __call__(self, order):
        return PRIORS


def landmarks(targets):
    predictions = LOC, CONF[..., :2].contiguous(), LOC.repeat(1, 1, 3)[..., :10]
    return retinaface.MultiBoxLoss()(predictions, PRIORS, [targets] * 2)


def of_truth(gt):
    return gt.boxes, gt.labels, gt.offsets


CALLS = {
    "from_list": lambda: of_truth(ops.GroundTruth.from_list([BOXES, BOXES[:0]], [LABELS, LABELS[:0]])),
    "from_list of none": lambda: of_truth(ops.GroundTruth.from_list([], [])),
    "accelerate": lambda: (_clip_sizes([(4, 5), (6, 7)], BOXES),),
    "amdegroot loss": lambda: amdegroot.MultiBoxLoss(3)(
        (LOC, CONF, PRIORS), [torch.cat([BOXES, SCORES[:, None] * 0], 1)] * 2
    ),
    "amdegroot detect": lambda: (amdegroot.Detect(3, 0, 5, 0.01, 0.45)(LOC, CONF.softmax(-1), PRIORS),),
    "lufficc targets": lambda: lufficc.SSDTargetTransform(PRIORS, 0.1, 0.2, 0.5)(BOXES, LABELS),
    "lufficc numpy": lambda: lufficc.SSDTargetTransform(PRIORS, 0.1, 0.2, 0.5)(
        np.full((1, 4), 0.5) + [0, 0, 0.1, 0.1], np.array([1])
    ),
    "nvidia": lambda: nvidia.decode_batch(DefaultBoxes(), LOC.transpose(1, 2), CONF.transpose(1, 2))[0],
    "onnx": lambda: (onnx.non_max_suppression(BOXES[None], SCORES[None, None], 3, 0.5, 0.1),),
    "openvino": lambda: openvino.non_max_suppression(BOXES[None], SCORES[None, None], 3, 0.5, 0.1, 0.5),
    "qfgaohao": lambda: (qfgaohao.hard_nms(ROWS, 0.45),),
    "retinaface loss": lambda: landmarks(FACES),
    "retinaface none": lambda: landmarks(FACES[:0]),
    "retinaface nms": lambda: (torch.tensor(retinaface.py_cpu_nms(ROWS.numpy(), 0.4), device="cpu"),),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_changes_nothing(name):
    expected = CALLS[name]()
    with torch.device("meta"):
        found = CALLS[name]()
    for one, other in zip(found, expected, strict=True):
        assert one.device.type == "cpu" and one.dtype == other.dtype and torch.equal(one, other)


def test_a_default_dtype_changes_no_empty_batch():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert ops.GroundTruth.from_list([], []).boxes.dtype == torch.float32
    finally:
        torch.set_default_dtype(before)
