"""chengyangfu/caffe, branch dssd: Fu et al. 2017, on ResNet. Loss and detection are those of caffe's SSD."""

from __future__ import annotations

from typing import Any

from ._sizes import chain
from .caffe import DETECT as _DETECT
from .caffe import MULTIBOX as _MULTIBOX

MULTIBOX = {"dssd": _MULTIBOX["paper"]}
DETECT: dict[str, dict[str, Any]] = {"dssd": _DETECT["paper"]}


def _levels(image: int, maps: tuple[int, ...], steps: tuple[int, ...], centres: tuple[float, ...]) -> dict:
    """centres: of the first cell of a level, in pixels.

    The released layer takes the quotient for an offset, adds it to the cell and multiplies by the step, so
    the first centre lies where the receptive field's does.
    """
    return dict(
        image_size=(image, image),
        feature_maps=maps,
        steps=steps,
        offset=tuple(centre / step for centre, step in zip(centres, steps, strict=True)),
        ratios=((1.6, 2, 3),) * len(maps),
        integer_sizes=True,
    )


PRIORS = {
    "dssd321": {
        **_levels(321, (40, 20, 10, 5, 3, 1), (8, 16, 32, 64, 64, 321), (2.5, 2.5, 10.5, 26.5, 90.5, 160.5)),
        **chain((32, 64, 121, 179, 237, 295, 353)),
    },
    "dssd513": {
        **_levels(
            513,
            (64, 32, 16, 8, 4, 2, 1),
            (8, 16, 32, 64, 128, 256, 513),
            (2.5, 2.5, 10.5, 26.5, 58.5, 122.5, 256.5),
        ),
        **chain((20, 51, 138, 225, 312, 400, 487, 574)),
    },
}
