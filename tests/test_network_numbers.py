"""The networks of other codebases compute what theirs do: numbers that came out of their own code.

Each network gets weights by a rule of name and shape; the codebase's own network got the same ones under its
own names, and what it gave for the same image is summed up here. A changed order, padding, epsilon or
activation moves these numbers.
"""

from __future__ import annotations

import math
import zlib

import pytest
import torch

from ssd_cuda import models

# network -> classes, image size, then loc, conf (and landmarks), each (mean, deviation, wave): see digest.
# From amdegroot/ssd.pytorch, qfgaohao/pytorch-ssd, Linzaer's ULFG, biubug6/Pytorch_Retinaface, lufficc/SSD,
# NVIDIA/DeepLearningExamples, each as published.
EXPECTED: dict[str, tuple] = {
    "ssd300_vgg16_amdegroot": (5, (300, 300), (-4.843766, 83.214103, -6.262763),
                               (2.948777, 77.490307, -12.432002)),
    "ssd320_mobilenet_v2_lufficc": (5, (320, 320), (-0.271806, 3.774499, 1.012411),
                                    (-0.01568, 4.159534, 1.574202)),
    "ssd300_resnet50": (5, (300, 300), (-434.093635, 1499.308713, -318.996142),
                        (-129.71847, 1501.036649, -477.815086)),
    "mb1_ssd": (5, (300, 300), (-0.388758, 2.447689, -0.242338), (-0.069037, 2.377537, -0.467575)),
    "mb1_ssd_lite": (5, (300, 300), (0.05047, 3.363353, 1.16723), (0.160792, 2.993839, -0.822514)),
    "mb2_ssd_lite": (5, (300, 300), (0.422419, 3.449006, 1.905748), (0.570796, 3.559232, -0.159633)),
    "vgg16_ssd": (5, (300, 300), (-1.226377, 235.521725, -40.484192), (18.82661, 236.698383, 1.787297)),
    "ulfg_slim": (2, (240, 320), (-0.161442, 1.34348, -0.108832), (-0.506669, 1.440989, 0.385486)),
    "ulfg_rfb": (2, (240, 320), (-0.860843, 3.737319, -0.984698), (-1.149693, 4.190214, -3.443475)),
    "retinaface_mobilenet": (2, (128, 160), (16.816526, 70.937495, -2.550795),
                             (-23.413874, 57.034317, -16.302469), (1.374595, 52.682752, -10.639418)),
}  # fmt: skip


def fill(state) -> None:
    """Numbers without order, by no generator that a version may change, scaled to keep the signal alive."""
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        seed = zlib.crc32(name.encode()) % 1000
        place = torch.arange(value.numel(), dtype=torch.float64)
        wave = 2 * (torch.sin(place * 12.9898 + seed) * 43758.5453).frac().abs() - 1
        if value.dim() > 1:
            made = wave * math.sqrt(6.0 / value[0].numel())
        elif name.endswith("running_var"):
            made = 1.0 + 0.5 * wave
        elif name.endswith(("running_mean", "bias")):
            made = 0.1 * wave
        else:  # scales of norms
            made = 1.0 + 0.3 * wave
        value.copy_(made.view(value.shape))


def image(size) -> torch.Tensor:
    """uint8 ``[1, 3, H, W]``: rings and stripes."""
    y, x = (torch.arange(n, dtype=torch.float64) for n in size)
    planes = [torch.sin(0.002 * (k + 1) * (y[:, None] ** 2 + 3 * x**2) / 8 + k) for k in range(3)]
    return (127.5 * (1 + torch.stack(planes)))[None].byte()


def digest(values: torch.Tensor) -> tuple[float, float, float]:
    """Mean, deviation, and the sum with a wave, which another order changes, over their number's root."""
    flat = values.double().flatten()
    wave = torch.cos(torch.arange(len(flat), dtype=torch.float64) * 0.37)
    return flat.mean().item(), flat.std().item(), (flat * wave).sum().item() / math.sqrt(len(flat))


@pytest.mark.parametrize("name", EXPECTED)
def test_the_numbers_of_the_codebase(name):
    classes, size, *expected = EXPECTED[name]
    with torch.device("meta"):
        model = models.build_model(name, classes, size)
    model = model.to_empty(device="cpu").eval()
    fill(model.state_dict())
    with torch.no_grad():
        found = model.predict(image(size))
    for values, numbers in zip(found, expected, strict=True):
        assert digest(values) == pytest.approx(numbers, abs=1e-3 * numbers[1])
