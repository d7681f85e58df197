"""The seed's classes as it has them: names, arguments and arithmetic unchanged."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F


class SSDExtraLayers(nn.Module):
    def __init__(self, in_channels: int = 1024):
        super().__init__()
        self.conv8_1 = nn.Conv2d(in_channels, 256, kernel_size=1)
        self.conv8_2 = nn.Conv2d(256, 512, kernel_size=3, stride=2, padding=1)
        self.conv9_1 = nn.Conv2d(512, 128, kernel_size=1)
        self.conv9_2 = nn.Conv2d(128, 256, kernel_size=3, stride=2, padding=1)
        self.conv10_1 = nn.Conv2d(256, 128, kernel_size=1)
        self.conv10_2 = nn.Conv2d(128, 256, kernel_size=3)
        self.conv11_1 = nn.Conv2d(256, 128, kernel_size=1)
        self.conv11_2 = nn.Conv2d(128, 256, kernel_size=3)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = []
        x = F.relu(self.conv8_1(x), inplace=True)
        x = F.relu(self.conv8_2(x), inplace=True)
        features.append(x)
        x = F.relu(self.conv9_1(x), inplace=True)
        x = F.relu(self.conv9_2(x), inplace=True)
        features.append(x)
        x = F.relu(self.conv10_1(x), inplace=True)
        x = F.relu(self.conv10_2(x), inplace=True)
        features.append(x)
        x = F.relu(self.conv11_1(x), inplace=True)
        x = F.relu(self.conv11_2(x), inplace=True)
        features.append(x)
        return features


class DefaultBoxGenerator:
    def __init__(
        self,
        image_size: int = 300,
        feature_maps: list[int] = [38, 19, 10, 5, 3, 1],  # noqa: B006
        aspect_ratios: list[list[float]] | None = None,
    ):
        self.image_size = image_size
        self.feature_maps = feature_maps
        if aspect_ratios is None:
            self.aspect_ratios = [
                [1, 2, 1 / 2],
                [1, 2, 3, 1 / 2, 1 / 3],
                [1, 2, 3, 1 / 2, 1 / 3],
                [1, 2, 3, 1 / 2, 1 / 3],
                [1, 2, 1 / 2],
                [1, 2, 1 / 2],
            ]
        else:
            self.aspect_ratios = aspect_ratios
        m = len(feature_maps)
        self.scales = [0.2 + (0.9 - 0.2) * k / (m - 1) for k in range(m)]
        self.scales.append(1.0)

    def generate(self, device: torch.device) -> torch.Tensor:
        default_boxes = []
        for k, f_k in enumerate(self.feature_maps):
            s_k = self.scales[k]
            s_k_prime = (self.scales[k] * self.scales[k + 1]) ** 0.5
            for i in range(f_k):
                for j in range(f_k):
                    cx = (j + 0.5) / f_k
                    cy = (i + 0.5) / f_k
                    default_boxes.append([cx, cy, s_k, s_k])
                    default_boxes.append([cx, cy, s_k_prime, s_k_prime])
                    for ar in self.aspect_ratios[k]:
                        if ar != 1:
                            w = s_k * (ar**0.5)
                            h = s_k / (ar**0.5)
                            default_boxes.append([cx, cy, w, h])
        return torch.tensor(default_boxes, device=device).clamp(0, 1)


class SSDHead(nn.Module):
    def __init__(self, in_channels: int, num_boxes: int, num_classes: int):
        super().__init__()
        self.loc_conv = nn.Conv2d(in_channels, num_boxes * 4, 3, padding=1)
        self.conf_conv = nn.Conv2d(in_channels, num_boxes * num_classes, 3, padding=1)
        self.num_classes = num_classes
        self.num_boxes = num_boxes

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch_size = x.size(0)
        loc = self.loc_conv(x).permute(0, 2, 3, 1).reshape(batch_size, -1, 4)
        conf = self.conf_conv(x).permute(0, 2, 3, 1).reshape(batch_size, -1, self.num_classes)
        return loc, conf


class SSDLoss(nn.Module):
    """One word is added: ``stable=True`` in the first sort, so that equal losses have one order."""

    def __init__(self, num_classes: int, neg_pos_ratio: float = 3.0):
        super().__init__()
        self.num_classes = num_classes
        self.neg_pos_ratio = neg_pos_ratio

    def forward(self, loc_pred, conf_pred, loc_target, conf_target):
        pos_mask = conf_target > 0
        num_pos = pos_mask.sum(dim=1)

        loc_loss = F.smooth_l1_loss(loc_pred[pos_mask], loc_target[pos_mask], reduction="sum")

        conf_loss_all = F.cross_entropy(
            conf_pred.view(-1, self.num_classes), conf_target.view(-1), reduction="none"
        ).view(conf_pred.size(0), -1)

        conf_loss_neg = conf_loss_all.clone()
        conf_loss_neg[pos_mask] = 0

        _, loss_idx = conf_loss_neg.sort(dim=1, descending=True, stable=True)
        _, idx_rank = loss_idx.sort(dim=1)

        num_neg = torch.clamp(num_pos * self.neg_pos_ratio, max=conf_pred.size(1) - 1).long()
        neg_mask = idx_rank < num_neg.unsqueeze(1)

        conf_loss = (conf_loss_all * (pos_mask.float() + neg_mask.float())).sum()

        N = max(num_pos.sum().item(), 1)
        return loc_loss / N, conf_loss / N
