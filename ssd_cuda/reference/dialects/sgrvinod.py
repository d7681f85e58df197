"""sgrvinod/a-PyTorch-Tutorial-to-Object-Detection.

Quirks: plain L1, averaged over the four coordinates; forced priors get overlap 1; losses divided by the
positives without a floor; suppression works on the whole overlap matrix of a class. Without any detection
it returns a dummy box with label 0; here nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cxcy_to_xy(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def xy_to_cxcy(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[:, 2:] + boxes[:, :2]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def cxcy_to_gcxgcy(boxes: Tensor, priors: Tensor) -> Tensor:
    center = (boxes[:, :2] - priors[:, :2]) / (priors[:, 2:] / 10)
    return torch.cat([center, torch.log(boxes[:, 2:] / priors[:, 2:]) * 5], 1)


def gcxgcy_to_cxcy(codes: Tensor, priors: Tensor) -> Tensor:
    center = codes[:, :2] * priors[:, 2:] / 10 + priors[:, :2]
    return torch.cat([center, torch.exp(codes[:, 2:] / 5) * priors[:, 2:]], 1)


def find_jaccard_overlap(a: Tensor, b: Tensor) -> Tensor:
    low = torch.max(a[:, :2].unsqueeze(1), b[:, :2].unsqueeze(0))
    high = torch.min(a[:, 2:].unsqueeze(1), b[:, 2:].unsqueeze(0))
    side = torch.clamp(high - low, min=0)
    intersection = side[:, :, 0] * side[:, :, 1]
    areas_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    areas_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return intersection / (areas_a.unsqueeze(1) + areas_b.unsqueeze(0) - intersection)


def assign(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    if len(boxes) == 0:
        none = torch.zeros(len(priors), dtype=torch.int64, device=priors.device)
        return none - 1, none
    overlap = find_jaccard_overlap(boxes, cxcy_to_xy(priors))
    overlap_for_each_prior, object_for_each_prior = overlap.max(0)
    prior_for_each_object = overlap.max(1).indices
    for j, prior in enumerate(prior_for_each_object.tolist()):  # a scatter there; its last write, as on a CPU
        object_for_each_prior[prior] = j
    overlap_for_each_prior[prior_for_each_object] = 1.0
    target = labels[object_for_each_prior]
    target[overlap_for_each_prior < 0.5] = 0
    return torch.where(overlap_for_each_prior < 0.5, -1, object_for_each_prior), target


def loss(
    loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    batch, num_priors, num_classes = conf.shape
    true_locs = torch.zeros_like(loc)
    true_classes = torch.zeros(batch, num_priors, dtype=torch.int64, device=conf.device)
    for i in range(batch):
        owner, true_classes[i] = assign(boxes[i], labels[i], priors)
        if len(boxes[i]):
            true_locs[i] = cxcy_to_gcxgcy(xy_to_cxcy(boxes[i][owner.clamp(min=0)]), priors)
    positive_priors = true_classes != 0
    loc_loss = F.l1_loss(loc[positive_priors], true_locs[positive_priors])

    n_positives = positive_priors.sum(1)
    n_hard_negatives = 3 * n_positives
    conf_loss_all = F.cross_entropy(
        conf.reshape(-1, num_classes), true_classes.view(-1), reduction="none"
    ).view(batch, num_priors)
    conf_loss_pos = conf_loss_all[positive_priors]
    conf_loss_neg = conf_loss_all.clone()
    conf_loss_neg[positive_priors] = 0.0
    conf_loss_neg = conf_loss_neg.sort(dim=1, descending=True, stable=True).values
    ranks = torch.arange(num_priors, device=conf.device)[None].expand_as(conf_loss_neg)
    hard = conf_loss_neg[ranks < n_hard_negatives[:, None]]
    return loc_loss, (hard.sum() + conf_loss_pos.sum()) / n_positives.sum()


def detect(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    boxes, scores = cxcy_to_xy(gcxgcy_to_cxcy(loc, priors)), torch.softmax(conf, 1)
    image_boxes, image_scores, image_labels, image_priors = [], [], [], []
    for c in range(1, conf.shape[1]):
        rows = (scores[:, c] > 0.01).nonzero()[:, 0]
        class_scores, order = scores[rows, c].sort(descending=True, stable=True)
        rows = rows[order]
        overlap = find_jaccard_overlap(boxes[rows], boxes[rows])
        suppress = torch.zeros(len(rows), dtype=torch.bool, device=loc.device)
        for box in range(len(rows)):
            if not suppress[box]:
                suppress = suppress | (overlap[box] > 0.45)
                suppress[box] = False
        image_boxes.append(boxes[rows[~suppress]])
        image_scores.append(class_scores[~suppress])
        image_labels.append(torch.full_like(rows[~suppress], c))
        image_priors.append(rows[~suppress])
    out = [torch.cat(column) for column in (image_boxes, image_scores, image_labels, image_priors)]
    if len(out[1]) > 200:
        order = out[1].sort(descending=True, stable=True).indices[:200]
        out = [column[order] for column in out]
    return out[0], out[1], out[2], out[3]
