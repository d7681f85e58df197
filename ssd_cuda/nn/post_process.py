"""The post-process as a module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..config import DetectConfig
from ..ops.detect import Detections, detect
from ._scripting import NotScriptable


def _detached(value: Any) -> Any:
    """What is no tensor is for detect to refuse, by its name."""
    return value.detach() if isinstance(value, Tensor) else value


class PostProcess(NotScriptable, nn.Module):
    """:func:`ssd_cuda.ops.detect` with its options fixed.

    It has no parameters and no state. Gradients stop here: inputs that require one are detached.

    Args:
        config: the options, a dict of some, or the name of a preset; None is ``DetectConfig()``, the rule of
            the paper.

    Example:
        >>> post_process = nn.PostProcess(ssd_cuda.DetectConfig(score_threshold=0.5))
        >>> priors = torch.tensor([[0.3, 0.3, 0.4, 0.4]])
        >>> post_process(torch.zeros(1, 1, 4), torch.tensor([[[0.0, 4.0]]]), priors).counts
        tensor([1])
    """

    def __init__(self, config: DetectConfig | dict | str | None = None) -> None:
        super().__init__()
        self.config = DetectConfig.of(config)

    def forward(
        self,
        loc: Tensor,
        conf: Tensor,
        priors: Tensor,
        extra: Tensor | None = None,
        clip_sizes: Tensor | None = None,
    ) -> Detections:
        """The arguments of :func:`ssd_cuda.ops.detect`, in its order."""
        loc, conf, priors = (_detached(value) for value in (loc, conf, priors))
        more = {"extra": _detached(extra), "clip_sizes": _detached(clip_sizes)}
        return detect(loc, conf, priors, self.config, **more)

    def extra_repr(self) -> str:
        return f"config={self.config}"
