"""focal: the loss on known matches, forward + backward, beside torchvision's composition and plain PyTorch.

python -m benchmarks focal
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ssd_cuda import FocalConfig, ops
from ssd_cuda.reference.focal import softmax_focal

from . import scenes
from .harness import Case, Contest

ALPHA, GAMMA = 0.25, 2.0


def _sigmoid_terms(conf: Tensor, target: Tensor) -> Tensor:
    """As in torchvision's RetinaNetClassificationHead.compute_loss."""
    from torchvision.ops import sigmoid_focal_loss

    true = torch.zeros_like(conf)
    rows = (target > 0).nonzero(as_tuple=True)
    true[(*rows, target[rows])] = 1.0
    return sigmoid_focal_loss(conf, true, ALPHA, GAMMA, "sum")


def _softmax_terms(conf: Tensor, target: Tensor) -> Tensor:
    rows, labels = conf.flatten(0, 1), target.flatten()
    return softmax_focal(rows, labels, labels > 0, ALPHA, GAMMA).sum()


def _composed(
    terms: Callable[[Tensor, Tensor], Tensor], loc: Tensor, conf: Tensor, loc_target: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    positive = target > 0
    count = positive.sum().clamp(min=1)
    localization = F.smooth_l1_loss(loc[positive], loc_target[positive], reduction="sum")
    return localization / count, terms(conf, target) / count


def _step(loss: Callable[[], tuple[Tensor, ...]], loc: Tensor, conf: Tensor) -> tuple[Tensor, ...]:
    localization, classification, *_ = loss()
    gradients = torch.autograd.grad(localization + classification, (loc, conf))
    return localization, classification, *gradients


def _contest(device: torch.device, *, b: int, c: int, form: str, dtype: torch.dtype) -> Contest:
    priors = scenes.priors(device)
    boxes, labels = scenes.targets(b, 7, c, device)
    gt = scenes.ground_truth(boxes, labels)
    config = FocalConfig(form=form, match={"prior_format": "xyxy"})
    codes = ops.match(gt, priors, config=config.match)
    rows = gt.offsets[:-1, None] + codes.clamp(min=0)
    target = torch.where(codes >= 0, gt.labels[rows], 0)
    loc_target = ops.encode(gt.boxes[rows], priors, prior_format="xyxy")
    loc, conf = (x.to(dtype).requires_grad_() for x in scenes.head(b, c, device, **scenes.TRAINED))
    terms = _sigmoid_terms if form == "sigmoid" else _softmax_terms

    def ours() -> tuple[Tensor, ...]:
        return _step(lambda: ops.focal_loss(loc, conf, gt, priors, config, codes=codes), loc, conf)

    def theirs() -> tuple[Tensor, ...]:
        return _step(lambda: _composed(terms, loc, conf, loc_target, target), loc, conf)

    def check() -> None:
        wide = [x.detach().float().requires_grad_() for x in (loc, conf)]
        expected = _step(lambda: _composed(terms, *wide, loc_target, target), *wide)
        half = dtype != torch.float32
        for mine, other in zip(ours(), expected, strict=True):
            torch.testing.assert_close(
                mine.float(), other, rtol=1e-3 if half else 1e-4, atol=1e-4 if half else 1e-6
            )

    # The logits read twice, their gradient written; loc's gradient, a code and a column.
    p, size = scenes.SSD300_PRIORS, conf.element_size()
    moved = b * p * ((3 * c + 4) * size + 12)
    return Contest(ours, {"torchvision" if form == "sigmoid" else "reference": theirs}, check, moved)


def cases() -> list[Case]:
    """SSD300's 8732 priors, 7 boxes an image, matched already."""
    found = []
    for form, baseline in (("sigmoid", "torchvision"), ("softmax", "reference")):
        for b, c, dtype in ((8, 21, torch.float32), (32, 91, torch.float32), (32, 81, torch.float16)):
            name = f"{form} B={b} C={c}{', fp16' if dtype == torch.float16 else ''}"
            params = {"P": scenes.SSD300_PRIORS, "B": b, "C": c}
            make = functools.partial(_contest, b=b, c=c, form=form, dtype=dtype)
            devices = ("cuda",) if dtype == torch.float16 else ("cpu", "cuda")
            found.append(Case("focal", name, params, make, "", (baseline,), devices))
    return found
