"""The form for TensorRT against its plugin's documentation, and what is said of the limits of each form.

There is no TensorRT here: onnxruntime runs the graph up to the plugin, which is compat.tensorrt's.
"""

from __future__ import annotations

import numpy as np
import onnx_cases as cases
import pytest
import torch

from ssd_cuda import DetectConfig, cli
from ssd_cuda import nn as ssd_nn
from ssd_cuda.compat.tensorrt import efficient_nms
from ssd_cuda.engine.checkpoint import ModelSpec, save_model

onnx = pytest.importorskip("onnx", reason="needs onnx, onnxscript and onnxruntime")
ort = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
from ssd_cuda import export  # noqa: E402
from ssd_cuda.export.greedy import at_least, just_above  # noqa: E402

FLOAT, INT, STRING = (onnx.AttributeProto.AttributeType.Value(name) for name in ("FLOAT", "INT", "STRING"))
# EfficientNMSPlugin_PluginConfig.yaml and README.md of NVIDIA/TensorRT, plugin/efficientNMSPlugin, and the
# defaults of efficientNMSParameters.h: type, what is allowed, what it is where a graph does not say.
DOCUMENTED = {
    "score_threshold": (FLOAT, lambda v: v >= 0, 0.5),
    "iou_threshold": (FLOAT, lambda v: v > 0, 0.5),
    "max_output_boxes": (INT, lambda v: v > 0, 100),
    "background_class": (INT, lambda v: v >= -1, -1),
    "score_activation": (INT, (0, 1).__contains__, 0),
    "class_agnostic": (INT, (0, 1).__contains__, 0),
    "box_coding": (INT, (0, 1).__contains__, 0),
}


def exported(tmp_path, config, size=(64, 64)):
    """The model, its graph, the plugin's node and its attributes."""
    model = cases.model(size)
    content = onnx.load(export.to_onnx(model, tmp_path / "trt.onnx", form="tensorrt", config=config))
    (node,) = (n for n in content.graph.node if n.op_type == "EfficientNMS_TRT")
    return model, content, node, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def test_names_and_types_are_the_documented_ones(tmp_path):
    _, content, node, values = exported(tmp_path, DetectConfig(score_threshold=0.3, detections_per_image=50))
    onnx.checker.check_model(content)
    own = {"plugin_version": b"1"}
    assert set(values) == {*DOCUMENTED, *own} and values["plugin_version"] == b"1"
    kinds = {a.name: a.type for a in node.attribute}
    for name, (kind, allowed, default) in DOCUMENTED.items():
        assert kinds[name] == kind and allowed(values[name]), name
        if name not in ("score_threshold", "iou_threshold", "max_output_boxes"):
            assert values[name] == default, name
    assert kinds["plugin_version"] == STRING
    assert values["score_threshold"] == pytest.approx(0.3) and values["iou_threshold"] == pytest.approx(0.45)
    assert values["max_output_boxes"] == 50
    assert node.domain == "TRT" and len(node.input) == 2 and len(node.output) == 4
    found = {v.name: v.type.tensor_type.elem_type for v in content.graph.output}
    floating, integer = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    assert found == {
        "num_detections": integer, "detection_boxes": floating, "detection_scores": floating,
        "detection_classes": integer,
    }  # fmt: skip
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in content.graph.value_info}
    assert [shapes[name][-1] for name in node.input] == [4, 3]  # boxes; three classes, no background


def up_to_the_plugin(content, node, images):
    """What goes into the plugin, and what the graph adds to the classes that come out."""
    graph = content.graph
    del graph.output[:]
    graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in node.input
    )
    needed, kept = set(node.input), []
    for other in reversed(graph.node):
        if needed & set(other.output):
            kept.insert(0, other)
            needed |= set(other.input)
    del graph.node[:]
    graph.node.extend(kept)
    session = ort.InferenceSession(content.SerializeToString())
    return session.run(None, {"images": images.numpy()})


@pytest.mark.parametrize("change", [{}, {"background": "last", "inclusive": True, "class_agnostic": True}])
def test_the_plugin_would_find_what_detect_finds(tmp_path, change):
    config = DetectConfig(score_threshold=0.4, top_k=None, detections_per_image=30, **change)
    model, content, node, values = exported(tmp_path, config)
    images = cases.images(2)
    boxes, scores = map(torch.from_numpy, up_to_the_plugin(content, node, images))
    found = efficient_nms(boxes, scores, **{name: values[name] for name in DOCUMENTED})
    expected = model.detect(images, config)
    assert found[0][:, 0].tolist() == expected.counts.tolist() and expected.counts.min() > 3
    first = int(config.background == "first")
    sides = (found[1:], (expected.boxes, expected.scores, expected.labels - first))
    for image, count in enumerate(expected.counts.tolist()):
        ours, theirs = (
            torch.cat([b[image], s[image, :, None], c[image, :, None]], 1)[:count] for b, s, c in sides
        )
        apart = (ours[:, None] - theirs).abs().amax(2)
        assert apart.amin(1).max() < 1e-5 and sorted(apart.argmin(1).tolist()) == list(range(count))


@pytest.mark.parametrize("threshold", [0.45, 0.5, 1 / 3, 0.1 + 0.2])
def test_thresholds_mean_the_same_to_the_last_bit(threshold):
    """The plugin asks >=. Ours asks > or >= of a threshold in double: around it, float by float."""
    value = np.nextafter(np.float32(threshold), np.float32(0))
    value = np.nextafter(value, np.float32(0))
    for _ in range(5):
        assert (float(value) > threshold) == bool(value >= np.float32(at_least(threshold, False)))
        assert (float(value) >= threshold) == bool(value >= np.float32(at_least(threshold, True)))
        # A score is compared in float32.
        assert bool(value > np.float32(threshold)) == bool(value >= np.float32(just_above(threshold)))
        value = np.nextafter(value, np.float32(1))


def test_what_the_plugin_has_not_is_refused(tmp_path):
    for config, sentence in (
        (
            DetectConfig(inclusive=True, iou_threshold=0.0),
            "iou_threshold must be above 0 for EfficientNMS_TRT",
        ),
        (DetectConfig(pixel_offset=1.0), "pixel_offset must be 0.0 for EfficientNMS_TRT"),
        (DetectConfig(clip="after"), "clip must be 'none' or 'before' for EfficientNMS_TRT"),
    ):
        with pytest.raises(ValueError, match=sentence):
            export.to_onnx(cases.model(), tmp_path / "x.onnx", form="tensorrt", config=config)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (DetectConfig(), ""),
        (DetectConfig(iou_threshold=(0.45,) * 4), "an iou_threshold a class"),
        (DetectConfig(iou_eps=1e-5), "iou_eps"),
    ],
)
def test_a_loop_is_said(tmp_path, config, reason):
    """OpenCV 5 answers wrongly where the graph has a Loop, and there alone."""
    post = ssd_nn.PostProcess(config)  # which has one mode
    priors = torch.rand(30, 4) * 0.4 + 0.2
    content = onnx.load(export.to_onnx(post, tmp_path / "x.onnx", priors=priors, num_classes=4))
    assert post.training
    remarks = export.remarks("nms", config)
    assert any(n.op_type == "Loop" for n in content.graph.node) == bool(remarks) == bool(reason)
    assert all(line.startswith(f"{reason} makes a Loop, which OpenCV 5") for line in remarks)
    assert export.remarks("raw", config) == export.remarks("pt2", config) == []


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ("nms", "iou_eps makes a Loop, which OpenCV 5 leaves after one round"),
        ("tensorrt", "EfficientNMS_TRT looks at the best 4,096 candidates of an image over all classes"),
        ("raw", None),
    ],
)
def test_the_command_says_it_in_one_line(tmp_path, capsys, monkeypatch, form, sentence):
    spec = ModelSpec("mb2_ssd_lite", cases.CLASSES, (300, 300))
    model = spec.build()
    assert model.detect_config.iou_eps > 0
    save_model(tmp_path / "model.pt", spec, model.state_dict())
    monkeypatch.setattr(export, "to_onnx", lambda model, out, **_: out.write_bytes(b""))
    out = tmp_path / "model.onnx"
    assert cli.main(["export", str(tmp_path / "model.pt"), "-o", str(out), "--form", form]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 + (sentence is not None)
    assert sentence is None or said[1].startswith(sentence)


def test_the_ending_of_a_package_is_its_form(tmp_path, capsys, monkeypatch):
    """``-o model.pt2`` alone: the model of the checkpoint, its classes and its rule go to to_pt2."""
    spec, given = ModelSpec("ssd_small", cases.CLASSES, (64, 64)), {}
    save_model(tmp_path / "model.pt", spec, spec.build().state_dict())

    def write(model, out, **options):
        given.update(options, size=model.image_size)
        out.write_bytes(b"")

    monkeypatch.setattr(export, "to_pt2", write)
    line = ["export", str(tmp_path / "model.pt"), "-o", str(tmp_path / "model.pt2"), "--threshold", "0.7"]
    assert cli.main([*line, "--input", "uint8"]) == 0
    assert given["size"] == (64, 64) and given["classes"] == cases.CLASSES and given["input"] == "uint8"
    assert given["config"].score_threshold == 0.7
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"wrote {tmp_path / 'model.pt2'}: pt2, ") and "any batch of 64x64" in said
