"""The sync-free paths of the library as static workloads: inputs in fixed buffers, one call, tensors out.

The contract tests run each on both devices, under a graph, under the sanitizer and with other thread counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssd_cuda import DetectConfig, FocalConfig, MultiBoxConfig, ops

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Workload:
    """``fresh(generator)`` makes inputs on the CPU; ``call(inputs)`` returns the outputs, in order."""

    name: str
    fresh: Callable[[torch.Generator], Tensors]
    call: Callable[[Tensors], list[Tensor]]


B, P, C, G = 3, 700, 21, 9


def _boxes(g: torch.Generator, *shape: int) -> Tensor:
    a, b = torch.rand(2, *shape, 2, generator=g)
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b) + 0.02], -1)


def _priors(g: torch.Generator) -> Tensor:
    return torch.cat([torch.rand(P, 2, generator=g), 0.05 + 0.4 * torch.rand(P, 2, generator=g)], -1)


def _targets(g: torch.Generator) -> Tensors:
    return {
        "boxes": _boxes(g, B, G),
        "labels": torch.randint(1, C, (B, G), generator=g),
        "counts": torch.randint(0, G + 1, (B,), generator=g),
    }


def _outputs(g: torch.Generator) -> Tensors:
    conf = 3 * torch.randn(B, P, C, generator=g)
    return {"loc": torch.randn(B, P, 4, generator=g), "conf": conf, "priors": _priors(g)}


def _truth(x: Tensors) -> ops.GroundTruth:
    return ops.GroundTruth.from_padded(x["boxes"], x["labels"], x["counts"])


def _laid_out(rows: Sequence[Tensor], layout: str) -> list[Tensor]:
    """[B, P, K] as a network gives them: with channels first in memory too."""
    return [t.transpose(1, 2).contiguous() if layout == "bcp" else t for t in rows]


def _loss(config: MultiBoxConfig, dtype: torch.dtype = torch.float32) -> Callable[[Tensors], list[Tensor]]:
    def call(x: Tensors) -> list[Tensor]:
        loc, conf = (x[name].detach().to(dtype).requires_grad_() for name in ("loc", "conf"))
        losses = ops.multibox_loss(*_laid_out((loc, conf), config.layout), _truth(x), x["priors"], config)
        grads = torch.autograd.grad(losses.localization + losses.classification, (loc, conf))
        return [losses.localization, losses.classification, losses.num_positives, *grads]

    return call


def _focal(config: FocalConfig) -> Callable[[Tensors], list[Tensor]]:
    def call(x: Tensors) -> list[Tensor]:
        loc, conf = (x[name].detach().requires_grad_() for name in ("loc", "conf"))
        losses = ops.focal_loss(*_laid_out((loc, conf), config.layout), _truth(x), x["priors"], config)
        return [*losses, *torch.autograd.grad(losses.localization + losses.classification, (loc, conf))]

    return call


def _ready_loss(x: Tensors) -> list[Tensor]:
    loc, conf = x["loc"].detach().requires_grad_(), x["conf"].detach().requires_grad_()
    losses = ops.ssd_loss(loc, conf, x["loc_target"], x["conf_target"])
    return [*losses, *torch.autograd.grad(losses[0] + losses[1], (loc, conf))]


def _ready_inputs(g: torch.Generator) -> Tensors:
    target = torch.randint(0, C, (B, P), generator=g) * (torch.rand(B, P, generator=g) < 0.05)
    return {**_outputs(g), "loc_target": torch.randn(B, P, 4, generator=g), "conf_target": target}


def _detect(config: DetectConfig) -> Callable[[Tensors], list[Tensor]]:
    def call(x: Tensors) -> list[Tensor]:
        found = ops.detect(x["loc"], x["conf"], x["priors"], config)
        return [found.boxes, found.scores, found.labels, found.prior_indices, found.counts]

    return call


def _coded(x: Tensors) -> list[Tensor]:
    """Decode, encode, the gradients of both, and overlaps."""
    loc = x["loc"].detach().requires_grad_()
    decoded = ops.decode(loc, x["priors"], max_log_scale=0.5)
    boxes = decoded.detach().requires_grad_()
    codes = ops.encode(boxes, x["priors"])
    to_loc = torch.autograd.grad(decoded, loc, x["loc"])
    to_boxes = torch.autograd.grad(codes, boxes, x["loc"])
    overlaps = ops.box_iou(boxes.detach(), boxes.detach()[:50])
    return [boxes.detach(), codes.detach(), *to_loc, *to_boxes, overlaps]


def _nms_inputs(g: torch.Generator) -> Tensors:
    return {
        "boxes": _boxes(g, 1500),
        "scores": torch.rand(1500, generator=g),
        "idxs": torch.randint(0, 5, (1500,), generator=g),
    }


WORKLOADS = [
    Workload(
        "boxes",
        lambda g: {"loc": torch.randn(P, 4, generator=g), "priors": _priors(g)},
        _coded,
    ),
    Workload(
        "match",
        lambda g: {**_targets(g), "priors": _priors(g)},
        lambda x: [ops.match(_truth(x), x["priors"])],
    ),
    Workload(
        "match bipartite",
        lambda g: {**_targets(g), "priors": _priors(g)},
        lambda x: [ops.match(_truth(x), x["priors"], forced="bipartite", forced_min_iou=1e-6)],
    ),
    Workload(
        "mining",
        lambda g: {"keys": torch.rand(B, P, generator=g), "positive": torch.rand(B, P, generator=g) < 0.02},
        lambda x: [
            ops.select_hard_negatives(x["keys"], x["positive"]),
            *ops.top_k_threshold(x["keys"], x["positive"].sum(1)),
        ],
    ),
    Workload(
        "loss",
        lambda g: {**_outputs(g), **_targets(g)},
        _loss(MultiBoxConfig()),
    ),
    Workload(
        "loss of the paper",
        lambda g: {**_outputs(g), **_targets(g)},
        _loss(MultiBoxConfig.preset("paper")),
    ),
    Workload(
        "loss of nvidia, channels first",
        lambda g: {**_outputs(g), **_targets(g)},
        _loss(MultiBoxConfig.preset("nvidia")),
    ),
    Workload(
        "loss that counts positives twice",
        lambda g: {**_outputs(g), **_targets(g)},
        _loss(MultiBoxConfig.preset("seed")),
    ),
    Workload(
        "loss in half",
        lambda g: {**_outputs(g), **_targets(g)},
        _loss(MultiBoxConfig(), torch.float16),
    ),
    Workload("focal loss", lambda g: {**_outputs(g), **_targets(g)}, _focal(FocalConfig())),
    Workload(
        "focal loss, softmax, channels first",
        lambda g: {**_outputs(g), **_targets(g)},
        _focal(FocalConfig(form="softmax", layout="bcp", gamma=1.5)),
    ),
    Workload("loss on ready targets", _ready_inputs, _ready_loss),
    Workload(
        "nms",
        _nms_inputs,
        lambda x: list(ops.nms_padded(x["boxes"], x["scores"], 0.45)),
    ),
    Workload(
        "batched nms",
        _nms_inputs,
        lambda x: list(ops.nms_padded(x["boxes"], x["scores"], 0.45, idxs=x["idxs"])),
    ),
    Workload(
        "nms of a batch",
        lambda g: {
            "boxes": _boxes(g, B, 400),
            "scores": torch.rand(B, 400, generator=g),
            "idxs": torch.randint(0, 5, (B, 400), generator=g),
            "counts": torch.randint(0, 400, (B,), generator=g),
        },
        lambda x: list(ops.nms_batch(x["boxes"], x["scores"], 0.45, counts=x["counts"], idxs=x["idxs"])),
    ),
    Workload(
        "soft nms",
        _nms_inputs,
        lambda x: list(ops.soft_nms_padded(x["boxes"], x["scores"], idxs=x["idxs"], max_output=300)),
    ),
    Workload(
        "diou nms",
        _nms_inputs,
        lambda x: list(ops.diou_nms_padded(x["boxes"], x["scores"], 0.4, idxs=x["idxs"])),
    ),
    Workload(
        "matrix nms",
        _nms_inputs,
        lambda x: list(ops.matrix_nms_padded(x["boxes"], x["scores"], idxs=x["idxs"], max_output=300)),
    ),
    Workload(
        "boxes fusion",
        lambda g: {
            "boxes": _boxes(g, B, 4, 60),
            "scores": torch.rand(B, 4, 60, generator=g),
            "labels": torch.randint(0, 5, (B, 4, 60), generator=g),
            "counts": torch.randint(0, 60, (B, 4), generator=g),
        },
        lambda x: list(
            ops.weighted_boxes_fusion(x["boxes"], x["scores"], x["labels"], counts=x["counts"], iou_thr=0.3)
        ),
    ),
    Workload("detect", _outputs, _detect(DetectConfig())),
    Workload("detect agnostic", _outputs, _detect(DetectConfig(class_agnostic=True))),
    Workload(
        "detect with thresholds by class",
        _outputs,
        _detect(
            DetectConfig(
                score_threshold=tuple(0.01 + 0.01 * c for c in range(C)),
                iou_threshold=tuple(c / C for c in range(C)),
            )
        ),
    ),
    Workload("detect soft", _outputs, _detect(DetectConfig(soft_nms="gaussian", detections_per_image=50))),
]


def make(workload: Workload, device: torch.device, seed: int = 0) -> Tensors:
    """Inputs of the workload on the device."""
    fresh = workload.fresh(torch.Generator().manual_seed(seed))
    return {name: tensor.to(device) for name, tensor in fresh.items()}
