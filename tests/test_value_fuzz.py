"""Ops on values that kernels keep for themselves: infinities, NaN, the largest numbers, a limit itself, ties.

Such a number marks a free lane, a column that is closed, a row that is left out. One that comes in with the
data must not be taken for the mark: the reference, which has no marks, says what is right.
"""

from __future__ import annotations

import dataclasses

import torch
from conftest import random_priors
from emulator.harness import fuzz_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from simd_levels import at_every_level

from ssd_cuda import DetectConfig, MultiBoxConfig, ops, reference

INF, LARGEST, SUBNORMAL = float("inf"), torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny / 4
RULES = [{}, {"soft_nms": "linear"}, {"class_agnostic": True}, {"detections_per_image": None}]
numbers = st.sampled_from([INF, -INF, float("nan"), 0.0, -0.0, LARGEST, -LARGEST, SUBNORMAL, 0.5, 1.0])
seeds = st.integers(0, 2**31)
cases = settings(max_examples=fuzz_examples(40), deadline=None)


def sown(generator, shape, values, share):
    """Random numbers of [0, 1), a share of them replaced by some of the values."""
    plain = torch.rand(shape, generator=generator)
    chosen = torch.tensor(values)[torch.randint(len(values), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < share, chosen, plain)


def equal(found, expected):
    """The same at every instruction set, and the reference's; a NaN is a NaN."""
    for got in found:
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True, check_dtype=False)


@cases
@given(
    seed=seeds,
    values=st.lists(numbers, min_size=1, max_size=3),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    shape=st.sampled_from([(9, 3), (33, 2), (40, 17), (17, 33)]),
    thresholds=st.sampled_from(["one", "each"]),
    background=st.sampled_from(["first", "last", "none"]),
    rule=st.sampled_from(RULES),
    top_k=st.sampled_from([1, 7, None]),
    scores=st.sampled_from(["given", "sigmoid", "softmax"]),
)
def test_fuzz_detect(seed, values, share, shape, thresholds, background, rule, top_k, scores):
    generator = torch.Generator().manual_seed(seed)
    conf = sown(generator, (2, *shape), values, share)
    limits = tuple((values + [0.3, -1.0])[i % (len(values) + 2)] for i in range(shape[1]))
    limits = tuple(0.0 if limit != limit else limit for limit in limits)
    if rule.get("class_agnostic") or thresholds == "one":
        limits = limits[0]
    config = DetectConfig(scores=scores, score_threshold=limits, background=background, top_k=top_k, **rule)
    loc, priors = torch.zeros(2, shape[0], 4), random_priors(shape[0], generator=generator)
    found = at_every_level(lambda: ops.detect(loc, conf, priors, config)[1:5])
    equal(found, reference.detect.detect(loc, conf, priors, **dataclasses.asdict(config))[1:])


@cases
@given(
    seed=seeds,
    values=st.lists(numbers, min_size=1, max_size=3),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    count=st.sampled_from([1, 15, 33, 300]),
    threshold=st.sampled_from([0.0, 1e-46, 0.5, 1.0]),
    inclusive=st.booleans(),
    soft=st.booleans(),
)
def test_fuzz_suppression(seed, values, share, count, threshold, inclusive, soft):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corner, corner + 0.3], 1)
    odd = torch.rand(count, 1, generator=generator) < share / 4
    boxes = torch.where(odd, sown(generator, (count, 4), values, 0.5), boxes)
    scores = sown(generator, (count,), values, share)
    if not soft:
        call = lambda: [ops.nms(boxes, scores, threshold, inclusive=inclusive)]  # noqa: E731
        return equal(at_every_level(call), [reference.nms.nms(boxes, scores, threshold, inclusive=inclusive)])
    boxes, scores = boxes[:40], scores[:40]
    rule = {"iou_threshold": threshold, "inclusive": inclusive, "method": "linear", "sigma": 0.5}
    found = at_every_level(lambda: ops.soft_nms(boxes, scores, score_threshold=0.0, **rule))
    equal(found, reference.soft_nms.soft_nms(boxes, scores, 0.0, **rule))


@cases
@given(
    seed=seeds,
    values=st.lists(numbers, min_size=1, max_size=3),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    width=st.sampled_from([1, 9, 33, 1100]),
    ratio=st.sampled_from([0.0, 3.0, 1e30]),
    cap=st.sampled_from(["all", "all_but_one", "negatives"]),
    fill=st.sampled_from(["zero", "-inf"]),
)
def test_fuzz_mining(seed, values, share, width, ratio, cap, fill):
    generator = torch.Generator().manual_seed(seed)
    keys = sown(generator, (2, width), values, share)
    positive, candidates = (torch.rand(2, width, generator=generator) < p for p in (0.1, 0.7))
    rule = {"ratio": ratio, "cap": cap, "positive_fill": fill, "candidates": candidates}
    found = at_every_level(lambda: [ops.select_hard_negatives(keys, positive, **rule)])
    equal(found, [reference.mining.select_hard_negatives(keys, positive, **rule)])


@cases
@given(
    seed=seeds,
    values=st.lists(numbers, min_size=1, max_size=3),
    share=st.sampled_from([0.0, 0.05]),
    classes=st.sampled_from([2, 8, 17]),
    background=st.sampled_from(["first", "last"]),
    offset=st.sampled_from([-1, 0, 2]),
    ignored=st.sampled_from(["none", "background", "a class", "no class"]),
)
def test_fuzz_ready_targets(seed, values, share, classes, background, offset, ignored):
    """A label may be the background's, the ignored one, or both."""
    generator = torch.Generator().manual_seed(seed)
    own, other = (0, classes - 1) if background == "first" else (classes - 1, 0)
    choice = torch.randint(0, 10, (2, 70), generator=generator)
    target = torch.where(choice == 0, other, own)
    ignore = {"none": None, "background": own - offset, "a class": other - offset, "no class": 1000}[ignored]
    given_target = target - offset
    if ignored == "no class":
        given_target = torch.where(choice == 1, 1000, given_target)
    skipped = given_target == ignore if ignore is not None else torch.zeros_like(choice, dtype=torch.bool)
    conf, loc = sown(generator, (2, 70, classes), values, share), torch.zeros(2, 70, 4)
    config = MultiBoxConfig(background=background, label_offset=offset, ignore_label=ignore)
    found = at_every_level(
        lambda: [ops.multibox_loss_on_targets(loc, conf, loc, given_target, config).classification]
    )
    positive, candidates = (target == other) & ~skipped, (target == own) & ~skipped
    losses = reference.multibox.cross_entropy(conf, target)
    mined = reference.mining.select_hard_negatives(losses, positive, candidates=candidates)
    expected = losses[positive | mined].double().sum() / positive.sum().clamp(min=1)
    for (loss,) in found:
        torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=0, equal_nan=True)
