"""The detect kernels' device code on a CPU against the reference and, bit for bit, the CPU kernel."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import random_priors
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_cuda import DetectConfig, is_available, reference
from ssd_cuda.ops.detect import op_options


def head(batch, num_priors, classes, *, scale=3.0, background=4.0, dtype=torch.float32, generator=None):
    loc = torch.randn(batch, num_priors, 4, generator=generator)
    conf = torch.randn(batch, num_priors, classes, generator=generator) * scale
    conf[..., :1] += background
    return loc.to(dtype), conf.to(dtype), random_priors(num_priors, generator=generator)


def check(loc, conf, priors, config, seeds=(0, 3), architecture=90, clip_sizes=None):
    num_priors, num_classes = conf.shape[1:]
    if config.layout == "bcp":
        loc, conf = loc.transpose(1, 2).contiguous(), conf.transpose(1, 2).contiguous()
    options = op_options(config, num_priors, num_classes)
    wide = torch.float64 if conf.dtype == torch.float64 else torch.float32
    tensors = (loc, conf, priors.to(wide), clip_sizes if clip_sizes is None else clip_sizes.to(wide))
    found = kernels("detect").with_seeds(*seeds).on(architecture).detect(*tensors, options)
    found = [t.float() if t.dtype == torch.bfloat16 else t for t in found]
    fields = dataclasses.asdict(config)
    if clip_sizes is not None:
        fields["clip_size"] = clip_sizes
    expected = reference.detect.detect(loc, conf, priors, **fields)
    names = ("boxes", "scores", "labels", "prior_indices", "counts")
    boxes, scores, labels, prior_indices, counts = found
    assert torch.equal(counts, expected[4])
    assert torch.equal(labels, expected[2])
    assert torch.equal(prior_indices, expected[3])
    torch.testing.assert_close(boxes, expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores, expected[1], rtol=2e-6, atol=1e-7)
    if is_available():
        for name, ours, theirs in zip(
            names, found, torch.ops.ssd_cuda.detect(*tensors, **options), strict=True
        ):
            assert torch.equal(ours, theirs), name
    return found


@pytest.mark.parametrize("name", ["paper", "torchvision", "nvidia", "amdegroot", "retinaface", "mmdet"])
def test_presets(name):
    loc, conf, priors = head(2, 150, 12)
    found = check(loc, conf, priors, DetectConfig.preset(name))
    assert found[4].min() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"class_agnostic": True},
        {"class_agnostic": True, "detections_per_image": None, "top_k": 20},
        {"scores": "sigmoid", "background": "none"},
        {"scores": "given", "score_threshold": -1.0},
        {"scores": "given", "score_threshold": -math.inf, "top_k": 7},
        {"scores": "given", "score_threshold": -math.inf, "soft_nms": "linear", "top_k": 7},
        {"clip": "after", "clip_size": (0.8, 0.6)},
        {"score_threshold": 0.0, "detections_per_image": 1},
        {"top_k": 1},
        {"top_k": 3, "detections_per_image": 600},
        {"top_k": None, "detections_per_image": None, "iou_threshold": 0.0},
        {"soft_nms": "gaussian"},
        {"soft_nms": "gaussian", "class_agnostic": True, "top_k": 40, "detections_per_image": 30},
        {"soft_nms": "gaussian", "top_k": None, "layout": "bcp"},
        {"soft_nms": "linear", "inclusive": True, "top_k": 30},
    ],
    ids=str,
)
def test_options(options):
    config = dataclasses.replace(DetectConfig(), **options)
    check(*head(2, 70, 5), config)
    check(*head(1, 40, 8 if config.soft_nms else 40, scale=0.5, background=0), config)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"soft_nms": "linear", "top_k": 20},
        {"detections_per_image": 600, "top_k": 30, "score_threshold": 0.01},
        {"class_agnostic": True, "iou_threshold": 0.4},
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [5, 64, 65, 130])
def test_thresholds_by_class(options, classes):
    """More classes than travel with one launch, too."""
    own = {"iou_threshold": torch.rand(classes), "score_threshold": torch.rand(classes) / 4}
    own["score_threshold"][:2], own["score_threshold"][-1] = -math.inf, math.inf
    config = DetectConfig(**{**{name: numbers.tolist() for name, numbers in own.items()}, **options})
    check(*head(2, 70 if classes == 5 else 12, classes, scale=2.0, background=1.0), config, seeds=(0,))


@pytest.mark.parametrize("clip", ["before", "after"])
@pytest.mark.parametrize("options", [{}, {"soft_nms": "gaussian"}], ids=str)
def test_clip_sizes(clip, options):
    sizes = torch.tensor([[0.8, 0.6], [0.3, 1.0], [0.5, 0.2]])
    loc, conf, priors = head(3, 70, 5)
    found = check(loc, conf, priors, DetectConfig(clip=clip, **options), clip_sizes=sizes)
    for boxes, (width, height) in zip(found[0], sizes.tolist(), strict=True):
        assert boxes[:, 2].max() == torch.tensor(width) and boxes[:, 3].max() == torch.tensor(height)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"soft_nms": "gaussian", "top_k": 20}], ids=str)
def test_dtypes(dtype, options):
    config = dataclasses.replace(DetectConfig(), **options)
    num_priors, classes = 90, 7
    loc, conf, priors = head(2, num_priors, classes, dtype=dtype)
    if dtype != torch.float64:
        check(loc, conf, priors, config)
        return
    tensors, options = (loc, conf, priors.double(), None), op_options(config, num_priors, classes)
    found = kernels("detect").with_seeds(0).detect(*tensors, options)
    for ours, theirs in zip(found, torch.ops.ssd_cuda.detect(*tensors, **options), strict=True):
        assert torch.equal(ours, theirs)
    expected = reference.detect.detect(loc, conf, priors.double(), **dataclasses.asdict(config))
    assert torch.equal(found[3], expected[3]) and torch.equal(found[4], expected[4])
    torch.testing.assert_close(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0])


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 1), (1, 1, 2), (1, 128, 33), (1, 129, 2)])
@pytest.mark.parametrize("options", [{}, {"soft_nms": "gaussian"}, {"top_k": 2}], ids=str)
def test_sizes(shape, options):
    check(*head(*shape), dataclasses.replace(DetectConfig(), **options))


def test_slices_that_overflow_stay_exact():
    """Every class of every prior passes: slices drop candidates, and windows are scanned again."""
    loc, conf, priors = head(1, 180, 41, scale=0.3, background=0)
    config = DetectConfig(score_threshold=0.001, detections_per_image=1500, top_k=None)
    found = check(loc, conf, priors, config, seeds=(0,))
    assert found[4].item() == 1500
    same = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(180, 4).contiguous()
    for top_k in (60, None):
        config = DetectConfig(score_threshold=0.001, top_k=top_k)
        found = check(torch.zeros_like(loc), conf, same, config, seeds=(0,))
        assert found[4].item() == 40


@pytest.mark.parametrize("others", [40, 4000])
def test_a_slice_that_overflows_among_others(others):
    """The best candidates are all of one slice, which drops most of them: others wait for what it dropped."""
    scores = torch.zeros(180, 40)
    scores[:60] = 0.2 + 0.8 * torch.rand(60, 40)
    scores.view(-1)[2400 + torch.randperm(4800)[:others]] = 0.1 + 0.7 * torch.rand(others)
    conf = torch.cat([torch.zeros(180, 1), scores], 1)[None]
    x = 2.0 * torch.arange(180)
    apart = torch.stack([x, 0 * x, 0 * x + 1, 0 * x + 1], 1)
    for rows in (1500, 2400):
        config = DetectConfig(scores="given", score_threshold=0.05, detections_per_image=rows, top_k=None)
        check(torch.zeros(1, 180, 4), conf, apart, config, seeds=(0,))


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_top_k_counts_the_candidates_of_every_chunk(class_agnostic):
    """The first 256 of one class cannot fill its list, the next do; those of another class fill none."""
    scores = torch.zeros(1, 450, 3)
    scores[0, :400, 1] = 0.2 + 0.7 * torch.rand(400)
    scores[0, 400:, 2] = 0.1
    x = 2.0 * torch.arange(450)
    apart = torch.stack([x, 0 * x, 0 * x + 1, 0 * x + 1], 1)
    fields = {"scores": "given", "score_threshold": 0.05, "detections_per_image": 600, "top_k": 300}
    config = DetectConfig(class_agnostic=class_agnostic, **fields)
    found = check(torch.zeros(1, 450, 4), scores, apart, config, seeds=(0,))
    assert found[4].item() == (300 if class_agnostic else 350)


@pytest.mark.parametrize("num_priors, dtype", [(1090, torch.float16), (2100, torch.float32)])
def test_tiles_of_many_rows(num_priors, dtype):
    """A small card divides six images into eight slices each: tiles of 18 and of 33 rows, a lane a row."""
    inputs = head(6, num_priors, 3, background=7.0, dtype=dtype)
    check(*inputs, DetectConfig(), seeds=(3,), architecture=87)


@pytest.mark.parametrize("architecture", [75, 86])
@pytest.mark.parametrize("classes", [19, 81, 96, 97, 400])
def test_tiles_where_shared_memory_is_scarce(architecture, classes):
    check(*head(1, 140, classes, background=7.0), DetectConfig(), seeds=(0,), architecture=architecture)


def test_more_slices_than_warps_merge_them():
    check(*head(1, 2200, 2), DetectConfig(), seeds=(0,))
    check(*head(1, 2200, 3, background=0), DetectConfig(), seeds=(0,))  # more than the image's pool holds


@pytest.mark.parametrize("architecture", [75, 80, 86, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [299, 301, 512, 513])
def test_kept_rows_stay_where_the_card_has_room(architecture, dtype, rows):
    """float64 on a T4 has shared memory for some 300 rows, every other pair for 512."""
    loc, conf, priors = head(1, 130, 9, background=0, dtype=dtype)
    config = DetectConfig(detections_per_image=rows, score_threshold=0.02, iou_threshold=0.9, top_k=None)
    check(loc, conf, priors.to(dtype), config, seeds=(0,), architecture=architecture)


def test_no_foreground_and_no_rows():
    loc, conf, priors = head(2, 40, 1)
    for soft in (None, "gaussian"):
        check(loc, conf, priors, DetectConfig(soft_nms=soft, detections_per_image=None))


@pytest.mark.parametrize("classes", [300, 505, 600])
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_more_columns_than_a_warp_loads_at_once(classes, layout):
    config = DetectConfig(score_threshold=0.02, layout=layout)
    check(*head(1, 40, classes, background=7.0), config, seeds=(0,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 3, 9, 33, 81])
def test_images_begin_anywhere_in_a_vector(dtype, classes):
    for num_priors in (1, 5, 37):
        check(*head(3, num_priors, classes, background=2.0, dtype=dtype), DetectConfig(), seeds=(0,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("classes", [2, 81])
def test_a_tensor_begins_anywhere_in_a_vector(dtype, classes):
    """A part of a larger tensor: nothing before its first number is its own."""
    loc, conf, priors = head(2, 37, classes, background=2.0, dtype=dtype)
    options = op_options(DetectConfig(), 37, classes)
    detect = kernels("detect").with_seeds(0)
    expected = detect.detect(loc, conf, priors, None, options)
    for shift in range(1, 16 // conf.element_size()):
        found = detect.shifted_detect(loc, conf, priors, options, shift)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_scores_that_crowd_are_sorted_too():
    """All scores but one in one bucket of the sort."""
    loc, _, priors = head(1, 300, 3)
    conf = torch.full((1, 300, 3), 0.5) + torch.arange(300).flip(0)[None, :, None] * 2.0**-23
    conf[0, 7, 2] = 1e30
    config = DetectConfig(scores="given", detections_per_image=400, top_k=None)
    assert check(loc, conf, priors, config)[4].item() > 20


@pytest.mark.parametrize("rows", [700, 1900])
def test_keys_are_dealt_again_where_the_first_run_is_not_enough(rows):
    """A third of 2,000 candidates has one score; few boxes overlap, so that the rows need more than 512."""
    loc, conf = torch.zeros(1, 2000, 4), torch.rand(1, 2000, 2)
    conf[0, ::3] = 0.25
    side = torch.arange(2000) % 45, torch.arange(2000) // 45
    priors = torch.stack([side[0] + 0.5, side[1] + 0.5, torch.ones(2000), torch.ones(2000)], 1)
    config = DetectConfig(scores="given", detections_per_image=rows, top_k=None)
    assert check(loc, conf, priors, config)[4].item() == rows


@pytest.mark.parametrize("gap", [3, 40, 700, 9000])
def test_keys_that_crowd_when_they_are_dealt_again(gap):
    """Behind 600 scores far apart two groups of 45, which one bucket of the second deal may hold."""
    scores = torch.linspace(1.0, 0.5, 600).view(torch.int32)
    last = int(scores[-1])
    crowd = torch.tensor([last - 100_000] * 45 + [last - 100_000 - gap] * 45, dtype=torch.int32)
    rest = torch.linspace(0.45, 0.4, 300).view(torch.int32)
    conf = torch.cat([scores, crowd, rest]).view(torch.float32)[:, None].repeat(1, 2)[None]
    n = conf.shape[1]
    priors = torch.stack([torch.arange(n) % 45, torch.arange(n) // 45, torch.ones(n), torch.ones(n)], 1)
    config = DetectConfig(scores="given", detections_per_image=n, top_k=None)
    assert check(torch.zeros(1, n, 4), conf, priors.float(), config)[4].item() == n


def test_the_last_bucket_of_the_sort_has_an_end():
    """Scores up to 2047 units in the last place apart: one a bucket, from the first to the last."""
    one_half = torch.tensor(0.5).view(torch.int32)
    bits = one_half + torch.randint(0, 2047, (1, 40, 2), dtype=torch.int32)
    bits[0, 20:25, 1] = one_half
    bits[0, :5, 1] = one_half + 2047
    config = DetectConfig(scores="given", iou_threshold=1.0)
    check(torch.zeros(1, 40, 4), bits.view(torch.float32), random_priors(40), config, seeds=(0,))


@pytest.mark.parametrize("threshold", [0.0, 1e-30, 0.5, 0.999, 1 - 1e-5, 1 - 2.0**-23, 1 - 2.0**-24, 1.0])
def test_sigmoid_near_every_threshold(threshold):
    """Scores around the threshold, where a row may and may not be skipped."""
    loc, _, priors = head(1, 90, 4)
    centre = min(max(math.log(threshold / (1 - threshold)), -60.0), 17.0) if 0 < threshold < 1 else 16.5
    conf = centre + torch.linspace(-2, 2, 360).view(1, 90, 4) ** 3
    check(loc, conf, priors, DetectConfig(scores="sigmoid", score_threshold=threshold), seeds=(0,))


def test_equal_logits():
    loc, conf, priors = torch.zeros(1, 100, 4), torch.zeros(1, 100, 33), random_priors(100)
    for soft in (None, "gaussian"):  # every score is a tie: the lower prior comes first
        config = DetectConfig(detections_per_image=300, soft_nms=soft, top_k=70)
        check(loc, conf[..., : 33 if soft is None else 3], priors, config)


@pytest.mark.parametrize("rows", [1, 2, None])
def test_a_decayed_score_ties_with_a_later_candidate(rows):
    """.8 (1 - 1/2) is .4, the score of a box of a lower label that ranks behind: it comes first."""
    priors = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 1.0], [2.5, 0.5, 1.0, 1.0]])
    conf = torch.tensor([[[0.0, 0.9, 0.0], [0.0, 0.0, 0.8], [0.0, 0.4, 0.0]]])
    config = DetectConfig(scores="given", soft_nms="linear", class_agnostic=True, detections_per_image=rows)
    found = check(torch.zeros(1, 3, 4), conf, priors, config)
    if rows is None:
        assert found[3][0, :3].tolist() == [0, 2, 1] and found[2][0, :3].tolist() == [1, 1, 2]


@pytest.mark.parametrize("scores", ["softmax", "sigmoid", "given"])
def test_non_finite_numbers(scores):
    loc, conf, priors = head(1, 80, 6)
    bad = torch.tensor([math.nan, math.inf, -math.inf, 200.0, -200.0])
    for k in range(40):
        conf[0, (7 * k) % 80, k % 6] = bad[k % 5]
    if scores == "given":
        conf = conf.nan_to_num(math.nan, 1.0, 0.0)
    check(loc, conf, priors, DetectConfig(scores=scores))


def test_priors_of_each_image():
    loc, conf, _ = head(3, 40, 5)
    priors = torch.stack([random_priors(40) for _ in range(3)])
    check(loc, conf, priors, DetectConfig())


@settings(max_examples=fuzz_examples(), deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 2),
    num_priors=st.integers(1, 90),
    classes=st.integers(2, 40),
    scores=st.sampled_from(["sigmoid", "given", "softmax"]),
    ties=st.booleans(),
    agnostic=st.booleans(),
    top_k=st.sampled_from([1, 5, 50, None]),
    rows=st.sampled_from([1, 7, 200, None]),
    threshold=st.sampled_from([0.0, 0.01, 0.3]),
    soft=st.sampled_from([None, None, "gaussian"]),
)
def test_fuzz(seed, batch, num_priors, classes, scores, ties, agnostic, top_k, rows, threshold, soft):
    generator = torch.Generator().manual_seed(seed)
    loc, conf, priors = head(batch, num_priors, classes, generator=generator)
    if ties and scores != "softmax" and soft is None:  # torch's exp depends on the place in a tensor
        conf = conf.clamp(-1, 1).round() / 2 + 0.5
    config = DetectConfig(
        scores=scores,
        class_agnostic=agnostic,
        top_k=top_k,
        detections_per_image=rows,
        score_threshold=threshold,
        soft_nms=soft,
    )
    check(loc, conf, priors, config, seeds=(seed % 5,))
