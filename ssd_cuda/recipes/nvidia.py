"""SSD300 with ResNet-50 on COCO: main.py and examples/ of NVIDIA/DeepLearningExamples, PyTorch/Detection/SSD.

One card of 32 images in fp16; with n times as many images a step the rate is n times as high. Biases and
norms do not decay. Published: 0.271 COCO mAP (V100).
"""

NOTE = "NVIDIA multiplies --lr by itself; here --batch-size leaves it as it is"

RECIPE = dict(
    model="ssd300_resnet50",
    size=None,
    train=dict(
        epochs=65, batch_size=32, optimizer="sgd", lr=2.6e-3, momentum=0.9, weight_decay=5e-4,
        schedule="steps", milestones=(43, 54), gamma=0.1, warmup_steps=300, warmup_start=0.0, clip_norm=None,
        average_decay=0.0, amp="fp16", augment="nvidia",
    ),
)  # fmt: skip
