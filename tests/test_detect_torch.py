"""detect as a citizen of torch: torchvision's results, threads, instruction sets, compile, export, errors."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import random_boxes
from simd_levels import at_every_level
from test_detect import head

from ssd_cuda import DetectConfig, ops
from ssd_cuda.nn.post_process import PostProcess
from ssd_cuda.ops.detect import op_options


def torchvisions(loc, conf, priors, size=300):
    """``SSD.postprocess_detections`` of torchvision with SSD300's options."""
    ssd = pytest.importorskip("torchvision.models.detection.ssd")
    coder = pytest.importorskip("torchvision.models.detection._utils").BoxCoder((10.0, 10.0, 5.0, 5.0))
    self = SimpleNamespace(
        box_coder=coder, score_thresh=0.01, topk_candidates=400, nms_thresh=0.45, detections_per_img=200
    )
    outputs = {"bbox_regression": loc, "cls_logits": conf}
    images = len(loc)
    return ssd.SSD.postprocess_detections(self, outputs, [priors] * images, [(size, size)] * images)


@pytest.mark.parametrize("classes, scale, background", [(21, 3, 6), (91, 3, 8), (21, 0.5, 0), (91, 1, 0)])
def test_is_torchvisions_post_process(device, classes, scale, background):
    loc, conf, _ = (
        t.to(device) if t is not None else None
        for t in head(3, 2000, classes, scale=scale, background=background)
    )
    priors = random_boxes(2000, size=300).to(device)
    found = ops.detect(loc, conf, priors, DetectConfig.preset("torchvision")).to_list()
    for ours, theirs in zip(found, torchvisions(loc, conf, priors), strict=True):
        assert ours.keys() == theirs.keys()
        assert torch.equal(ours["labels"], theirs["labels"])
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=2e-6, atol=0)
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=1e-5, atol=1e-3)


def test_same_bits_for_any_number_of_threads():
    loc, conf, priors = head(3, 9000, 21, scale=1.0, background=1)
    threads = torch.get_num_threads()
    configs = [
        DetectConfig(),
        DetectConfig(detections_per_image=None),
        DetectConfig(soft_nms="gaussian", top_k=50),
    ]
    try:
        for config in configs:
            torch.set_num_threads(1)
            one = ops.detect(loc, conf, priors, config)
            torch.set_num_threads(3)
            many = ops.detect(loc, conf, priors, config)
            assert all(torch.equal(a, b) for a, b in zip(one[:5], many[:5], strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "options", [{}, {"scores": "sigmoid"}, {"soft_nms": "gaussian", "top_k": 40}, {"background": "none"}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_same_bits_for_every_instruction_set(options, dtype):
    torch.manual_seed(1)
    loc, conf = torch.randn(2, 700, 4, dtype=dtype), torch.randn(2, 700, 23, dtype=dtype)
    priors = torch.rand(700, 4, dtype=torch.promote_types(dtype, torch.float32))
    config = DetectConfig(**options)
    first, *others = at_every_level(lambda: ops.detect(loc, conf, priors, config)[:5])
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_module_detaches(device):
    loc, conf, priors = (t.to(device) for t in head(2, 50, 4))
    config = DetectConfig(top_k=20)
    module = PostProcess(config)
    found = module(loc.requires_grad_(), conf.requires_grad_(), priors)
    expected = ops.detect(loc.detach(), conf.detach(), priors, config)
    assert all(torch.equal(a, b) for a, b in zip(found[:5], expected[:5], strict=True))
    assert not found.boxes.requires_grad
    assert "top_k=20" in repr(module)


def test_opcheck(device):
    tensors = tuple(t.to(device) for t in head(2, 40, 5))
    options = op_options(DetectConfig(top_k=10, detections_per_image=7), 40, 5)
    torch.library.opcheck(torch.ops.ssd_cuda.detect.default, tensors, options)


def test_compiles_without_a_break(device):
    loc, conf, priors = (t.to(device) for t in head(2, 50, 4))
    extra = torch.rand(2, 50, 3, device=device)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(loc, conf):
        return ops.detect(loc, conf, priors, extra=extra)

    expected = ops.detect(loc, conf, priors, extra=extra)
    assert all(torch.equal(a, b) for a, b in zip(step(loc, conf), expected, strict=True))


def test_exports_with_static_shapes(device):
    loc, conf, priors = (t.to(device) for t in head(2, 50, 4))
    program = torch.export.export(PostProcess(), (loc, conf, priors))
    found = program.module()(loc, conf, priors)
    expected = ops.detect(loc, conf, priors)
    assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.counts, expected.counts)


SOFT = {"soft_nms": "gaussian"}


def _meta(batch, num_priors, classes):
    return tuple(
        torch.empty(shape, device="meta")
        for shape in [(batch, num_priors, 4), (batch, num_priors, classes), (num_priors, 4)]
    )


@pytest.mark.parametrize(
    "sizes, options",
    [
        ((64, 2**22, 91), {}),  # 2.4 10^10 scores in all
        ((1, 2**31 - 32, 1), {"background": "none", "top_k": None, "detections_per_image": 10, **SOFT}),
        ((1, 2**28, 11), {"top_k": 2**30 - 16, "class_agnostic": True, "detections_per_image": 10, **SOFT}),
    ],
)
def test_sizes_beyond_32_bits_are_taken(sizes, options):
    found = ops.detect(*_meta(*sizes), DetectConfig(**options))
    assert found.boxes.shape == (sizes[0], DetectConfig(**options).detections_per_image, 4)


def test_strides_beyond_32_bits():
    """Rows of an image that begins 2**31 elements after the one before: untouched pages cost nothing."""
    loc, conf, priors = head(2, 9, 4)
    try:
        memory = torch.empty(2**31 + 64, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("no 4 GB of address space")
    far = memory.as_strided(conf.shape, (2**31, 4, 1))
    far.copy_(conf)
    found = ops.detect(loc.half(), far, priors)
    expected = ops.detect(loc.half(), conf.half(), priors)
    assert all(torch.equal(a, b) for a, b in zip(found[:5], expected[:5], strict=True))


LOC, CONF, PRIORS = torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), torch.zeros(3, 4)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ops.detect([1], CONF, PRIORS), TypeError, "loc must be a tensor, got list"),
        (
            lambda: ops.detect(LOC, CONF[0], PRIORS),
            ValueError,
            r"conf must have shape \[B, P, C\], got \[3, 5\]",
        ),
        (
            lambda: ops.detect(LOC[:1], CONF, PRIORS),
            ValueError,
            r"loc must have shape \[2, 3, 4\], got \[1, 3, 4\]",
        ),
        (
            lambda: ops.detect(LOC, CONF, PRIORS[:2]),
            ValueError,
            r"priors must have shape \[3, 4\], got \[2, 4\]",
        ),
        (lambda: ops.detect(LOC, CONF, PRIORS[None]), ValueError, r"priors must have shape \[2, 3, 4\]"),
        (lambda: ops.detect(LOC, CONF.int(), PRIORS), TypeError, "conf must be float32.*got int32"),
        (lambda: ops.detect(LOC, CONF, PRIORS, "paper"), TypeError, "config must be a DetectConfig, got str"),
        (
            lambda: ops.detect(LOC, CONF, PRIORS, extra=LOC[:1]),
            ValueError,
            r"extra must have shape \[2, 3, E\]",
        ),
        (lambda: ops.detect(LOC, CONF, PRIORS, extra=3), TypeError, "extra must be a tensor, got int"),
        (
            lambda: ops.detect(LOC, CONF.clone().requires_grad_(), PRIORS),
            ValueError,
            "conf must not require a gradient",
        ),
        (
            lambda: ops.detect(LOC, CONF.to("meta"), PRIORS),
            ValueError,
            "must be on one device, got cpu, meta",
        ),
        (
            lambda: ops.detect(*_meta(1, 2**20, 2**12), DetectConfig()),
            ValueError,
            r"conf must have fewer than 2\*\*32 scores an image, got P \* C = 4294967296",
        ),
        (
            lambda: ops.detect(*_meta(2, 2**31, 1), DetectConfig(top_k=None, background="none", **SOFT)),
            ValueError,
            r"top_k must be below 2\*\*30 for soft-NMS of 2147483648 scores in a list on CUDA, got None",
        ),
        (
            lambda: ops.detect(*_meta(1, 2**28, 11), DetectConfig(top_k=2**30, class_agnostic=True, **SOFT)),
            ValueError,
            r"top_k must be below 2\*\*30 for soft-NMS of 2684354560 scores in a list on CUDA, got 1073",
        ),
        (lambda: DetectConfig(score_threshold=math.nan), ValueError, "score_threshold must lie in"),
        (
            lambda: DetectConfig(iou_threshold=1.5),
            ValueError,
            r"iou_threshold must lie in \[0.0, 1.0\], got 1.5",
        ),
        (lambda: DetectConfig(top_k=0), ValueError, "top_k must be at least 1, got 0"),
        (lambda: DetectConfig(iou_eps=-1.0), ValueError, r"iou_eps must lie in \[0.0, inf\], got -1.0"),
        (
            lambda: DetectConfig(max_log_scale=-1.0),
            ValueError,
            r"max_log_scale must lie in \[0.0, inf\], got -1.0",
        ),
        (
            lambda: DetectConfig(clip_size=(1.0,)),
            ValueError,
            r"clip_size must be two positive numbers, got \(1.0,\)",
        ),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()
