"""ssd300_vgg16 on COCO: references/detection/README.md and train.py of pytorch/vision.

Eight cards of 4 images; linear warm-up from a thousandth over the first 1,000 steps; everything decays.
It starts from VGG16_Weights.IMAGENET1K_FEATURES (``--weights``). Published: 25.1 COCO mAP.
"""

NOTE = "torchvision's images of one batch have similar shapes before they are resized"

RECIPE = dict(
    model="ssd300_vgg16_torchvision",
    size=None,
    train=dict(
        epochs=120, batch_size=8 * 4, optimizer="sgd", lr=2e-3, momentum=0.9, weight_decay=5e-4,
        decay_all=True, schedule="steps", milestones=(80, 110), gamma=0.1, warmup_steps=1000,
        warmup_start=1e-3, clip_norm=None, average_decay=0.0, augment="ssd",
    ),
)  # fmt: skip
