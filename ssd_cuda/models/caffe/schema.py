"""The messages of Caffe that an SSD for detection is made of, for the protobuf library.

Of the text (prototxt) only names matter; of the binary file (caffemodel) only what leads to the blobs is
read, by the numbers of caffe.proto, and everything else is passed over as unknown.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ..._extras import require
from ..unreadable import check_file, looks_like

__all__ = ["read_blobs", "read_text"]

Fields = dict[str, tuple[int, str]]  # name -> number, type; "*" repeats, "=" gives the default

_ENUMS = {
    "Phase": ("TRAIN", "TEST"),
    "PoolMethod": ("MAX", "AVE", "STOCHASTIC"),
    "EltwiseOp": ("PROD", "SUM", "MAX"),
    "CodeType": ("NONE", "CORNER", "CENTER_SIZE", "CORNER_SIZE"),
}
_PAIRS = ("pad", "kernel", "stride")


def _sides(start: int) -> Fields:
    names = [f"{name}_{side}" for name in _PAIRS for side in "hw"]
    return {name: (number, "uint32") for number, name in enumerate(names, start)}


def _numbered(**types: str) -> Fields:
    return {name: (number, kind) for number, (name, kind) in enumerate(types.items(), 1)}


_TEXT: dict[str, Fields] = {
    "BlobShape": _numbered(dim="int64*"),
    "InputParameter": _numbered(shape="BlobShape*"),
    "NetStateRule": _numbered(phase="Phase"),
    "BatchNormParameter": _numbered(eps="float=1e-5"),
    "ConcatParameter": _numbered(axis="int32=1", concat_dim="uint32=1"),
    "ConvolutionParameter": {
        **_numbered(
            num_output="uint32", bias_term="bool=true", pad="uint32*", kernel_size="uint32*",
            stride="uint32*", dilation="uint32*", group="uint32=1",
        ),
        **_sides(20),
    },
    "EltwiseParameter": _numbered(operation="EltwiseOp=SUM", coeff="float*"),
    "PoolingParameter": {
        **_numbered(
            pool="PoolMethod=MAX", pad="uint32=0", kernel_size="uint32", stride="uint32=1",
            global_pooling="bool=false", ceil_mode="bool=true",
        ),
        **_sides(20),
    },
    "ReLUParameter": _numbered(negative_slope="float=0"),
    "ScaleParameter": _numbered(axis="int32=1", num_axes="int32=1", bias_term="bool=false"),
    "NormalizeParameter": _numbered(
        across_spatial="bool=true", channel_shared="bool=true", eps="float=1e-10"
    ),
    "PermuteParameter": _numbered(order="uint32*"),
    "PriorBoxParameter": _numbered(
        min_size="float*", max_size="float*", aspect_ratio="float*", flip="bool=true", clip="bool=false",
        variance="float*", img_size="uint32", img_h="uint32", img_w="uint32", step="float", step_h="float",
        step_w="float", offset="float=0.5",
    ),
    "NonMaximumSuppressionParameter": _numbered(nms_threshold="float=0.3", top_k="int32=-1", eta="float=1"),
    "DetectionOutputParameter": _numbered(
        num_classes="uint32", share_location="bool=true", background_label_id="int32=0",
        nms_param="NonMaximumSuppressionParameter", code_type="CodeType=CORNER",
        variance_encoded_in_target="bool=false", keep_top_k="int32=-1", confidence_threshold="float",
    ),
    "TransformationParameter": _numbered(scale="float=1", mean_value="float*"),
    "LayerParameter": _numbered(
        name="string", type="string", bottom="string*", top="string*", include="NetStateRule*",
        exclude="NetStateRule*", transform_param="TransformationParameter", input_param="InputParameter",
        batch_norm_param="BatchNormParameter", concat_param="ConcatParameter",
        convolution_param="ConvolutionParameter", eltwise_param="EltwiseParameter",
        pooling_param="PoolingParameter", relu_param="ReLUParameter", scale_param="ScaleParameter",
        norm_param="NormalizeParameter", permute_param="PermuteParameter",
        prior_box_param="PriorBoxParameter", detection_output_param="DetectionOutputParameter",
    ),
    "NetParameter": _numbered(
        name="string", input="string*", input_dim="int32*", input_shape="BlobShape*", layer="LayerParameter*"
    ),
}  # fmt: skip

_BINARY: dict[str, Fields] = {
    "BlobShape": {"dim": (1, "int64*")},
    "BlobProto": {
        "num": (1, "int32"), "channels": (2, "int32"), "height": (3, "int32"), "width": (4, "int32"),
        "data": (5, "float*"), "shape": (7, "BlobShape"), "double_data": (8, "double*"),
    },
    "LayerParameter": {"name": (1, "string"), "type": (2, "string"), "blobs": (7, "BlobProto*")},
    "NetParameter": {"name": (1, "string"), "layers": (2, "bytes*"), "layer": (100, "LayerParameter*")},
}  # fmt: skip


@functools.cache
def _message(kind: str) -> Any:
    """The class of a NetParameter that is read as ``"text"`` or ``"binary"``."""
    descriptor_pb2 = require("google.protobuf.descriptor_pb2", "reading a Caffe model")
    factory = require("google.protobuf.message_factory", "reading a Caffe model")
    pool = require("google.protobuf.descriptor_pool", "reading a Caffe model").DescriptorPool()
    package = f"ssd_cuda.caffe_{kind}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for name, values in _ENUMS.items():  # each in a message of its own, since values of a scope differ
        enum = file.message_type.add(name=f"{name}Scope").enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in (_TEXT if kind == "text" else _BINARY).items():
        message = file.message_type.add(name=name)
        for field, (number, words) in fields.items():
            _add_field(message, package, field, number, words)
    pool.Add(file)
    return factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.NetParameter"))


def _add_field(message: Any, package: str, field: str, number: int, words: str) -> None:
    kind, _, default = words.rstrip("*").partition("=")
    added = message.field.add(name=field, number=number, label=3 if words.endswith("*") else 1)
    simple = {"double": 1, "float": 2, "int64": 3, "int32": 5, "bool": 8, "string": 9}
    simple |= {"bytes": 12, "uint32": 13}
    if kind in simple:
        added.type = simple[kind]
    else:
        added.type = 14 if kind in _ENUMS else 11
        added.type_name = f".{package}.{kind}Scope.{kind}" if kind in _ENUMS else f".{package}.{kind}"
    if default:
        added.default_value = default


def read_text(path: Path) -> Any:
    """The network that a prototxt describes.

    Raises:
        ValueError: a file that is missing or no prototxt.
    """
    text_format = require("google.protobuf.text_format", "reading a Caffe model")
    check_file("prototxt", path)
    try:
        text = path.read_text("utf-8-sig")
        return text_format.Parse(text, _message("text")(), allow_unknown_field=True)
    except (UnicodeDecodeError, text_format.ParseError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} must be a prototxt of Caffe: {reason}") from error


def read_blobs(path: Path) -> Any:
    """The layers of a caffemodel with their blobs.

    Raises:
        ValueError: a file that is missing, no caffemodel, or one of the format before 2014.
    """
    problem = require("google.protobuf.message", "reading a Caffe model").DecodeError
    check_file("caffemodel", path)
    content = _message("binary")()
    try:
        content.ParseFromString(path.read_bytes())
    except problem as error:
        found = (
            looks_like(path)
            or "a file that protobuf cannot read, as where it is cut off: download or copy it again"
        )
        raise ValueError(f"{path} must be a caffemodel, got {found}") from error
    if not content.layer:
        old = "layers of the old format (upgrade_net_proto_binary makes it new)"
        what = old if content.layers else "no layer"
        raise ValueError(f"{path} must be a caffemodel with layers, got {what}")
    return content
