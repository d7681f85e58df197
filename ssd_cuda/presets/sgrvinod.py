"""sgrvinod/a-PyTorch-Tutorial-to-Object-Detection."""

from __future__ import annotations

MULTIBOX = {
    "sgrvinod": dict(
        match=dict(degenerate="keep"),
        mining=dict(cap="all", positive_fill="zero"),
        loc_loss="l1",
        loc_reduction="mean4",
        clamp_normalizer=False,
    )
}

DETECT = {"sgrvinod": dict(top_k=None)}

PRIORS = {
    "sgrvinod": dict(
        sizes=(0.1, 0.2, 0.375, 0.55, 0.725, 0.9),
        larger_sizes=(0.2, 0.375, 0.55, 0.725, 0.9, 1 / 0.9),  # the last square has side 1
        units="fraction",
        ratios=((1, 2, 0.5), *((1, 2, 3, 0.5, 0.333),) * 3, (1, 2, 0.5), (1, 2, 0.5)),
        ratio_order="listed",
        steps=None,
        clip="cxcywh",
    )
}
