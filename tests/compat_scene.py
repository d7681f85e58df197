"""One scene for the tests of the drop-ins; each is called as its codebase calls it, and must give what that
codebase's rule gives. The calls are stand-ins written for these tests; the values come from
ssd_cuda.reference.dialects.
"""

from __future__ import annotations

import torch
from conftest import random_boxes, random_priors

from ssd_cuda import ops

B, P, C = 3, 300, 6


def scene(first_label: int = 1, counts=(4, 1, 9)):
    """Predictions that require gradients, priors, and per image boxes and labels."""
    torch.manual_seed(11)
    loc = torch.randn(B, P, 4, requires_grad=True)
    conf = (2 * torch.randn(B, P, C)).requires_grad_()
    boxes = [random_boxes(n) for n in counts]
    labels = [torch.randint(first_label, C - 1 + first_label, (n,)) for n in counts]
    return loc, conf, random_priors(P), boxes, labels


def assert_same(ours: tuple, theirs: tuple, inputs: tuple):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    mine = torch.autograd.grad(sum(ours), inputs, retain_graph=True)
    other = torch.autograd.grad(sum(theirs), inputs, retain_graph=True)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def encoded_targets(boxes, labels, priors, **rule):
    """What a data loader hands over: a class and a box code for every prior."""
    codes, classes = torch.zeros(B, P, 4), torch.zeros(B, P, dtype=torch.int64)
    owners = ops.match(ops.GroundTruth.from_list(boxes, labels), priors, **rule)
    for i in range(B):
        rows = owners[i] >= 0
        classes[i, rows] = labels[i][owners[i, rows].long()]
        codes[i, rows] = ops.encode(boxes[i][owners[i, rows].long()], priors[rows])
    return classes, codes
