"""weiliu89/caffe, branch ssd: the original, and what the 2016 paper describes.

Matching is a true greedy assignment: the largest IoU of the image first, so that every ground truth with
an overlap gets a prior of its own. Negatives come from unmatched priors whose best IoU is below 0.5; an
image without a match gives none. Both losses are divided by max(1, matches of the batch). Its softmax is
floored at FLT_MIN before the logarithm, so a loss saturates at 87.3; here it does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

VARIANCES = (0.1, 0.1, 0.2, 0.2)
EPSILON = 1e-6


def corners(priors: Tensor) -> Tensor:
    """The PriorBox layer writes corners; the priors of this project are centres and sizes."""
    return torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)


def box_size(boxes: Tensor) -> Tensor:
    side = boxes[..., 2:] - boxes[..., :2]
    return torch.where((side < 0).any(-1), 0, side[..., 0] * side[..., 1])


def jaccard_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Broadcasting corners [..., 4]."""
    width = torch.min(a[..., 2], b[..., 2]) - torch.max(a[..., 0], b[..., 0])
    height = torch.min(a[..., 3], b[..., 3]) - torch.max(a[..., 1], b[..., 1])
    inter = width * height
    overlap = inter / (box_size(a) + box_size(b) - inter)
    return torch.where((width > 0) & (height > 0), overlap, 0)


def match_bbox(boxes: Tensor, priors: Tensor) -> tuple[list[int], list[float]]:
    """(index of the match or -1, best overlap) of every prior."""
    overlaps: dict[int, dict[int, float]] = {}
    for i, row in enumerate(jaccard_overlap(corners(priors)[:, None], boxes[None]).tolist()):
        for j, overlap in enumerate(row):
            if overlap > EPSILON:
                overlaps.setdefault(i, {})[j] = overlap
    match = [-1] * len(priors)
    best = [max(overlaps[i].values()) if i in overlaps else 0.0 for i in range(len(priors))]

    pool = list(range(len(boxes)))
    while pool:
        top, owner, owned = -1.0, -1, -1
        for i, row in overlaps.items():
            if match[i] != -1:
                continue
            for j in pool:
                if j in row and row[j] > top:
                    top, owner, owned = row[j], i, j
        if owner == -1:
            break
        match[owner] = owned
        pool.remove(owned)

    for i, row in overlaps.items():
        if match[i] == -1:
            top = -1.0
            for j in sorted(row):
                if row[j] >= 0.5 and row[j] > top:
                    top, match[i] = row[j], j
    return match, best


def assign(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    match, _ = match_bbox(boxes, priors)
    owner = torch.tensor(match, dtype=torch.int64, device=priors.device)
    target = torch.zeros_like(owner)
    target[owner >= 0] = labels[owner[owner >= 0]]
    return owner, target


def encode(truth: Tensor, prior: Tensor) -> Tensor:
    """Both in corners, [4]."""
    prior_size = prior[2:] - prior[:2]
    prior_center = (prior[:2] + prior[2:]) / 2
    size = truth[2:] - truth[:2]
    center = (truth[:2] + truth[2:]) / 2
    variance = truth.new_tensor(VARIANCES)
    return torch.cat([(center - prior_center) / prior_size, torch.log(size / prior_size)]) / variance


def smooth_l1(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, 0.5 * x * x, x.abs() - 0.5)


def softmax_loss(logits: Tensor, label: int) -> Tensor:
    shifted = logits - logits.max()
    return shifted.exp().sum().log() - shifted[label]


def loss(
    loc: Tensor, conf: Tensor, boxes: list[Tensor], labels: list[Tensor], priors: Tensor
) -> tuple[Tensor, Tensor]:
    loc_loss, conf_loss = loc.sum() * 0, conf.sum() * 0
    matches = 0
    prior_corners = corners(priors)
    for n in range(len(loc)):
        match, best = match_bbox(boxes[n], priors)
        positives = [i for i, j in enumerate(match) if j >= 0]
        matches += len(positives)
        for i in positives:
            target = encode(boxes[n][match[i]], prior_corners[i])
            loc_loss = loc_loss + smooth_l1(loc[n, i] - target).sum()
            conf_loss = conf_loss + softmax_loss(conf[n, i], int(labels[n][match[i]]))
        eligible = [
            (float(softmax_loss(conf[n, i].detach(), 0)), i)
            for i in range(len(priors))
            if match[i] == -1 and best[i] < 0.5
        ]
        eligible.sort(key=lambda pair: -pair[0])  # stable: equal losses stay in the order of the priors
        for _, i in eligible[: min(int(len(positives) * 3.0), len(eligible))]:
            conf_loss = conf_loss + softmax_loss(conf[n, i], 0)
    normalizer = max(1, matches)
    return loc_loss / normalizer, conf_loss / normalizer


def decode(loc: Tensor, prior: Tensor) -> Tensor:
    """loc: [4], prior: [4] corners -> [4] corners."""
    size = prior[2:] - prior[:2]
    center = (prior[:2] + prior[2:]) / 2
    variance = loc.new_tensor(VARIANCES)
    decoded_center = variance[:2] * loc[:2] * size + center
    decoded_size = torch.exp(variance[2:] * loc[2:]) * size
    return torch.cat([decoded_center - decoded_size / 2, decoded_center + decoded_size / 2])


def apply_nms(boxes: Tensor, scores: Tensor) -> list[int]:
    """Indices of the kept priors of one class: score > 0.01, the best 400, then overlap <= 0.45."""
    candidates = (scores > 0.01).nonzero()[:, 0].tolist()
    candidates.sort(key=lambda i: -float(scores[i]))
    kept: list[int] = []
    for i in candidates[:400]:
        if bool((jaccard_overlap(boxes[i], boxes[kept]) <= 0.45).all()):
            kept.append(i)
    return kept


def detect(loc: Tensor, conf: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scores = torch.softmax(conf, 1)
    prior_corners = corners(priors)
    boxes = torch.stack([decode(loc[i], prior_corners[i]) for i in range(len(loc))])
    found = [
        (float(scores[i, label]), label, i)
        for label in range(1, conf.shape[1])
        for i in apply_nms(boxes, scores[:, label])
    ]
    if len(found) > 200:
        found.sort(key=lambda row: -row[0])
        found = sorted(found[:200], key=lambda row: row[1])  # the output is written class by class
    label = torch.tensor([row[1] for row in found], dtype=torch.int64, device=loc.device)
    prior = torch.tensor([row[2] for row in found], dtype=torch.int64, device=loc.device)
    return boxes[prior], scores[prior, label], label, prior
