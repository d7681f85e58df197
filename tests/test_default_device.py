"""A default device is of tensors that users make. Ours are on the device of the inputs, and what the host
reads or copies from is on the host. Here it is ``meta``, which holds no numbers; mostly it is a card."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import DetectConfig, data, models, ops
from ssd_cuda.compat import amdegroot, lufficc, nvidia, onnx, openvino, qfgaohao, retinaface
from ssd_cuda.compat.torchvision import _clip_sizes
from ssd_cuda.engine.class_weights import balanced_weights
from ssd_cuda.engine.evaluate import evaluate
from ssd_cuda.engine.selection import Selection

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


SHAPES = {"length": 6, "size": (64, 96)}


def pairs():
    boxes, entry = (
        [[1.0, 2.0, 30.0, 40.0]],
        {"bbox": [1, 2, 9, 8], "category_id": 1, "area": 72, "iscrowd": 0},
    )
    items = [
        (np.zeros((64, 96, 3), np.uint8), target) for target in ({"boxes": boxes, "labels": [1]}, [entry])
    ]
    return data.PairsDataset(items, ("cat",))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "make", [pairs, lambda: data.ShapesDataset("train", **SHAPES)], ids=["pairs", "shapes"]
)
@pytest.mark.parametrize("cache", [False, True])
def test_batches(cache, make, train, workers):
    def batches():
        prepared = data.prepare(make(), (64, 64), "ssd" if train else "none", cache=cache)
        found = []
        for images, gt in data.BatchLoader(prepared, 2, train=train, seed=3, workers=workers):
            found += [images, gt.boxes, gt.labels, gt.offsets]
            own = torch.zeros(1)  # what the user makes while a batch is there
        return found, own.device.type

    (expected, _), before = batches(), torch.get_default_device()
    torch.set_default_device("meta")
    try:
        found, own = batches()
    finally:
        torch.set_default_device(None)
    assert own == "meta" and before.type == "cpu"
    assert all(map(torch.equal, found, expected))


def test_an_evaluation():
    pytest.importorskip("pycocotools")
    shapes = data.ShapesDataset("test", **SHAPES)
    model = models.ssd_small(num_classes=len(shapes.classes) + 1, image_size=(64, 64)).eval()

    def numbers():
        found = evaluate(model, shapes, workers=0, losses=True)
        return found["ap50"], found["map"], found["loss"], balanced_weights(shapes)

    expected = numbers()
    with torch.device("meta"):
        assert numbers() == expected


def test_a_selection():
    chosen = {"boxes": BOXES[:2], "scores": torch.tensor([0.8, 0.2]), "labels": torch.tensor([1, 2])}
    with torch.device("meta"):
        selection = Selection(("cat", "dog"), 0.5)
        assert selection.of(chosen)["labels"].tolist() == [1]
        assert selection.within(DetectConfig(score_threshold=0.9)).score_threshold != 0.9
