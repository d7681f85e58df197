"""From a prototxt to a plain description: the layers, where the heads start, the priors, the rule of
detection.

The description is made of JSON's values, so that it travels in a checkpoint and no one needs protobuf to
build the network.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["describe"]

_PLAIN = {"Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "BatchNorm", "Scale", "ReLU",
          "Pooling", "Eltwise", "Concat", "Normalize", "Dropout", "Split"}  # fmt: skip
_SHAPING = {"Permute", "Flatten", "Reshape", "Softmax", "Sigmoid"}


def _one(values: Any, what: str) -> Any:
    if len(set(values)) != 1:
        raise ValueError(f"{what} must be the same in every PriorBox, got {sorted(set(values))}")
    return values[0]


def _pair(param: Any, name: str, default: int | None) -> list[int]:
    """[y, x] of ``pad``, ``kernel_size`` or ``stride``: one number, two, or one a side."""
    short = name.removesuffix("_size")
    if param.HasField(f"{short}_h") or param.HasField(f"{short}_w"):
        return [int(getattr(param, f"{short}_h")), int(getattr(param, f"{short}_w"))]
    value = getattr(param, name)
    values = [value] if isinstance(value, int) and (param.HasField(name) or default is None) else value
    values = [default] if isinstance(values, int) or not len(values) else list(values)
    return [int(values[0]), int(values[-1])]


def _layer(layer: Any) -> dict[str, Any]:
    """A layer with its options as plain values."""
    kind = layer.type
    found: dict[str, Any] = {
        "name": layer.name, "type": kind, "bottom": list(layer.bottom), "top": list(layer.top)
    }  # fmt: skip
    if "Convolution" in kind:
        param = layer.convolution_param
        dilation = list(param.dilation) or [1]
        found.update(
            type="Convolution",
            outputs=int(param.num_output),
            bias=bool(param.bias_term),
            group=int(param.num_output) if "epthwise" in kind else int(param.group),
            kernel=_pair(param, "kernel_size", None),
            pad=_pair(param, "pad", 0),
            stride=_pair(param, "stride", 1),
            dilation=[int(dilation[0]), int(dilation[-1])],
        )
    elif kind == "Pooling":
        param = layer.pooling_param
        found.update(
            average=param.pool == 1, everything=bool(param.global_pooling), ceil=bool(param.ceil_mode),
            kernel=_pair(param, "kernel_size", 1), pad=_pair(param, "pad", 0),
            stride=_pair(param, "stride", 1),
        )  # fmt: skip
        if param.pool == 2:
            raise ValueError(f"layer {layer.name} must be a MAX or AVE pooling, got STOCHASTIC")
    elif kind == "BatchNorm":
        found.update(eps=float(layer.batch_norm_param.eps))
    elif kind == "Scale":
        found.update(bias=bool(layer.scale_param.bias_term))
        if layer.scale_param.axis != 1 or layer.scale_param.num_axes != 1 or len(layer.bottom) != 1:
            raise ValueError(f"layer {layer.name} must scale channels by weights of its own, got other axes")
    elif kind == "ReLU":
        found.update(slope=float(layer.relu_param.negative_slope))
    elif kind == "Eltwise":
        found.update(
            operation=int(layer.eltwise_param.operation),
            factors=[float(c) for c in layer.eltwise_param.coeff],
        )
    elif kind == "Normalize":
        if layer.norm_param.across_spatial:
            raise ValueError(f"layer {layer.name} must have across_spatial: false, got true")
        found.update(shared=bool(layer.norm_param.channel_shared), eps=float(layer.norm_param.eps))
    elif kind == "Concat" and (layer.concat_param.axis, layer.concat_param.concat_dim) != (1, 1):
        raise ValueError(
            f"layer {layer.name} must concatenate channels (axis 1), got {layer.concat_param.axis}"
        )
    return found


class _Graph:
    """The layers of the TEST phase by what they make."""

    def __init__(self, network: Any, path: str) -> None:
        self.path = path
        self.layers = [layer for layer in network.layer if self._is_used(layer)]

    @staticmethod
    def _is_used(layer: Any) -> bool:
        """In the TEST phase; the rules of a layer name it or TRAIN (0)."""
        if layer.type in ("Input", "Data", "AnnotatedData"):
            return False
        if layer.include:
            return any(not rule.HasField("phase") or rule.phase == 1 for rule in layer.include)
        return not any(rule.HasField("phase") and rule.phase == 1 for rule in layer.exclude)

    def only(self, kind: str) -> Any:
        found = [layer for layer in self.layers if layer.type == kind]
        if len(found) != 1:
            raise ValueError(f"{self.path} must have one {kind} layer, got {len(found)}")
        return found[0]

    def makes(self, blob: str, before: Any = None) -> Any:
        """The last layer that makes ``blob``, of those in front of ``before``."""
        layers = self.layers if before is None else self.layers[: self.layers.index(before)]
        for layer in reversed(layers):
            if blob in layer.top:
                return layer
        return None

    def back_to(self, kind: str, blob: str, before: Any) -> Any:
        """The layer of this kind that ``blob`` comes from through layers that only shape."""
        while (layer := self.makes(blob, before)) is not None and layer.type != kind:
            if layer.type not in _SHAPING:
                raise ValueError(
                    f"{self.path}: a {kind} must be what {blob} comes from, got {layer.type} {layer.name}"
                )
            blob, before = layer.bottom[0], layer
        if layer is None:
            raise ValueError(f"{self.path}: a {kind} must be what {blob} comes from, got nothing")
        return layer


def _image_size(network: Any, path: str) -> tuple[list[int], str]:
    shapes = [list(network.input_shape[0].dim)] if network.input_shape else []
    name = network.input[0] if network.input else ""
    if network.input_dim:
        shapes.append(list(network.input_dim[:4]))
    for layer in network.layer:
        if layer.type == "Input" and layer.input_param.shape:
            shapes.append(list(layer.input_param.shape[0].dim))
            name = layer.top[0]
    if not shapes or len(shapes[0]) != 4 or shapes[0][1] != 3 or min(shapes[0][2:]) < 1:
        raise ValueError(f"{path} must have an input of 3 x H x W, got {shapes[0] if shapes else 'none'}")
    return [int(side) for side in shapes[0][2:]], name


def describe(network: Any, path: str) -> dict[str, Any]:
    """The description of what :func:`ssd_cuda.models.caffe.schema.read_text` gave.

    Raises:
        ValueError: a network that is no SSD for detection, an option that is not served.
    """
    size, data = _image_size(network, path)
    graph = _Graph(network, path)
    output = graph.only("DetectionOutput")
    if len(output.bottom) < 3:
        raise ValueError(
            f"{path} must give DetectionOutput offsets, scores and priors, got {list(output.bottom)}"
        )
    locs, confs, priors = (list(graph.back_to("Concat", blob, output).bottom) for blob in output.bottom[:3])
    if not len(locs) == len(confs) == len(priors):
        raise ValueError(f"{path} must have offsets, scores and priors of each map, got "
                         f"{len(locs)}, {len(confs)} and {len(priors)}")  # fmt: skip
    heads, boxes = [], []
    for loc, conf, prior in zip(locs, confs, priors, strict=True):
        pair = [_layer(graph.back_to("Convolution", blob, output)) for blob in (loc, conf)]
        if pair[0]["bottom"] != pair[1]["bottom"]:
            raise ValueError(f"{pair[0]['name']} and {pair[1]['name']} must predict from one map, got "
                             f"{pair[0]['bottom'][0]} and {pair[1]['bottom'][0]}")  # fmt: skip
        heads.append({"source": pair[0]["bottom"][0], "loc": pair[0], "conf": pair[1]})
        boxes.append(graph.makes(prior).prior_box_param)
    used = {layer["name"] for head in heads for layer in (head["loc"], head["conf"])}
    layers = []
    for layer in graph.layers:
        if (
            layer.type in _PLAIN
            and layer.name not in used
            and not _after(layer, (locs, confs, priors), graph)
        ):
            layers.append(_layer(layer))
    scores = graph.makes(output.bottom[1], output)
    while scores.type not in ("Softmax", "Sigmoid", "Concat"):
        scores = graph.makes(scores.bottom[0], scores)
    return {
        "input": data, "image_size": size, "layers": _needed(layers, heads, data), "heads": heads,
        "priors": _priors(boxes, size), "detect": _rule(output.detection_output_param, boxes, scores.type),
        "num_classes": int(output.detection_output_param.num_classes),
    }  # fmt: skip


def _after(layer: Any, parts: tuple[list[str], ...], graph: _Graph) -> bool:
    """Whether a Concat joins what the heads give."""
    return layer.type == "Concat" and any(set(layer.bottom) == set(part) for part in parts)


def _needed(layers: list[dict[str, Any]], heads: list[dict[str, Any]], data: str) -> list[dict[str, Any]]:
    """The layers that the maps of the heads come from, in their order."""
    wanted, kept = {head["source"] for head in heads}, []
    for layer in reversed(layers):
        if set(layer["top"]) & wanted:
            kept.append(layer)
            wanted |= set(layer["bottom"])
    made = {data} | {top for layer in kept for top in layer["top"]}
    if not wanted <= made:
        raise ValueError(f"the layer that makes {min(wanted - made)} must be of a kind that is served "
                         f"({', '.join(sorted(_PLAIN))})")  # fmt: skip
    return kept[::-1]


def _priors(boxes: list[Any], size: list[int]) -> dict[str, Any]:
    """Options of a PriorSpec, all but the feature maps; Caffe cuts sizes to integers."""
    steps = []
    for box in boxes:
        height, width = box.step_h or box.step, box.step_w or box.step
        steps.append([float(height), float(width)])
    if any(0.0 in pair for pair in steps) and any(pair != [0.0, 0.0] for pair in steps):
        raise ValueError("step must be in every PriorBox or in none")
    variance = _one([tuple(box.variance) or (0.1,) for box in boxes], "variance")
    variance = [round(float(v), 7) for v in (variance * 4 if len(variance) == 1 else variance)]
    flip = _one([bool(box.flip) for box in boxes], "flip")
    found: dict[str, Any] = {
        "image_size": size,
        "sizes": [[float(s) for s in box.min_size] for box in boxes],
        "larger_sizes": [[float(s) for s in box.max_size] for box in boxes],
        "ratios": [[float(r) for r in box.aspect_ratio] for box in boxes],
        "ratio_order": "pairs" if flip else "listed",
        "steps": None if steps[0] == [0.0, 0.0] else steps,
        "offset": float(_one([box.offset for box in boxes], "offset")),
        "integer_sizes": True,
        "clip": "corners" if _one([bool(box.clip) for box in boxes], "clip") else "none",
        "format": "xyxy",
        "variances": variance,
    }
    counts = [(len(s), len(g)) for s, g in zip(found["sizes"], found["larger_sizes"], strict=True)]
    if any(larger not in (0, own) or not own for own, larger in counts):
        raise ValueError(f"max_size must be given for every min_size of a PriorBox or for none, got {counts}")
    if all(larger == 0 for _, larger in counts):
        found["larger_sizes"] = None
    elif any(larger == 0 for _, larger in counts):
        found["boxes"] = _cells(found, size)
        found.update(
            sizes=[1.0] * len(boxes), larger_sizes=None, ratios=[[]] * len(boxes), integer_sizes=False
        )
    return found


def _cells(found: dict[str, Any], size: list[int]) -> list[list[list[float]]]:
    """(w, h) of the boxes of a cell in fractions, where only some levels have a larger square."""
    height, width = size
    levels = []
    for sizes, larger, ratios in zip(found["sizes"], found["larger_sizes"], found["ratios"], strict=True):
        level = []
        for k, side in enumerate(map(int, sizes)):
            shapes: list[tuple[float, float]] = [(side, side)]
            if larger:
                shapes.append((math.sqrt(side * int(larger[k])),) * 2)
            for ratio in (r for r in ratios if r != 1):
                root = math.sqrt(ratio)
                shapes.append((side * root, side / root))
                if found["ratio_order"] == "pairs":
                    shapes.append((side / root, side * root))
            level += [[w / width, h / height] for w, h in shapes]
        levels.append(level)
    return levels


def _rule(param: Any, boxes: list[Any], scores: str) -> dict[str, Any]:
    """Options of a DetectConfig; what Caffe has and the ops have not is refused."""
    if not param.share_location:
        raise ValueError(
            "share_location must be true in DetectionOutput, got false: boxes of a class of their own"
        )
    if param.code_type != 2:
        raise ValueError(
            f"code_type must be CENTER_SIZE in DetectionOutput, got {param.code_type} (CORNER is 1)"
        )
    if param.nms_param.eta != 1:
        raise ValueError(f"eta must be 1 in nms_param, got {param.nms_param.eta}")
    background, classes = param.background_label_id, param.num_classes
    names = {-1: "none", 0: "first", classes - 1: "last"}
    if classes < 2 or background not in names:
        raise ValueError(
            f"background_label_id must be the first or last of at least 2 classes, got {background}"
        )
    own = tuple(boxes[0].variance) or (0.1,)
    variances = [round(float(v), 7) for v in (own * 4 if len(own) == 1 else own)]
    threshold = param.confidence_threshold if param.HasField("confidence_threshold") else -3e38
    return {
        "scores": {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(scores, "given"),
        "score_threshold": float(threshold),
        "iou_threshold": float(np.float32(param.nms_param.nms_threshold)),
        "top_k": param.nms_param.top_k if param.nms_param.top_k > 0 else None,
        "detections_per_image": param.keep_top_k if param.keep_top_k > 0 else None,
        "background": names[background],
        "variances": [1.0] * 4 if param.variance_encoded_in_target else variances,
        "prior_format": "xyxy",
    }  # fmt: skip
