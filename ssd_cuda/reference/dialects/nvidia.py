"""NVIDIA DeepLearningExamples, PyTorch/Detection/SSD.

Quirks: heads are channels-first, loc [B, 4, P] and conf [B, C, P]; a prior matches at IoU strictly above
0.5; each image is divided by its own number of positives and the images are averaged, those without
positives giving 0; a score passes above 0.05; a box survives with an IoU strictly below the criterion,
0.5 in its evaluation, and at most 200 detections come back, the best last.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CRITERIA = 0.5
SCALE_XY, SCALE_WH = 1 / 0.1, 1 / 0.2


def to_ltrb(boxes: Tensor) -> Tensor:
    out = boxes.clone()
    out[:, 0] = boxes[:, 0] - 0.5 * boxes[:, 2]
    out[:, 1] = boxes[:, 1] - 0.5 * boxes[:, 3]
    out[:, 2] = boxes[:, 0] + 0.5 * boxes[:, 2]
    out[:, 3] = boxes[:, 1] + 0.5 * boxes[:, 3]
    return out


def to_xywh(boxes: Tensor) -> Tensor:
    center = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    return torch.cat([center, boxes[:, 2:] - boxes[:, :2]], 1)


def calc_iou(a: Tensor, b: Tensor) -> Tensor:
    """[N, 4], [M, 4] corners -> [N, M]."""
    a, b = a[:, None, :], b[None, :, :]
    delta = torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])
    delta = torch.where(delta < 0, torch.zeros_like(delta), delta)
    intersect = delta[..., 0] * delta[..., 1]
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return intersect / (area_a + area_b - intersect)


def assign(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    if len(boxes) == 0:
        none = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
        return none - 1, none
    ious = calc_iou(boxes, to_ltrb(priors))
    best_dbox_ious, best_dbox_idx = ious.max(0)
    best_bbox_idx = ious.max(1).indices
    best_dbox_ious.index_fill_(0, best_bbox_idx, 2.0)
    for j, prior in enumerate(best_bbox_idx.tolist()):  # a scatter there; its last write, as on a CPU
        best_dbox_idx[prior] = j
    mask = best_dbox_ious > CRITERIA
    target = torch.zeros_like(best_dbox_idx)
    target[mask] = labels[best_dbox_idx[mask]]
    return torch.where(mask, best_dbox_idx, -1), target


def loss(
    ploc: Tensor, plabel: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    """ploc: [B, 4, P], plabel: [B, C, P]."""
    dboxes = priors.T[None]  # [1, 4, P]
    gloc = dboxes.repeat(len(ploc), 1, 1)
    glabel = torch.zeros(len(ploc), ploc.shape[2], dtype=torch.int64, device=ploc.device)
    for i in range(len(ploc)):
        owner, glabel[i] = assign(boxes[i], labels[i], priors)
        rows = owner >= 0
        if rows.any():
            gloc[i, :, rows] = to_xywh(boxes[i][owner[rows]]).T
    mask = glabel > 0
    pos_num = mask.sum(1)

    gxy = SCALE_XY * (gloc[:, :2] - dboxes[:, :2]) / dboxes[:, 2:]
    gwh = SCALE_WH * (gloc[:, 2:] / dboxes[:, 2:]).log()
    gd = torch.cat([gxy, gwh], 1)
    sl1 = F.smooth_l1_loss(ploc, gd, reduction="none").sum(1)
    sl1 = (mask.to(sl1) * sl1).sum(1)

    con = F.cross_entropy(plabel, glabel, reduction="none")
    con_neg = con.detach().clone()
    con_neg[mask] = 0
    con_idx = con_neg.sort(dim=1, descending=True, stable=True).indices
    con_rank = con_idx.sort(1).indices
    neg_num = torch.clamp(3 * pos_num, max=mask.size(1))[:, None]
    neg_mask = con_rank < neg_num
    closs = (con * (mask | neg_mask).to(con)).sum(1)

    num_mask = (pos_num > 0).to(con)
    pos_num = pos_num.to(con).clamp(min=1e-6)
    return (sl1 * num_mask / pos_num).mean(0), (closs * num_mask / pos_num).mean(0)


def decode(bboxes: Tensor, priors: Tensor) -> Tensor:
    center = (1 / SCALE_XY) * bboxes[:, :2] * priors[:, 2:] + priors[:, :2]
    size = ((1 / SCALE_WH) * bboxes[:, 2:]).exp() * priors[:, 2:]
    return to_ltrb(torch.cat([center, size], 1))


def detect(ploc: Tensor, plabel: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ploc: [4, P], plabel: [C, P]."""
    bboxes = decode(ploc.T, priors)
    probs = F.softmax(plabel.T, -1)
    out: list[tuple[Tensor, Tensor]] = []
    for i, column in enumerate(probs.split(1, 1)):
        if i == 0:
            continue
        rows = (column[:, 0] > 0.05).nonzero()[:, 0]
        # ascending with the best last, and of equal scores the lowest index last
        order = rows.flip(0)[column[rows.flip(0), 0].sort(stable=True).indices][-200:]
        candidates = []
        while order.numel():
            idx = order[-1:]
            iou = calc_iou(bboxes[order], bboxes[idx])[:, 0]
            order = order[iou < CRITERIA]  # the box itself goes with the rest
            candidates.append(idx)
        kept = torch.cat(candidates) if candidates else rows[:0]
        out.append((kept, torch.full_like(kept, i)))
    prior, label = (torch.cat(column) for column in zip(*out, strict=True))
    score = probs[prior, label]
    order = score.sort(descending=True, stable=True).indices[:200].flip(0)
    return bboxes[prior[order]], score[order], label[order], prior[order]
