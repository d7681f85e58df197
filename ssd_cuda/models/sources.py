"""Which weights there are: how each is recognised, which network here takes it, and under which names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from . import weights as vgg
from .renaming import renamed_by

__all__ = ["SOURCES", "Source", "recognise"]

State = Mapping[str, Tensor]


class Source(NamedTuple):
    """Weights of one network of one codebase.

    Attributes:
        words: what it is, for people.
        model: the key of ``MODELS`` that takes it.
        signs: names that its state dict has, and no other's has all of them.
        rename: the state dict under the names here.
        facts: the state dict -> (classes with the background, image size where it is free or (0, 0)).
        image_size: the only one, or None where any is taken.
        usual: where any is taken, the one that the codebase uses.
        single: name of a single class.
    """

    words: str
    model: str
    signs: tuple[str, ...]
    rename: Callable[[State], dict[str, Tensor]]
    facts: Callable[[State], tuple[int, tuple[int, int]]]
    image_size: tuple[int, int] | None
    single: str = "object"
    usual: tuple[int, int] | None = None


def classes_by(
    name: str, boxes: int, size: tuple[int, int]
) -> Callable[[State], tuple[int, tuple[int, int]]]:
    """``facts`` from the bias of the first classifying convolution, which has ``boxes`` boxes a cell."""

    def facts(state: State) -> tuple[int, tuple[int, int]]:
        bias = state.get(name)
        rows = len(bias) if isinstance(bias, Tensor) and bias.dim() == 1 else 0
        if not rows or rows % boxes or rows // boxes < 2:
            raise ValueError(f"weights must have logits of {boxes} boxes a cell in {name}, got {rows}")
        return rows // boxes, size

    return facts


def _vgg(words: str, model: str, layout: str, sign: str, bias: str) -> Source:
    def rename(state: State) -> dict[str, Tensor]:
        return vgg.rename(state, layout)

    size = (300, 300)
    return Source(words, model, (sign, bias), rename, classes_by(bias, 4, size), size)


_QFGAOHAO = renamed_by(
    (r"base_net\.(.*)", r"backbone.base.\1"),
    (r"source_layer_add_ons\.0\.(.*)", r"backbone.norm.\1"),
    (r"extras\.(.*)", r"backbone.extras.\1"),
    (r"classification_headers\.(\d+)\.(.*)", r"heads.\1.conf_conv.\2"),
    (r"regression_headers\.(\d+)\.(.*)", r"heads.\1.loc_conv.\2"),
)
_SSDLITE = renamed_by(
    (r"head\.classification_head\.module_list\.(\d)\.(.*)", r"heads.\1.conf_conv.\2"),
    (r"head\.regression_head\.module_list\.(\d)\.(.*)", r"heads.\1.loc_conv.\2"),
)
_NVIDIA = renamed_by(
    (r"feature_extractor\.(.*)", r"backbone.\1"),
    (r"additional_blocks\.(.*)", r"backbone.additional_blocks.\1"),
    (r"(loc|conf)\.(\d)\.(.*)", r"heads.\2.\1_conv.\3"),
)


def _flat(match: re.Match[str]) -> str:
    """lufficc nests convolution, norm and activation; here they stand in one row of three each."""
    where, block, number, rest = match.groups()
    nested = 1 if (where, block) == ("features", "1") else 2  # the first block expands nothing
    parts = rest.split(".", 1)
    place = 3 * int(number) + int(parts[0]) if parts[0].isdigit() else 2 * nested + int(number)
    part = "base" if where == "features" else "extras"
    return f"backbone.{part}.{block}.conv.{place}.{parts[-1]}"


_LUFFICC_HEADS = (
    (r"box_head\.predictor\.cls_headers\.(\d)\.(?:conv\.)?(.*)", r"heads.\1.conf_conv.\2"),
    (r"box_head\.predictor\.reg_headers\.(\d)\.(?:conv\.)?(.*)", r"heads.\1.loc_conv.\2"),
)
_LUFFICC_VGG = renamed_by(
    (r"backbone\.l2_norm\.weight", "backbone.norm.weight"),
    (r"backbone\.extras\.(\d+)\.(.*)", lambda match: f"{vgg.extra_name(int(match[1]))}.{match[2]}"),
    *_LUFFICC_HEADS,
)
_LUFFICC_MOBILENET = renamed_by(
    (r"backbone\.(features|extras)\.(\d+)\.conv\.(\d)\.(.*)", _flat),
    (r"backbone\.features\.(.*)", r"backbone.base.\1"),
    *_LUFFICC_HEADS,
)


def _lufficc(words: str, model: str, sign: str, bias: str, boxes: int, side: int) -> Source:
    size, bias = (side, side), f"box_head.predictor.cls_headers.0.{bias}"
    rename = _LUFFICC_MOBILENET if "mobilenet" in model else _LUFFICC_VGG
    signs = (f"backbone.{sign}", bias)
    return Source(f"lufficc/SSD: {words}", model, signs, rename, classes_by(bias, boxes, size), size)


_RETINAFACE = renamed_by(
    (r"(body|fpn)\.(.*)", r"backbone.\1.\2"),
    (r"ssh([123])\.(.*)", lambda match: f"backbone.ssh.{int(match[1]) - 1}.{match[2]}"),
    (r"ClassHead\.(\d)\.conv1x1\.(.*)", r"heads.\1.conf_conv.\2"),
    (r"BboxHead\.(\d)\.conv1x1\.(.*)", r"heads.\1.loc_conv.\2"),
    (r"LandmarkHead\.(\d)\.conv1x1\.(.*)", r"heads.\1.point_conv.\2"),
)


def _qfgaohao(words: str, model: str, sign: str, bias: str, boxes: int = 6) -> Source:
    """``sign``: a layer of the base that the others do not have; ``bias``: of the first classifier."""
    size, bias = (300, 300), f"classification_headers.0.{bias}"
    signs = (f"base_net.{sign}", bias)
    return Source(words, model, signs, _QFGAOHAO, classes_by(bias, boxes, size), size)


def _ulfg(words: str, model: str, sign: str) -> Source:
    bias, size = "classification_headers.0.2.bias", (240, 320)
    signs = (f"base_net.{sign}", "base_net.12.3.weight", bias)
    facts = classes_by(bias, 3, size)
    return Source(words, model, signs, _QFGAOHAO, facts, None, single="face", usual=size)


SOURCES: dict[str, Source] = {
    "amdegroot": _vgg(
        "amdegroot/ssd.pytorch: SSD300", "ssd300_vgg16_amdegroot", "amdegroot", "vgg.0.weight", "conf.0.bias"
    ),
    "torchvision": _vgg(
        "torchvision: ssd300_vgg16",
        "ssd300_vgg16_torchvision",
        "torchvision",
        "backbone.features.0.weight",
        "head.classification_head.module_list.0.bias",
    ),
    "lufficc512": _lufficc("VGG-16, 512", "ssd512_vgg16_lufficc", "extras.9.weight", "bias", 4, 512),
    "lufficc300": _lufficc("VGG-16, 300", "ssd300_vgg16_lufficc", "extras.7.weight", "bias", 4, 300),
    "lufficc_mobilenet": _lufficc(
        "MobileNetV2, 320", "ssd320_mobilenet_v2_lufficc", "features.18.0.weight", "conv.3.bias", 6, 320
    ),
    "ssdlite": Source(
        "torchvision: ssdlite320_mobilenet_v3_large",
        "ssdlite320_mobilenet_v3",
        ("backbone.features.1.3.0.weight", "head.classification_head.module_list.0.1.bias"),
        _SSDLITE,
        classes_by("head.classification_head.module_list.0.1.bias", 6, (320, 320)),
        (320, 320),
    ),
    "nvidia": Source(
        "NVIDIA DeepLearningExamples: SSD300 ResNet-50",
        "ssd300_resnet50",
        ("feature_extractor.feature_extractor.6.5.conv3.weight", "conf.0.bias"),
        _NVIDIA,
        classes_by("conf.0.bias", 4, (300, 300)),
        (300, 300),
    ),
    "mb1_ssd": _qfgaohao("qfgaohao, jetson-inference: mb1-ssd", "mb1_ssd", "13.3.weight", "bias"),
    "mb1_ssd_lite": _qfgaohao("qfgaohao: mb1-ssd-lite", "mb1_ssd_lite", "13.3.weight", "2.bias"),
    "mb2_ssd_lite": _qfgaohao("qfgaohao: mb2-ssd-lite", "mb2_ssd_lite", "17.conv.0.weight", "3.bias"),
    "vgg16_ssd": _qfgaohao("qfgaohao: vgg16-ssd", "vgg16_ssd", "33.weight", "bias", 4),
    "ulfg_slim": _ulfg("ULFG: slim", "ulfg_slim", "7.3.weight"),
    "ulfg_rfb": _ulfg("ULFG: RFB", "ulfg_rfb", "7.branch0.0.conv.weight"),
    "retinaface": Source(
        "biubug6/Pytorch_Retinaface: mobilenet0.25",
        "retinaface_mobilenet",
        ("body.stage1.0.0.weight", "LandmarkHead.0.conv1x1.bias", "ClassHead.0.conv1x1.bias"),
        _RETINAFACE,
        classes_by("ClassHead.0.conv1x1.bias", 2, (640, 640)),
        None,
        single="face",
        usual=(640, 640),
    ),
}


def recognise(state: Mapping[str, Any]) -> str:
    """The key of ``SOURCES`` whose signs ``state`` has.

    Raises:
        ValueError: none of them; the sentence says what there would be, and what comes nearest.
    """
    for key, source in SOURCES.items():
        if all(sign in state for sign in source.signs):
            return key
    near = [s for s in SOURCES.values() if any(sign in state for sign in s.signs)]
    if near:
        missing = next(sign for sign in near[0].signs if sign not in state)
        raise ValueError(f"weights look like {near[0].words}, but {missing} is missing")
    known = dict.fromkeys(name for s in SOURCES.values() for name in s.words.split(":")[0].split(", "))
    names = ", ".join(str(name)[:40] for name in list(state)[:3]) or "none"
    raise ValueError(
        f"weights must be of this package, {', '.join(known)} (`ssd-cuda models` lists the networks), "
        f"got names like {names}"
    )
