"""exp, log and softmax as the ops state them, in plain PyTorch and to the bit.

Library functions differ from each other in the last bits, and so would the order of two scores. In float32
the ops take their own exp and log: polynomials with fused multiply-adds, the same operations on every device,
each rounded once. Here they are once more, written from that statement. float64 takes torch's functions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def _float32(*numbers: float) -> tuple[float, ...]:
    return tuple(torch.tensor(numbers, dtype=torch.float32).tolist())


# LN2_HIGH + LN2_LOW is ln 2; a whole number times the first is exact.
LOG2_E, LN2_HIGH, LN2_LOW = _float32(1.44269504088896341, 0.693359375, -2.12194440e-4)
EXP = _float32(1.381454e-3, 8.368745e-3, 4.166839e-2, 1.6666521e-1, 4.9999994e-1, 1, 1)
LOG = (
    *_float32(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *_float32(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
LANES = 32  # partial sums of a softmax row


def fma(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """a * b + c of float32 numbers, rounded once.

    The product is exact in float64. Its sum with c is rounded to odd (an inexact sum gets an odd last bit),
    so that the second rounding, to float32, gives what one rounding of the exact sum gives (Boldo and
    Melquiond 2008).
    """
    b, c = (x.double() if isinstance(x, Tensor) else x for x in (b, c))
    product = a.double() * b
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)  # of that sum, exactly (Knuth's two-sum)
    outwards = torch.nextafter(total, torch.where(error > 0, math.inf, -math.inf).double())
    even = total.view(torch.int64) % 2 == 0
    return torch.where((error != 0) & even, outwards, total).float()


def _power_of_two(n: Tensor) -> Tensor:
    """2^n in float32 for whole n in [-127, 128]; 0 and inf at the ends. By its bits."""
    return ((n.to(torch.int32) + 127) << 23).view(torch.float32)


def _exp(x: Tensor) -> Tensor:
    """2^n e^r with n = round(x log2 e): below -88 it is 0 or next to it, above 88.37 inf; NaN stays NaN."""
    x = x.clamp(-88.0, 89.0)
    n = fma(x, LOG2_E, 12582912.0) - 12582912.0  # 1.5 * 2^23: adding it rounds to a whole number
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))
    p = torch.full_like(r, EXP[0])
    for coefficient in EXP[1:]:
        p = fma(p, r, coefficient)
    return p * _power_of_two(n.nan_to_num())


def _log(x: Tensor) -> Tensor:
    """n ln 2 + log(m) with m = x / 2^n in [sqrt(1/2), sqrt(2)), for a normal x > 0; inf and NaN stay."""
    bits = x.view(torch.int32)
    n = (bits - 0x3F3504F3) >> 23
    y = (bits - (n << 23)).view(torch.float32) - 1
    n = n.float()
    z = y * y
    p = torch.full_like(y, LOG[0])
    for coefficient in LOG[1:]:
        p = fma(p, y, coefficient)
    p = fma(p * y, z, n * LN2_LOW)
    p = fma(z, -0.5, p)
    return torch.where(x < math.inf, fma(n, LN2_HIGH, y + p), x)


class _Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = _exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]


class _Log(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _log(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / ctx.saved_tensors[0]


def exp(x: Tensor) -> Tensor:
    return torch.exp(x) if x.dtype == torch.float64 else _Exp.apply(x)


def log(x: Tensor) -> Tensor:
    return torch.log(x) if x.dtype == torch.float64 else _Log.apply(x)


def sum_in_order(x: Tensor) -> Tensor:
    """[..., C] -> [...], one after the other: equal rows give equal bits wherever they stand."""
    total = torch.zeros_like(x[..., 0])
    for column in x.unbind(-1):
        total = total + column
    return total


def softmax(x: Tensor) -> Tensor:
    """[..., C]: exp(x - max) over their sum. In float32 column c is added to partial sum c mod 32, in order;
    then the upper half of the partial sums is added to the lower one, until one is left."""
    if x.dtype == torch.float64 or x.shape[-1] == 0:
        return torch.softmax(x, -1)
    e = exp(x - x.amax(-1, keepdim=True))
    padded = torch.nn.functional.pad(e, (0, -x.shape[-1] % LANES))
    sums = sum_in_order(padded.unflatten(-1, (-1, LANES)).transpose(-1, -2))
    while sums.shape[-1] > 1:
        sums = sums[..., : sums.shape[-1] // 2] + sums[..., sums.shape[-1] // 2 :]
    return e / sums


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x) if x.dtype == torch.float64 else 1 / (1 + exp(-x))
