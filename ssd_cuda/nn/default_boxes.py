"""The default boxes of SSD as a module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from ..config import PriorSpec, check_list
from ._scripting import NotScriptable

_RATIOS = ([1, 2, 1 / 2], *[[1, 2, 3, 1 / 2, 1 / 3]] * 3, [1, 2, 1 / 2], [1, 2, 1 / 2])


class DefaultBoxGenerator(NotScriptable, nn.Module):
    """Default boxes with scales ``0.2 + 0.7 k / (m - 1)`` and then 1, over square feature maps.

    Per cell: the square s_k, the square ``sqrt(s_k s_(k+1))``, and ``(s sqrt r, s / sqrt r)`` for every ratio
    r other than 1 in the order of its list; all four numbers are cut to [0, 1]. It has no parameters and no
    buffers, so it adds nothing to a state dict.

    Args:
        image_size: side of the square image in pixels. The boxes are fractions: it is kept for the caller.
        feature_maps: cells per side of each map, two maps or more.
        aspect_ratios: per map its ratios; None: 2 and 1/2, for the second to the fourth map also 3 and 1/3.

    Raises:
        ValueError, TypeError: fewer than two maps, a map without cells or without a list of ratios.

    Example:
        >>> nn.DefaultBoxGenerator().generate().shape
        torch.Size([8732, 4])
    """

    def __init__(
        self,
        image_size: int = 300,
        feature_maps: Sequence[int] = (38, 19, 10, 5, 3, 1),
        aspect_ratios: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        check_list("feature_maps", feature_maps, "of integers")
        if aspect_ratios is not None:
            check_list("aspect_ratios", aspect_ratios, "of lists")
            for index, row in enumerate(aspect_ratios):
                check_list(f"aspect_ratios[{index}]", row, "of numbers")
        levels = len(feature_maps)
        if levels < 2:
            raise ValueError(f"feature_maps must have at least two entries, got {list(feature_maps)}")
        self.image_size = image_size
        self.feature_maps = list(feature_maps)
        self.aspect_ratios = [list(row) for row in (_RATIOS if aspect_ratios is None else aspect_ratios)]
        if len(self.aspect_ratios) < levels:
            raise ValueError(
                f"aspect_ratios must have one list per feature map ({levels}), got {len(self.aspect_ratios)}"
            )
        self.scales = [0.2 + (0.9 - 0.2) * k / (levels - 1) for k in range(levels)] + [1.0]
        self.spec()  # raises here, not at the first call

    def spec(self) -> PriorSpec:
        """These boxes as a :class:`~ssd_cuda.PriorSpec`."""
        levels = len(self.feature_maps)
        return PriorSpec(
            image_size=(self.image_size, self.image_size),
            feature_maps=tuple(self.feature_maps),
            sizes=tuple(self.scales[:levels]),
            larger_sizes=tuple(self.scales[1 : levels + 1]),
            ratios=tuple(tuple(row) for row in self.aspect_ratios[:levels]),
            units="fraction",
            ratio_order="listed",
            steps=None,
            clip="cxcywh",
        )

    def generate(self, device: torch.device | str = "cpu") -> Tensor:
        """``[P, 4]`` cx, cy, w, h in fractions of the image, float32; a fresh tensor on every call."""
        return ops.generate_priors(self.spec(), device).clone()

    def forward(self, device: torch.device | str = "cpu") -> Tensor:
        """Same as :meth:`generate`."""
        return self.generate(device)
