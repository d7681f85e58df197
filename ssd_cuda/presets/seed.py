"""The loss that this project began with."""

from __future__ import annotations

from ._sizes import chain

MULTIBOX = {
    "seed": dict(
        mining=dict(cap="all_but_one", positive_fill="zero", count_positives_twice=True), ignored_key="zero"
    )
}

PRIORS = {
    "seed": dict(
        **chain([0.2 + (0.9 - 0.2) * k / 5 for k in range(6)] + [1.0]),
        units="fraction",
        ratios=((1, 2, 1 / 2), *((1, 2, 3, 1 / 2, 1 / 3),) * 3, (1, 2, 1 / 2), (1, 2, 1 / 2)),
        ratio_order="listed",
        steps=None,
        clip="cxcywh",
    )
}
