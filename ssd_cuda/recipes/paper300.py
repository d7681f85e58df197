"""SSD300 of Liu et al. 2016 on VOC07+12: examples/ssd/ssd_pascal.py of weiliu89/caffe, branch ssd.

32 images a step, 120,000 steps, ten times less at 80,000 and 100,000; biases learn twice as fast and do
not decay. It starts from VGG-16 (``--weights``). Published: 77.2 mAP on VOC2007 (11 points).
"""

from typing import Any

NOTE = (
    "caffe decays the scale of conv4_3's norm, adds to the brightness where torchvision multiplies it, and "
    "keeps the order of the colours"
)

RECIPE: dict[str, Any] = dict(
    model="ssd300_vgg16",
    size=None,
    train=dict(
        steps=120_000, batch_size=32, optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4, bias_lr=2.0,
        schedule="steps", milestones=(80_000, 100_000), gamma=0.1, warmup_steps=0, clip_norm=None,
        average_decay=0.0, augment="caffe",
    ),
)  # fmt: skip
