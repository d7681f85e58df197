"""torchvision's own SSD methods, called on tensors: no backbone, no head, no images."""

from __future__ import annotations

import torch
from torch import Tensor


def bare_ssd():
    """A ``torchvision.models.detection.SSD`` with its default constants and no network."""
    from torchvision.models.detection import _utils, ssd

    model = ssd.SSD.__new__(ssd.SSD)
    torch.nn.Module.__init__(model)
    model.box_coder = _utils.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    model.proposal_matcher = _utils.SSDMatcher(0.5)
    model.neg_to_pos_ratio = 3.0
    model.score_thresh = 0.01
    model.nms_thresh = 0.45
    model.detections_per_img = 200
    model.topk_candidates = 400
    return model


def match(model, boxes: list[Tensor], priors: Tensor) -> list[Tensor]:
    """What ``SSD.forward`` does between the head and the loss. priors: [P, 4] corners."""
    from torchvision.ops import box_iou

    none = torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)
    return [model.proposal_matcher(box_iou(b, priors)) if b.numel() else none for b in boxes]


def compute_loss(
    model, loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
    head = {"bbox_regression": loc, "cls_logits": conf}
    losses = model.compute_loss(targets, head, [priors] * len(boxes), match(model, boxes, priors))
    return losses["bbox_regression"], losses["classification"]


def postprocess(model, loc: Tensor, conf: Tensor, priors: Tensor, size=(300, 300)) -> list[dict[str, Tensor]]:
    head = {"bbox_regression": loc, "cls_logits": conf}
    return model.postprocess_detections(head, [priors] * len(loc), [size] * len(loc))
