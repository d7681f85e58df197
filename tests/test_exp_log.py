"""exp and log of the kernels, seen through decode and encode: how near they are, what they do at the ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from simd_levels import at_every_level

from ssd_cuda import ops

# The widest number numpy has: 64 bits of mantissa on x86-64, 113 on Arm.
WIDE = np.longdouble
DTYPES = [torch.float32, torch.float64]
needs_wide = pytest.mark.skipif(np.finfo(WIDE).nmant < 63, reason="no numpy type wider than float64")


def unit_priors(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[0, 0, 1, 1]], dtype=x.dtype).expand(len(x), 4)


def exp(x: torch.Tensor) -> torch.Tensor:
    """The width of a box decoded onto a prior of width 1 at 0: from -w / 2 to w / 2, both exact."""
    rows = torch.zeros(len(x), 4, dtype=x.dtype)
    rows[:, 2] = x
    return 2 * ops.decode(rows, unit_priors(x), (1.0, 1.0))[:, 2]


def log(x: torch.Tensor) -> torch.Tensor:
    """The code of the width of a box [0, 0, x, 1] on such a prior."""
    boxes = torch.zeros(len(x), 4, dtype=x.dtype)
    boxes[:, 2], boxes[:, 3] = x, 1
    return ops.encode(boxes, unit_priors(x), (1.0, 1.0))[:, 2]


def ulps(result: torch.Tensor, expected: np.ndarray) -> float:
    """The largest error in units in the last place of the expected number."""
    info = np.finfo(result.numpy().dtype)
    exponent = np.maximum(np.frexp(expected)[1] - 1, info.minexp)
    unit = np.ldexp(WIDE(1), exponent - info.nmant)
    return float(np.max(np.abs(result.numpy().astype(WIDE) - expected) / unit))


def spread(low: float, high: float, dtype: torch.dtype, count: int = 20_000) -> torch.Tensor:
    return torch.empty(count, dtype=dtype).uniform_(low, high)


@needs_wide
@pytest.mark.parametrize(
    "dtype, low, high", [(torch.float32, -87, 88), (torch.float64, -708, 709), (torch.float64, -1, 1)]
)
def test_exp_is_within_its_bound(dtype, low, high):
    x = spread(low, high, dtype)
    assert ulps(exp(x), np.exp(x.numpy().astype(WIDE))) < (1 if dtype == torch.float64 else 2)


@needs_wide
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 2), (torch.float64, 1)])
@pytest.mark.parametrize("low, high", [(-1, 1), (0, 7), (-120, 120)])
def test_log_is_within_its_bound(dtype, bound, low, high):
    x = torch.exp2(spread(low, high, dtype))
    assert ulps(log(x), np.log(x.numpy().astype(WIDE))) < bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_at_the_ends(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    x = torch.tensor([1.0, 0.0, -1.0, math.inf, math.nan, tiny, tiny / 2, tiny / 1024], dtype=dtype)
    result = log(x)
    assert result[:2].tolist() == [0, -math.inf] and result[3] == math.inf
    assert result[[2, 4]].isnan().all()
    torch.testing.assert_close(result[5:], x[5:].log(), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_exp_at_the_ends_in_float64():
    """As the library has it: subnormal results, 0 and inf beyond."""
    x = torch.tensor([0.0, -744.0, -746.0, -math.inf, 709.7, 710.0, math.inf, math.nan], dtype=torch.float64)
    result, expected = exp(x), torch.tensor([math.exp(v) if v < 710 else v for v in x])
    assert result[[0, 2, 3]].tolist() == [1, 0, 0]
    assert result[5:7].tolist() == [math.inf] * 2 and result[7].isnan()
    torch.testing.assert_close(result[[1, 4]], expected[[1, 4]].double(), rtol=3e-16, atol=5e-324)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_and_vectors_give_the_same_bits(dtype):
    """Rows alone, which no vector holds, and all together."""
    x = torch.cat([spread(-20, 20, dtype, 67), spread(0, 1e-3, dtype, 67)])
    for function in (exp, log):
        alone = torch.cat([function(x[i : i + 1]) for i in range(len(x))])
        for together in at_every_level(lambda f=function: f(x)):
            assert torch.equal(together.nan_to_num(7), alone.nan_to_num(7))
