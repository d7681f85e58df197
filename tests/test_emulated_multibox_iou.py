"""The MultiBox kernels with losses of boxes: the reference's values, the bits of the CPU's kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulator.harness import kernels
from multibox_cases import batch_of, gradients
from test_emulated_multibox import assert_is_reference, emulated
from test_exp_log import WIDE, needs_wide, spread, ulps
from test_multibox_iou import DTYPES, KINDS

from ssd_cuda import MatchConfig, MultiBoxConfig, ops


@pytest.fixture(scope="module")
def multibox():
    return kernels("multibox").with_seeds(0, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_options(multibox, kind):
    for change in (
        dict(),
        dict(loc_weight=2.5, normalizer="per_image", variances=(0.2, 0.1, 0.3, 0.15)),
        dict(layout="bcp", match=MatchConfig(prior_format="xyxy"), zero_label="localize"),
        dict(label_smoothing=0.1, normalizer="global"),
    ):
        config = MultiBoxConfig(loc_loss=kind, **change)
        loc, conf, gt, priors = batch_of(config, (4, 0, 2))
        assert_is_reference(multibox, loc, conf, gt, priors, config)
        own = priors[None] + 0.05 * torch.rand(3, 1, 1)
        assert_is_reference(multibox.with_seeds(0), loc.detach(), conf.detach(), gt, own, config)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_have_the_bits_of_the_cpu_kernels(multibox, kind, dtype):
    """One positive: a single term, whose sum has no order."""
    config = MultiBoxConfig(loc_loss=kind, match=MatchConfig(iou_threshold=1.0))
    for _ in range(5):
        loc, conf, gt, priors = batch_of(config, (1,), width=40, dtype=dtype)
        loc.requires_grad_(), conf.requires_grad_()
        mine = emulated(multibox.with_seeds(0), loc, conf, gt, priors, config, (1.5, 0.7))
        cpu = ops.multibox_loss(loc, conf, gt, priors, config)
        assert cpu.num_positives == 1 and torch.equal(mine[0][0], cpu.localization.detach())
        assert torch.equal(mine[4], gradients(cpu, loc, conf)[0])


@needs_wide
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low, high", [(-3, 3), (-0.5, 0.5), (0.41, 0.42), (2.41, 2.42), (-1e5, 1e5)])
def test_atan_is_within_its_bound(multibox, dtype, low, high):
    x = spread(low, high, dtype)
    found = multibox.with_seeds(0).arctangents(x)
    assert ulps(found, np.arctan(x.numpy().astype(WIDE))) < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_atan_at_the_ends(multibox, dtype):
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, tiny], dtype=dtype)
    found = multibox.with_seeds(0).arctangents(x)
    assert torch.equal(found.nan_to_num(9.0), x.atan().nan_to_num(9.0))
