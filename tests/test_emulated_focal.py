"""The focal kernels' device code on a CPU: the reference's numbers and the bits of the CPU kernel."""

from __future__ import annotations

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from focal_cases import CHANGES, WEIGHTS, assert_close, batch_of, reference_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_focal import DTYPES, run

from ssd_cuda import FocalConfig, is_available, ops
from ssd_cuda.ops.focal import op_options


def check(loc, conf, gt, priors, config, seeds=(0, 3), architecture=90):
    wide = torch.float64 if conf.dtype == torch.float64 else torch.float32
    codes = ops.match(gt, priors, config=config.match)
    found = kernels("focal").with_seeds(*seeds).on(architecture).loss(
        loc, conf, config.layout == "bcp", gt.boxes.to(wide), gt.labels, codes, gt.offsets, priors.to(wide),
        op_options(config), *WEIGHTS,
    )  # fmt: skip
    assert_close((found[:3], found[3:]), reference_of(loc, conf, gt, priors, config), conf.dtype)
    if is_available():
        losses, gradients = run(loc, conf, gt, priors, config)
        for ours, theirs in zip(found, (*losses, *gradients), strict=True):
            assert torch.equal(ours.reshape(theirs.shape), theirs) or theirs.isnan().any()


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_options(change):
    for layout, seeds in (("bpc", (0, 3)), ("bcp", (0,))):
        config = FocalConfig(layout=layout, **change)
        check(*batch_of(config, width=60), config, seeds=seeds)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_dtypes(dtype, form, layout):
    config = FocalConfig(form=form, layout=layout)
    check(*batch_of(config, width=70, classes=9, dtype=dtype), config, seeds=(0,))


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    "width, classes", [(1, 1), (1, 2), (520, 2), (33, 91), (4, 1030), (129, 7), (9, 2000)]
)
def test_sizes(form, width, classes):
    config = FocalConfig(form=form)
    case = batch_of(config, (2, 1), width, classes)
    if classes == 1:
        case[2].labels.zero_()
    check(*case, config, seeds=(0,))


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("counts, width", [((), 9), ((0, 0), 0), ((0, 0), 9), ((1,) * 33, 5)])
def test_batches(form, counts, width):
    for normalizer in ("batch", "per_image"):
        config = FocalConfig(form=form, normalizer=normalizer, clamp_normalizer=False)
        check(*batch_of(config, counts, width), config, seeds=(0,))


def test_certain_rows():
    """Softmax shares of 1 and 0: a loss of 0, a factor of 0, no 0 / 0."""
    for gamma in (0.0, 0.5, 2.0):
        config = FocalConfig(form="softmax", gamma=gamma)
        loc, conf, gt, priors = batch_of(config, (2, 0, 1), 64, 5)
        conf[:, ::2, 0] += 100
        conf[:, 1::4, 3] += 100
        check(loc, conf, gt, priors, config, seeds=(0,))


@settings(max_examples=fuzz_examples(6), deadline=None)
@given(
    seed=st.integers(0, 2**31),
    form=st.sampled_from(["sigmoid", "softmax"]),
    layout=st.sampled_from(["bpc", "bcp"]),
    width=st.integers(1, 120),
    classes=st.integers(2, 30),
    gamma=st.sampled_from([0.0, 1.0, 2.0, 0.5, 3.3]),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_fuzz(seed, form, layout, width, classes, gamma, scale):
    torch.manual_seed(seed)
    config = FocalConfig(form=form, layout=layout, gamma=gamma, match={"candidate_max_iou": 0.2})
    loc, conf, gt, priors = batch_of(config, (2, 0, 1), width, classes)
    check(loc, conf * scale / 3, gt, priors, config, seeds=(seed % 5,))
