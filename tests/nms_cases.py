"""What the tests of emulated nms share: panels that few boxes fill, a call and its reference, scenes."""

from __future__ import annotations

import torch
from emulator.harness import kernels

from ssd_cuda import reference

# A few hundred boxes fill several panels; three looks, so that some are left to the last block.
SMALL = {"first_panel": 64, "growth": 2, "attempts": 3}
AT_ONCE = SMALL | {"attempts": 64}  # enough for most
LEFT = SMALL | {"attempts": 0}  # every box that has a suppressor is left
MANY = SMALL | {"at_once": 1}  # as on a card that is full with few boxes: fewer lanes a box, 16 boxes a block
SOME = AT_ONCE | {"at_once": 1024}  # some panels are few boxes and some many


def tuning(**changes):
    """NmsTuning: what ships but for the changes."""
    chosen = kernels("nms").module.Tuning()
    for name, value in changes.items():
        setattr(chosen, name, value)
    return chosen


def suppression(threshold, inclusive, iou_eps, pixel_offset):
    return {
        "iou_threshold": threshold,
        "inclusive": inclusive,
        "iou_eps": iou_eps,
        "pixel_offset": pixel_offset,
    }


def run(
    emulated,
    boxes,
    scores,
    threshold,
    idxs=None,
    *,
    rows=None,
    inclusive=False,
    iou_eps=0.0,
    pixel_offset=0.0,
    panels=None,
):
    """(keep [rows], count [])"""
    options = suppression(threshold, inclusive, iou_eps, pixel_offset)
    options["max_output"] = len(boxes) if rows is None else rows
    chosen = tuning(**(panels or {}))
    if len(kernels("nms").module.panels(len(boxes), chosen)) > 1:
        assert {0, 2} <= set(emulated.seeds), "what panels hand on to each other depends on the schedule"
    keep, count = emulated.nms(boxes, scores, idxs, options, chosen)
    return keep, int(count)


def same(emulated, boxes, scores, threshold, idxs=None, *, panels=None, **options):
    if idxs is None:
        expected = reference.nms.nms(boxes, scores, threshold, **options)
    else:
        expected = reference.nms.batched_nms(boxes, scores, idxs, threshold, **options)
    keep, count = run(emulated, boxes, scores, threshold, idxs, panels=panels, **options)
    assert torch.equal(keep[:count], expected)
    assert bool((keep[count:] == -1).all())
    return count


def scene(n, size=30.0, extent=300.0):
    corner = torch.rand(n, 2) * extent
    return torch.cat([corner, corner + size * (0.2 + torch.rand(n, 2))], 1)


def chain(n):
    """Each box overlaps its two neighbours by an IoU of 1/3."""
    x = torch.arange(n).float()
    return torch.stack([x, torch.zeros(n), x + 2, torch.ones(n)], 1)
