"""The kernels where an index does not fit in 32 bits, signed or not: large batches and strides, on few pages.

NMS is left out: its ranks are int32 by design, and the op refuses 2^31 boxes.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import random_boxes, random_priors
from emulator.harness import Kernels, kernels

from ssd_cuda import DetectConfig, MatchConfig, MiningConfig, MultiBoxConfig, PriorSpec, ops, reference
from ssd_cuda.ops.detect import op_options as detect_options
from ssd_cuda.ops.matching import op_options as match_options
from ssd_cuda.ops.mining import op_options as mining_options
from ssd_cuda.ops.multibox import op_options as loss_options
from ssd_cuda.ops.priors import op_options as prior_options

BEYOND = 2**32
STEP = 2**27 + 1  # of 33 rows or columns the last lies beyond 2^32


def last_blocks(family: str, count: int = 1) -> Kernels:
    """Only the last blocks of each grid run; they end where the data end."""
    return kernels(family).with_seeds(0).with_last_blocks(count)


def test_iou():
    a, b = random_boxes(65_537), random_boxes(65_792)  # the last block is in the last row
    assert len(a) * len(b) > BEYOND
    result = last_blocks("boxes").wide_iou(a, b, 256)
    assert torch.equal(result, reference.boxes.box_iou(a[-1:], b[-256:])[0])


def test_decode():
    rows, last = BEYOND + 103, 103
    loc, priors = torch.randn(last, 4), random_priors(7)
    own = priors[torch.arange(rows - last, rows) % 7]
    options = {"variance": [0.1, 0.1, 0.2, 0.2], "xyxy": False, "max_log": math.inf, "symmetric": False}
    result = last_blocks("boxes").wide_decode(loc, priors, options, rows).reshape(last, 4)
    torch.testing.assert_close(result, reference.boxes.decode(loc, own, (0.1, 0.2)))


@pytest.mark.parametrize("layout", ["cell_major", "box_major"])
def test_priors(layout):
    rows, columns = 46_341, 46_344
    spec = PriorSpec(
        feature_maps=((rows, columns),),
        image_size=(300, 300),
        steps=None,
        sizes=(30,),
        larger_sizes=(60,),
        ratios=((),),
        arithmetic="float32",
        layout=layout,
    )
    options = prior_options(spec)
    assert rows * columns * 2 > BEYOND
    last = last_blocks("priors").wide_fill(2 * rows * columns, options, 4).reshape(4, 4)
    column = torch.tensor([-2, -2, -1, -1] if layout == "cell_major" else [-4, -3, -2, -1]) + columns
    expected = torch.stack([(column + 0.5) / columns, torch.full((4,), (rows - 0.5) / rows)], 1)
    torch.testing.assert_close(last[:, :2], expected)
    small, large = torch.tensor([[0.1, 0.1], [math.sqrt(0.02), math.sqrt(0.02)]])
    sizes = torch.stack([small, large, small, large] if layout == "cell_major" else [large] * 4)
    torch.testing.assert_close(last[:, 2:], sizes)


@pytest.mark.parametrize("forced", ["none", "argmax"])
def test_match(forced):
    """Priors, groups, codes and claims of the last of 2^24 images."""
    width, images = 256, 2**24 + 1
    config = MatchConfig(forced=forced, forced_min_iou=0.3, relabel_unforced=True, prior_format="xyxy")
    box, priors = random_boxes(1), random_boxes(width)
    priors[::3] = box
    options = match_options(config, torch.float32, torch.float32)
    expected = reference.boxes.box_iou(box, priors)[0] >= 0.5
    kernels = last_blocks("matching")
    for match in (kernels.wide_match, kernels.wide_match_in_clusters):
        assert torch.equal(match(box, priors, images, width, options) >= 0, expected)


def test_top_k():
    keys = torch.rand(1000)
    mask = last_blocks("mining").wide_top_k(keys, 17, 4_400_000)
    assert torch.equal(mask, keys >= keys.topk(17).values[-1])


def test_hard_negatives():
    keys, positive, candidates = torch.rand(1000), torch.rand(1000) < 0.02, torch.rand(1000) < 0.5
    options = mining_options(MiningConfig())
    mask = last_blocks("mining").wide_hard_negatives(keys, positive, candidates, options, 4_400_000)
    expected = reference.mining.select_hard_negatives(keys[None], positive[None], candidates=candidates[None])
    assert torch.equal(mask, expected[0])


@pytest.mark.parametrize("channels_first", [False, True])
def test_multibox(channels_first):
    images, width, classes = 2, 34, 34
    loc, loc_target = torch.randn(2, images, width, 4)
    conf, target = torch.randn(images, width, classes), torch.randint(0, classes, (images, width))
    target[torch.rand(images, width) < 0.7] = 0
    options = loss_options(MultiBoxConfig())
    wide = kernels("multibox").with_seeds(0)
    # Rows of four are stored as one vector: a step of theirs is a multiple of it.
    step = STEP if channels_first else STEP + 3
    result = wide.wide_loss(loc, conf, loc_target, target, options, step, channels_first)
    loc, conf = loc.requires_grad_(), conf.requires_grad_()
    expected = ops.multibox_loss_on_targets(loc, conf, loc_target, target)
    for mine, theirs in zip(result[:2], expected, strict=False):
        torch.testing.assert_close(mine[0], theirs.detach(), rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(expected[0] + expected[1], (loc, conf))
    for mine, theirs in zip(result[2:], gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("soft", [None, "gaussian"])
def test_detect(channels_first, soft):
    loc, conf, priors = torch.randn(2, 40, 4), 3 * torch.randn(2, 40, 34), random_priors(40)
    config = DetectConfig(soft_nms=soft, detections_per_image=50)
    options = {**detect_options(config, 40, 34), "channels_first": channels_first}
    result = kernels("detect").with_seeds(0).wide_detect(loc, conf, priors, options, STEP)
    expected = reference.detect.detect(loc, conf, priors, **dataclasses.asdict(config))
    assert torch.equal(result[4], expected[4])
    assert torch.equal(result[2], expected[2]) and torch.equal(result[3], expected[3])
