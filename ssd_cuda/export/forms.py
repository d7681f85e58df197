"""The modules that are exported: a network with as much behind it as the form wants."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import ops
from .greedy import at_least, just_above
from .network import Network

__all__ = ["FORMS", "Detecting", "Raw", "TensorRT"]


class _Form(nn.Module):
    """Runs the network; ``outputs`` names what :meth:`forward` gives."""

    outputs: tuple[str, ...]
    priors: Tensor
    scale: Tensor | None

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module, self.config = network.module, network.config
        self.register_buffer("priors", network.priors, persistent=False)
        self.register_buffer("scale", network.scale, persistent=False)

    def in_fractions(self, boxes: Tensor) -> Tensor:
        return boxes if self.scale is None else boxes / self.scale

    def all_boxes(self, loc: Tensor) -> Tensor:
        """``[B, P, 4]``, decoded and, if that comes before NMS, clipped."""
        config = self.config
        if config.layout == "bcp":
            loc = loc.transpose(1, 2)
        boxes = ops.decode(
            loc,
            self.priors,
            config.variances,
            prior_format=config.prior_format,
            max_log_scale=config.max_log_scale,
            symmetric_log_scale=config.symmetric_log_scale,
        )
        if config.clip == "before":
            width, height = config.clip_size
            boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        return boxes

    def all_scores(self, conf: Tensor) -> Tensor:
        """``[B, P, C]``, background included."""
        if self.config.layout == "bcp":
            conf = conf.transpose(1, 2)
        conf = conf.float()
        if self.config.scores == "softmax":
            return conf.softmax(-1)
        return conf.sigmoid() if self.config.scores == "sigmoid" else conf


class Detecting(_Form):
    """The whole detection: what ``model.detect`` gives, as plain tensors."""

    outputs: tuple[str, ...] = ("boxes", "scores", "labels", "prior_indices", "counts")

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.landmarks = network.landmarks
        if network.landmarks:
            self.outputs = (*self.outputs, "landmarks")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        loc, conf, *codes = self.module(*inputs)
        extra = codes[0] if self.landmarks else None
        found = ops.detect(loc, conf, self.priors, self.config, extra=extra)
        parts = [found.scores, found.labels, found.prior_indices, found.counts]
        if extra is not None:
            points = ops.decode_landmarks(found, self.priors, prior_format=self.config.prior_format)
            parts.append(points if self.scale is None else points / self.scale[:2].repeat(5))
        return self.in_fractions(found.boxes), *parts


class Raw(_Form):
    """Every box and every score; thresholds and NMS are the caller's."""

    outputs = ("boxes", "scores")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        loc, conf = self.module(*inputs)[:2]
        return self.in_fractions(self.all_boxes(loc)), self.all_scores(conf)


class TensorRT(_Form):
    """Boxes and scores into TensorRT's plugin EfficientNMS_TRT; its outputs have its own names.

    Its attributes are those of the plugin's documentation (NVIDIA/TensorRT, plugin/efficientNMSPlugin):
    corners (``box_coding`` 0), probabilities (``score_activation`` 0), the background left out before
    (``background_class`` -1). It keeps scores >= ``score_threshold`` and removes at an IoU >=
    ``iou_threshold``, each one number.
    """

    outputs = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        loc, conf = self.module(*inputs)[:2]
        scores, config = self.all_scores(conf), self.config
        first = int(config.background == "first")
        last = scores.shape[2] - int(config.background == "last")
        boxes, most = self.in_fractions(self.all_boxes(loc)), int(config.detections_per_image or 0)
        batch = boxes.shape[0]
        attributes: dict[str, Any] = {
            "score_threshold": just_above(cast(float, config.score_threshold)),
            "iou_threshold": at_least(cast(float, config.iou_threshold), config.inclusive),
            "max_output_boxes": most,
            "background_class": -1,
            "score_activation": 0,
            "class_agnostic": int(config.class_agnostic),
            "box_coding": 0,
            "plugin_version": "1",
        }
        counts, found, best, labels = torch.onnx.ops.symbolic_multi_out(
            "TRT::EfficientNMS_TRT",
            (boxes, scores[:, :, first:last]),
            attributes,
            dtypes=(torch.int32, torch.float32, torch.float32, torch.int32),
            shapes=((batch, 1), (batch, most, 4), (batch, most), (batch, most)),
            version=1,
        )
        return counts, found, best, labels + first


FORMS: dict[str, type[_Form]] = {"nms": Detecting, "raw": Raw, "tensorrt": TensorRT}
