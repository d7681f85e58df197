"""Boxes are cut to the size of their own image, where the images of a batch differ in size."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from conftest import random_priors

from ssd_cuda import DetectConfig, accelerate, nn, ops, reference

SIZES = torch.tensor([[0.8, 0.6], [0.5, 1.0], [0.3, 0.2]])


def head(dtype=torch.float32, batch=3, priors=80, classes=5):
    conf = torch.randn(batch, priors, classes) * 3
    return torch.randn(batch, priors, 4).to(dtype), conf.to(dtype), random_priors(priors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("clip", ["before", "after"])
@pytest.mark.parametrize(
    "options", [{}, {"soft_nms": "gaussian"}, {"detections_per_image": None, "top_k": 30}], ids=str
)
def test_each_image_as_if_it_were_alone(device, dtype, clip, options):
    loc, conf, priors = (t.to(device) for t in head(dtype))
    config = DetectConfig(clip=clip, **options)
    found = ops.detect(loc, conf, priors, config, clip_sizes=SIZES.to(device))
    assert found.counts.min() > 5
    for image, (width, height) in enumerate(SIZES.tolist()):
        one = slice(image, image + 1)
        alone = ops.detect(loc[one], conf[one], priors, replace(config, clip_size=(width, height)))
        assert all(torch.equal(a[one], b) for a, b in zip(found[:5], alone[:5], strict=True))
    expected = reference.detect.detect(loc, conf, priors, **{**asdict(config), "clip_size": SIZES.to(device)})
    torch.testing.assert_close(found.boxes.double(), expected[0].double(), rtol=1e-5, atol=1e-5)


def test_layout_and_strides(device):
    loc, conf, priors = (t.to(device) for t in head())
    sizes = SIZES.to(device)
    expected = ops.detect(loc, conf, priors, DetectConfig(clip="after"), clip_sizes=sizes)
    config = DetectConfig(clip="after", layout="bcp")
    turned = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()
    strided = sizes.T.contiguous().T.double()
    for found in (
        ops.detect(*turned, priors, config, clip_sizes=strided),
        nn.PostProcess(config)(*turned, priors, clip_sizes=strided.requires_grad_()),
    ):
        assert all(torch.equal(a, b) for a, b in zip(found[:5], expected[:5], strict=True))


def test_opcheck():
    from ssd_cuda.ops.detect import op_options

    options = op_options(DetectConfig(clip="before"), 80, 5)
    torch.library.opcheck(torch.ops.ssd_cuda.detect.default, (*head(), SIZES), options)


@pytest.mark.parametrize("sizes", [SIZES.double(), SIZES[:2], SIZES.flatten(), torch.ones(3, 3)], ids=str)
def test_the_raw_op_refuses_what_does_not_fit(sizes):
    from ssd_cuda.ops.detect import op_options

    with pytest.raises(RuntimeError, match="clip_sizes must"):
        torch.ops.ssd_cuda.detect(*head(), sizes, **op_options(DetectConfig(clip="before"), 80, 5))


@pytest.mark.parametrize(
    "sizes, config, error, words",
    [
        (SIZES[:2], "after", ValueError, r"clip_sizes must have shape \[3, 2\], got \[2, 2\]"),
        (SIZES.int(), "after", TypeError, "clip_sizes must be float32, .* got int32"),
        ([(1, 1)] * 3, "after", TypeError, "clip_sizes must be a tensor, got list"),
        (SIZES, "none", ValueError, "clip_sizes needs clip='before' or 'after', got clip='none'"),
        (SIZES.to("meta"), "after", ValueError, "must be on one device, got cpu, meta"),
    ],
)
def test_errors(sizes, config, error, words):
    with pytest.raises(error, match=words):
        ops.detect(*head(), DetectConfig(clip=config), clip_sizes=sizes)


def test_an_accelerated_model_whose_images_differ_in_size():
    """A transform that keeps the aspect ratio gives the second image 64 x 109 pixels, the first 64 x 96."""
    pytest.importorskip("torchvision")
    from test_accelerate import assert_same_detections, pair, tiny_ssd
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    plain, fused = pair(tiny_ssd(5))
    for model in (plain, fused):
        model.transform = GeneralizedRCNNTransform(64, 128, [0.5] * 3, [0.25] * 3)
        torch.manual_seed(1)
        for head in model.head.classification_head.module_list:
            torch.nn.init.normal_(head.weight, std=0.6)
    images = [torch.rand(3, 60, 90), torch.rand(3, 120, 70)]
    assert_same_detections(plain, fused, images)
    with torch.no_grad():
        first, second = fused(images)
    assert first["boxes"][:, 2].max() == 90 and second["boxes"][:, 3].max() == 120
    assert accelerate(fused) is fused
