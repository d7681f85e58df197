"""priors of the codebases: torchvision and the PyTorch ports bit for bit, the others by hand-worked rows."""

from __future__ import annotations

import math

import pytest
import torch

from ssd_cuda import PriorSpec, ops

# -- torchvision, bit for bit


def torchvisions(generator, image_size: tuple[int, int], maps) -> torch.Tensor:
    from torchvision.models.detection.image_list import ImageList

    images = ImageList(torch.zeros(1, 3, *image_size), [image_size])
    return generator(images, [torch.zeros(1, 1, *side) for side in maps])[0]


def test_torchvisions_ssd300_bit_for_bit(device):
    anchors = pytest.importorskip("torchvision.models.detection.anchor_utils")
    generator = anchors.DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    spec = PriorSpec.preset("torchvision")
    expected = torchvisions(generator, (300, 300), spec.feature_maps)
    assert torch.equal(ops.generate_priors(spec, device).cpu(), expected)
    assert int(((expected < 0) | (expected > 300)).any(1).sum()) == 2221


def test_torchvisions_ssdlite_bit_for_bit(device):
    anchors = pytest.importorskip("torchvision.models.detection.anchor_utils")
    generator = anchors.DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    spec = PriorSpec.preset("torchvision_ssdlite")
    expected = torchvisions(generator, (320, 320), spec.feature_maps)
    assert torch.equal(ops.generate_priors(spec, device).cpu(), expected)


@pytest.mark.parametrize("image_size", [(300, 300), (240, 417), (513, 100)])
@pytest.mark.parametrize("steps", [None, [7, 13]])
@pytest.mark.parametrize("clip", [True, False])
def test_torchvisions_other_settings_bit_for_bit(device, image_size, steps, clip):
    anchors = pytest.importorskip("torchvision.models.detection.anchor_utils")
    scales, ratios, maps = [0.3, 0.9, 1.3], [[2, 3], [1.5]], [(11, 17), (3, 2)]
    generator = anchors.DefaultBoxGenerator(ratios, scales=scales, steps=steps, clip=clip)
    spec = PriorSpec.preset(
        "torchvision",
        image_size=image_size,
        feature_maps=maps,
        sizes=scales[:-1],
        larger_sizes=scales[1:],
        ratios=ratios,
        steps=steps,
        clip="wh" if clip else "none",
    )
    assert torch.equal(ops.generate_priors(spec, device).cpu(), torchvisions(generator, image_size, maps))


def test_torchvisions_own_case_by_hand(device):
    spec = PriorSpec.preset(
        "torchvision",
        image_size=(15, 15),
        feature_maps=(1,),
        sizes=(0.15,),
        larger_sizes=(0.9,),
        ratios=((2,),),
        steps=None,
    )
    expected = [
        [6.3750, 6.3750, 8.6250, 8.6250],
        [4.7443, 4.7443, 10.2557, 10.2557],
        [5.9090, 6.7045, 9.0910, 8.2955],
        [6.7045, 5.9090, 8.2955, 9.0910],
    ]
    torch.testing.assert_close(
        ops.generate_priors(spec, device).cpu(), torch.tensor(expected), atol=1e-4, rtol=0
    )


# -- the ports that compute in Python numbers, bit for bit


def amdegroot(sizes, larger, ratios, maps, steps, image) -> torch.Tensor:
    rows = []
    for k, side in enumerate(maps):
        for i in range(side):
            for j in range(side):
                per_side = image / steps[k]
                cx, cy = (j + 0.5) / per_side, (i + 0.5) / per_side
                s = sizes[k] / image
                between = math.sqrt(s * (larger[k] / image))
                rows += [[cx, cy, s, s], [cx, cy, between, between]]
                for r in ratios[k]:
                    rows.append([cx, cy, s * math.sqrt(r), s / math.sqrt(r)])
                    rows.append([cx, cy, s / math.sqrt(r), s * math.sqrt(r)])
    return torch.tensor(rows).clamp_(max=1, min=0)


VOC = [30, 60, 111, 162, 213, 264, 315]
COCO = [21, 45, 99, 153, 207, 261, 315]
COCO_512 = [20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72]
RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
MAPS, STEPS = [38, 19, 10, 5, 3, 1], [8, 16, 32, 64, 100, 300]


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("amdegroot", (VOC[:-1], VOC[1:], RATIOS, MAPS, STEPS, 300)),
        ("lufficc", (VOC[:-1], VOC[1:], RATIOS, MAPS, STEPS, 300)),
        ("qfgaohao", (VOC[:-1], VOC[1:], RATIOS, MAPS, STEPS, 300)),
        (
            "qfgaohao_mobilenet",
            (
                [60, 105, 150, 195, 240, 285],
                [105, 150, 195, 240, 285, 330],
                [[2, 3]] * 6,
                [19, 10, 5, 3, 2, 1],
                [16, 32, 64, 100, 150, 300],
                300,
            ),
        ),
        ("amdegroot_coco", (COCO[:-1], COCO[1:], RATIOS, MAPS, STEPS, 300)),
        (
            "lufficc512",
            (
                COCO_512[:-1],
                COCO_512[1:],
                [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]],
                [64, 32, 16, 8, 4, 2, 1],
                [8, 16, 32, 64, 128, 256, 512],
                512,
            ),
        ),
    ],
)
def test_pytorch_ports_bit_for_bit(device, name, arguments):
    assert torch.equal(ops.generate_priors(PriorSpec.preset(name), device).cpu(), amdegroot(*arguments))


def test_nvidia_is_box_major(device):
    rows = amdegroot(COCO[:-1], COCO[1:], RATIOS, MAPS, STEPS, 300)
    levels, start = [], 0
    for side, ratios in zip(MAPS, RATIOS, strict=True):
        boxes = 2 + 2 * len(ratios)
        level = rows[start : start + side * side * boxes].reshape(side * side, boxes, 4)
        levels.append(level.transpose(0, 1).reshape(-1, 4))
        start += side * side * boxes
    result = ops.generate_priors(PriorSpec.preset("nvidia"), device).cpu()
    assert torch.equal(result, torch.cat(levels))


def test_retinaface_on_an_image_that_is_not_square(device):
    """Plain loops over ceil(image / step), w by the width and h by the height."""
    height, width = 250, 333
    rows = []
    for step, sizes in zip([8, 16, 32], [[16, 32], [64, 128], [256, 512]], strict=True):
        for i in range(math.ceil(height / step)):
            for j in range(math.ceil(width / step)):
                for size in sizes:
                    rows.append(
                        [(j + 0.5) * step / width, (i + 0.5) * step / height, size / width, size / height]
                    )
    spec = PriorSpec.preset("retinaface", image_size=(height, width))
    assert torch.equal(ops.generate_priors(spec, device).cpu(), torch.tensor(rows))


def test_ulfg_follows_the_image(device):
    spec = PriorSpec.preset("ulfg", image_size=(480, 640))
    assert spec.num_priors == 17640 and spec.feature_maps[3] == (8, 10)
    first = ops.generate_priors(spec, device)[0].tolist()
    assert first == pytest.approx([0.5 / 80, 0.5 / 60, 10 / 640, 10 / 480])


def test_caffe_cuts_sizes_to_integers_and_keeps_what_leaves_the_image(device):
    """512 * 7% = 35.84 becomes 35, and 512 * 15% = 76.8 becomes 76; corners are not cut."""
    priors = ops.generate_priors(PriorSpec.preset("paper512", format="xyxy"), device)
    w = (priors[:, 2] - priors[:, 0])[:4].tolist()
    root = math.sqrt(2)
    assert [v * 512 for v in w] == pytest.approx([35, math.sqrt(35 * 76), 35 * root, 35 / root], rel=1e-5)
    assert priors[0].tolist() == pytest.approx([(4 - 17.5) / 512] * 2 + [(4 + 17.5) / 512] * 2)
    assert PriorSpec.preset("paper").sizes == ((30,), (60,), (111,), (162,), (213,), (264,))
    variances = ops.prior_variances(PriorSpec.preset("paper"), device)
    assert variances.shape == (8732, 4) and variances.is_contiguous()
    assert variances[[0, -1]].tolist() == torch.tensor([[0.1, 0.1, 0.2, 0.2]] * 2).tolist()


def test_mmdet_and_gluon_are_in_pixels(device):
    corners = ops.generate_priors(PriorSpec.preset("mmdet"), device)
    assert corners[0].tolist() == [4 - 10.5, 4 - 10.5, 4 + 10.5, 4 + 10.5]
    assert ops.generate_priors(PriorSpec.preset("gluon"), device)[4].tolist() == pytest.approx(
        [12, 4, 30, 30]
    )


# -- TensorFlow object detection: create_ssd_anchors gives its generator no window to clip to


def test_tensorflows_anchors_by_hand(device):
    anchors = ops.generate_priors(PriorSpec.preset("tf"), device).cpu()
    center, half = 0.5 / 19, 0.1 / 2
    corners = torch.tensor([center - half, center - half, center + half, center + half])
    torch.testing.assert_close(anchors[0], corners, rtol=0, atol=1e-7)
    wide, high = 0.2 * math.sqrt(2) / 2, 0.2 / math.sqrt(2) / 2
    corners = torch.tensor([center - wide, center - high, center + wide, center + high])
    torch.testing.assert_close(anchors[1], corners, rtol=0, atol=1e-7)
    half = math.sqrt(0.95 * 1.0) / 2  # of the last level: with the scale 1 after it
    corners = torch.tensor([0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half])
    torch.testing.assert_close(anchors[-1], corners, rtol=0, atol=1e-7)
