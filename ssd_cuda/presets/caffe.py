"""weiliu89/caffe, branch ssd: the original, and the paper's rule.

Caffe's layers pass priors as corners (``format="xyxy"`` makes these); the presets of one name go together,
so all of them speak of centres, as the paper does.
"""

from __future__ import annotations

from typing import Any

from ._sizes import SSD512, chain

_LOSS = dict(
    match=dict(forced="bipartite", forced_min_iou=1e-6, candidate_max_iou=0.5),
    mining=dict(cap="negatives"),
)
MULTIBOX = {"caffe": _LOSS, "paper": _LOSS}

DETECT: dict[str, dict[str, Any]] = {"caffe": {}, "paper": {}}


def _percent_sizes(first: int, low: int, high: int, step: int, image: int) -> dict[str, Any]:
    """Whole percents of the image, ``low, low + step ... high``, and ``first`` in front."""
    percents = [first, *range(low, high + 1, step)]
    return chain([image * p / 100 for p in [*percents, percents[-1] + step]])


_COMMON: dict[str, Any] = dict(integer_sizes=True)
_SSD300 = {**_COMMON, **_percent_sizes(10, 20, 90, 17, 300)}
PRIORS = {
    "caffe": _SSD300,
    "paper": _SSD300,
    "paper512": {**_COMMON, **SSD512, **_percent_sizes(7, 15, 90, 15, 512)},
}
