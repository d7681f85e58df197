"""ssdlite320_mobilenet_v3_large on COCO: references/detection/README.md and train.py of pytorch/vision.

Eight cards of 24 images; warm-up as in :mod:`ssd_cuda.recipes.torchvision_ssd300`. Published: 21.3 COCO mAP.
"""

NOTE = "torchvision takes the cosine by epochs, here it falls with every step"

RECIPE = dict(
    model="ssdlite320_mobilenet_v3",
    size=None,
    train=dict(
        epochs=660, batch_size=8 * 24, optimizer="sgd", lr=0.15, momentum=0.9, weight_decay=4e-5,
        decay_all=True, schedule="cosine", warmup_steps=1000, warmup_start=1e-3, clip_norm=None,
        average_decay=0.0, augment="ssdlite",
    ),
)  # fmt: skip
