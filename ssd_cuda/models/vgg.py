"""SSD300 and SSD512 on VGG-16 (Liu et al. 2016, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..config import DetectConfig, MultiBoxConfig, PriorSpec
from .detector import SSD
from .layers import L2Norm, SSD512ExtraLayers, SSDExtraLayers
from .state_dicts import state_of
from .weights import check_tensors, fill, is_checkpoint, read_content, recognise, rename

__all__ = [
    "VGGBackbone",
    "ssd300_amdegroot",
    "ssd300_torchvision",
    "ssd300_vgg16",
    "ssd512_vgg16",
    "vgg_ssd",
]

# Channel means of ImageNet in [0, 1]; the network sees mean-free pixels in [0, 255], as Caffe's VGG did.
_MEAN = (0.48235, 0.45882, 0.40784)
_STD = (1 / 255,) * 3


def vgg_layers() -> list[nn.Module]:
    """VGG-16 with fc6 and fc7 as convolutions: fc6 dilated by 6 over a pool5 that keeps the size.

    Layer 22 is the ReLU of conv4_3, layer 34 that of fc7; the indices are those of torchvision's
    ``vgg16().features`` up to layer 29.
    """
    layers: list[nn.Module] = []
    channels = 3
    for stage, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        if stage:
            # The third pool rounds up: 75 -> 38, the size that the priors of SSD300 expect.
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=stage == 3))
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    layers += [
        nn.MaxPool2d(3, 1, padding=1),
        nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
        nn.ReLU(inplace=True),
        nn.Conv2d(1024, 1024, 1),
        nn.ReLU(inplace=True),
    ]
    return layers


class VGGBackbone(nn.Module):
    """VGG-16 up to fc7, then the extra layers; maps: conv4_3 (L2-normalised), fc7, conv8_2, ...

    Args:
        extras: :class:`SSDExtraLayers` or :class:`SSD512ExtraLayers`.
    """

    CONV4_3 = 22

    def __init__(self, extras: SSDExtraLayers | SSD512ExtraLayers) -> None:
        super().__init__()
        self.vgg = nn.ModuleList(vgg_layers())
        self.norm = L2Norm(512)
        self.extras = extras
        self.out_channels = [512, 1024, *extras.out_channels]

    def stages(self) -> list[list[nn.Module]]:
        """The five of VGG-16, each from its pool on, and fc6 with fc7; the norm and the extras are no
        part."""
        starts = [
            0,
            *(i for i, layer in enumerate(self.vgg) if isinstance(layer, nn.MaxPool2d)),
            len(self.vgg),
        ]
        return [list(self.vgg[low:high]) for low, high in pairwise(starts)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> one map per level, ``[B, out_channels[k], rows, columns]``."""
        for layer in self.vgg[: self.CONV4_3 + 1]:
            x = layer(x)
        conv4_3 = self.norm(x)
        for layer in self.vgg[self.CONV4_3 + 1 :]:
            x = layer(x)
        return [conv4_3, x, *self.extras(x)]


def _initialise(model: SSD) -> None:
    """Xavier for every convolution, as the paper does for the new layers; without weights all are new."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def ssd300_vgg16(num_classes: int | None = None, *, weights: Any = None) -> SSD:
    """SSD300: 300x300 images, six maps of 38, 19, 10, 5, 3 and 1 cells a side, 8732 priors.

    Args:
        num_classes: background included. None: that of the weights, or else 21, Pascal VOC.
        weights: a file, a state dict, or torchvision's ``SSD300_VGG16_Weights``; of this model, of
            torchvision's or in amdegroot's layout (see ``ssd_cuda/models/weights.py``). With torchvision's
            come its priors and its rules of loss and detection, with amdegroot's those of amdegroot, with
            a checkpoint of this package those that it says. None: new weights.

    Raises:
        ValueError: weights of something else, or of another number of classes.

    Example:
        >>> with torch.device("meta"):  # no memory for its 26 million weights
        ...     model = models.ssd300_vgg16(num_classes=21)
        >>> model.image_size, len(model.priors)
        ((300, 300), 8732)
    """
    if weights is None:
        classes = 21 if num_classes is None else num_classes
        return vgg_ssd(VGGBackbone(SSDExtraLayers()), PriorSpec.preset("amdegroot"), classes)
    content = read_content(weights)
    if is_checkpoint(content):
        return _of_checkpoint(content, num_classes)
    state = state_of(content)[0]
    layout = recognise(state)
    check_tensors(state)
    state = rename(state, layout)
    builders = {"amdegroot": ssd300_amdegroot, "torchvision": ssd300_torchvision}
    model = builders.get(layout, ssd300_vgg16)(_check_classes(state, num_classes))
    fill(model, state, "SSD300")
    return model


def _of_checkpoint(content: Mapping[Any, Any], num_classes: int | None) -> SSD:
    from .loading import import_weights  # it knows every model, this one too

    found = import_weights(content)
    if not found.name.startswith("ssd300_vgg16"):
        raise ValueError(f"weights must be of an SSD300 with VGG-16, got a checkpoint of {found.name}")
    if num_classes not in (None, found.model.num_classes):
        raise ValueError(
            f"num_classes must be that of the weights ({found.model.num_classes}), got {num_classes}"
        )
    return found.model.train()


def _check_classes(state: Mapping[str, Tensor], num_classes: int | None) -> int:
    bias = state.get("heads.0.conf_conv.bias")
    if bias is None or bias.dim() != 1:
        found = "none" if bias is None else f"a bias of {bias.dim()} dimensions"
        raise ValueError(f"weights must hold the heads, got {found}")
    own = len(bias) // 4  # conv4_3 has four priors a cell
    if num_classes not in (None, own):
        raise ValueError(f"num_classes must be that of the weights ({own}), got {num_classes}")
    return own


def ssd512_vgg16(num_classes: int = 21) -> SSD:
    """SSD512: 512x512 images, seven maps of 64, 32, 16, 8, 4, 2 and 1 cells a side, 24564 priors.

    Args:
        num_classes: background included; 21 is Pascal VOC.

    Example:
        >>> with torch.device("meta"):
        ...     model = models.ssd512_vgg16(num_classes=21)
        >>> model.image_size, len(model.priors)
        ((512, 512), 24564)
    """
    # caffe's sizes, but as the PyTorch ports have them: not cut to integers, cut to the image.
    spec = PriorSpec.preset("paper512", integer_sizes=False, format="cxcywh", clip="cxcywh")
    return vgg_ssd(VGGBackbone(SSD512ExtraLayers()), spec, num_classes)


def ssd300_amdegroot(num_classes: int) -> SSD:
    """SSD300 by amdegroot's rules; its COCO configuration (201 classes there, or 81) has other sizes."""
    spec = PriorSpec.preset("amdegroot_coco" if num_classes in (81, 201) else "amdegroot")
    return vgg_ssd(VGGBackbone(SSDExtraLayers()), spec, num_classes, "amdegroot")


def ssd300_torchvision(num_classes: int) -> SSD:
    """SSD300 by torchvision's priors and rules of loss and detection, with new weights."""
    return vgg_ssd(VGGBackbone(SSDExtraLayers()), PriorSpec.preset("torchvision"), num_classes, "torchvision")


def vgg_ssd(backbone: VGGBackbone, spec: PriorSpec, num_classes: int, dialect: str = "paper") -> SSD:
    """An SSD on VGG-16 by the rules of loss and detection of a codebase."""
    model = SSD(
        backbone,
        spec,
        num_classes,
        mean=_MEAN,
        std=_STD,
        loss_config=MultiBoxConfig.preset(dialect, label_offset=0),
        detect_config=DetectConfig.preset(dialect),
    )
    _initialise(model)
    return model
