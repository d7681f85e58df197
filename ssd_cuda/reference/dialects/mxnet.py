"""mxnet: the MultiBoxTarget operator and the SoftmaxOutput behind it.

Quirks: bipartite matching above 1e-6, then IoU strictly above 0.5; labels start at 0 and get 1 added;
negatives by rising p_background among the priors whose best IoU is below 0.5; what is neither positive
nor negative is ignored, and an image without ground truth is ignored as a whole; the classification loss
is divided by the priors that count. The localisation loss of its example is divided by the number of
terms that are not zero, which the preset does not follow: both losses are divided alike. Where fewer
candidates than wanted are left it aborts; here all of them are taken. Its detection is not transcribed.
"""

from __future__ import annotations

import torch
from torch import Tensor

VARIANCES = (0.1, 0.1, 0.2, 0.2)


def overlaps(priors: Tensor, boxes: Tensor) -> list[list[float]]:
    a = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)[:, None]
    b = boxes[None]
    w = torch.clamp(torch.min(a[..., 2], b[..., 2]) - torch.max(a[..., 0], b[..., 0]), min=0)
    h = torch.clamp(torch.min(a[..., 3], b[..., 3]) - torch.max(a[..., 1], b[..., 1]), min=0)
    inter = w * h
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    union = area_a + area_b - inter
    return torch.where(union <= 0, 0, inter / union).tolist()


def targets(boxes: Tensor, priors: Tensor, key: list[float]) -> tuple[list[int], list[int]]:
    """key: p_background of each prior -> (match or -1, flag: 1 positive, 0 negative, -1 ignored)."""
    iou = overlaps(priors, boxes)
    flag, match = [-1] * len(priors), [-1] * len(priors)
    if len(boxes) == 0:
        return match, flag
    done: set[int] = set()
    while len(done) < len(boxes):
        best, best_anchor, best_gt = 1e-6, -1, -1
        for j, row in enumerate(iou):
            for k, value in enumerate(row):
                if flag[j] != 1 and k not in done and value > best:
                    best, best_anchor, best_gt = value, j, k
        if best_anchor == -1:
            break
        flag[best_anchor], match[best_anchor] = 1, best_gt
        done.add(best_gt)
    for j, row in enumerate(iou):
        if flag[j] != 1 and max(row) > 0.5:
            flag[j], match[j] = 1, row.index(max(row))
    num_positive = flag.count(1)
    num_negative = min(num_positive * 3, len(priors) - num_positive)
    temp = [j for j, row in enumerate(iou) if flag[j] != 1 and max(row) < 0.5]
    temp.sort(key=lambda j: key[j])
    for j in temp[:num_negative]:
        flag[j] = 0
    return match, flag


def assign(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    match, _ = targets(boxes, priors, [0.0] * len(priors))
    owner = torch.tensor(match, dtype=torch.int64, device=priors.device)
    target = torch.zeros_like(owner)
    target[owner >= 0] = labels[owner[owner >= 0]] + 1
    return owner, target


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    center, size = (boxes[:, :2] + boxes[:, 2:]) * 0.5, boxes[:, 2:] - boxes[:, :2]
    code = torch.cat([(center - priors[:, :2]) / priors[:, 2:], torch.log(size / priors[:, 2:])], 1)
    return code / code.new_tensor(VARIANCES)


def loss(
    loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    probability = torch.softmax(conf, 2)
    loc_loss, conf_loss, valid = loc.sum() * 0, conf.sum() * 0, 0
    for n in range(len(loc)):
        match, flag = targets(boxes[n], priors, probability[n, :, 0].tolist())
        for j in range(len(priors)):
            if flag[j] >= 0:
                valid += 1
                label = int(labels[n][match[j]]) + 1 if flag[j] == 1 else 0
                conf_loss = conf_loss - torch.log_softmax(conf[n, j], 0)[label]
        rows = [j for j in range(len(priors)) if flag[j] == 1]
        x = (loc[n, rows] - encode(boxes[n][[match[j] for j in rows]], priors[rows])).abs()
        loc_loss = loc_loss + torch.where(x < 1, 0.5 * x * x, x - 0.5).sum()
    return loc_loss / max(valid, 1), conf_loss / max(valid, 1)
