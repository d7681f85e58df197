"""Models as ONNX files: onnxruntime finds what ``model.detect`` finds."""

from __future__ import annotations

import numpy as np
import onnx_cases as cases
import pytest
import torch
from torch import nn

from ssd_cuda import DetectConfig, PriorSpec, accelerate, cli, models, ops
from ssd_cuda import nn as ssd_nn
from ssd_cuda.engine.checkpoint import ModelSpec, save_model

onnx = pytest.importorskip("onnx", reason="needs onnx, onnxscript and onnxruntime")
ort = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
from ssd_cuda import export  # noqa: E402
from ssd_cuda.export import onnx_file  # noqa: E402

SIZE = (96, 128)


@pytest.fixture(scope="module")
def model():
    return cases.model(SIZE)


@pytest.fixture(scope="module")
def nms(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return ort.InferenceSession(export.to_onnx(model, path, input="uint8", classes=cases.CLASSES))


def to_bytes(images):
    return (images * 255).round().to(torch.uint8)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_any_batch_gives_what_detect_finds(model, nms, batch):
    images = to_bytes(cases.images(batch, SIZE, seed=batch))
    expected = model.detect(images)
    assert expected.counts.min() > 3
    cases.assert_same_detections(cases.run(nms, images), expected)


def test_nothing_found(model, tmp_path):
    config = DetectConfig(score_threshold=0.99999)
    session = ort.InferenceSession(export.to_onnx(model, tmp_path / "none.onnx", config=config))
    for batch in (1, 3):
        found = cases.run(session, cases.images(batch, SIZE))
        assert found[4].tolist() == [0] * batch and found[0].shape == (batch, 200, 4)
        cases.assert_same_detections(found, model.detect(cases.images(batch, SIZE), config))


def test_photographs(model, nms):
    folder = cases.BCCD / "JPEGImages"
    if not folder.is_dir():
        pytest.skip("no photographs")
    resize = pytest.importorskip("torchvision.transforms.v2.functional").resize
    from ssd_cuda.data import read_image

    files = sorted(folder.iterdir())[:8]
    images = torch.stack([resize(read_image(f).as_subclass(torch.Tensor), list(SIZE)) for f in files])
    expected = model.detect(images)
    assert expected.counts.sum() > 20
    cases.assert_same_detections(cases.run(nms, images), expected)


def test_the_file_says_what_it_holds(nms):
    facts = cases.metadata(nms)
    assert facts["classes"] == list(cases.CLASSES) and facts["form"] == "nms"
    assert DetectConfig(**facts["detect_config"]) == DetectConfig(
        score_threshold=0.3, detections_per_image=50
    )
    spec = PriorSpec(**facts["prior_spec"])
    assert spec.num_priors == facts["num_priors"] and spec.image_size == SIZE
    (given,) = nms.get_inputs()
    assert given.type == "tensor(uint8)" and given.shape[1:] == [3, *SIZE] and isinstance(given.shape[0], str)
    assert [value.name for value in nms.get_outputs()] == list(cases.NAMES)


def test_standard_operators_only_and_no_trace_of_the_source(model, tmp_path):
    path = export.to_onnx(model, tmp_path / "raw.onnx", form="raw")
    content = onnx.load(path)
    onnx.checker.check_model(content, full_check=True)
    assert [(o.domain, o.version) for o in content.opset_import] == [("", 18)] and not content.functions
    assert b"ssd_cuda/" not in path.read_bytes() and b"File \\" not in path.read_bytes()
    images = cases.images(3, SIZE)
    boxes, scores = cases.run(ort.InferenceSession(path), images)
    loc, conf = model(images)
    decoded = ops.decode(loc, model.priors).detach() / torch.tensor([128.0, 96.0, 128.0, 96.0])
    np.testing.assert_allclose(boxes, decoded, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores, conf.softmax(-1).detach(), rtol=1e-5, atol=1e-5)
    assert scores.shape == (3, len(model.priors), 4)


def test_a_torchvision_model(tmp_path):
    pytest.importorskip("torchvision")
    from test_accelerate import tiny_ssd

    torch.manual_seed(0)
    plain = tiny_ssd(5).eval()
    for name, weight in plain.head.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(weight, std=0.3 if "classification" in name else 0.05)
    width, height = plain.transform.fixed_size
    session = ort.InferenceSession(export.to_onnx(accelerate(plain), tmp_path / "tv.onnx"))
    images = cases.images(2, (height, width))
    found = cases.run(session, images)
    with torch.no_grad():
        expected = plain(list(images))
    for image, theirs in enumerate(expected):
        count = found[4][image]
        assert count == len(theirs["scores"]) > 3
        np.testing.assert_allclose(found[1][image, :count], theirs["scores"], rtol=1e-4)
        boxes = found[0][image, :count] * np.float32([width, height, width, height])
        np.testing.assert_allclose(boxes, theirs["boxes"], rtol=1e-4, atol=1e-2)
        assert found[2][image, :count].tolist() == theirs["labels"].tolist()


@pytest.mark.slow
def test_landmarks_are_an_output(tmp_path):
    """RetinaFace, whose rule measures boxes as x2 - x1 + 1 in pixels."""
    torch.manual_seed(0)
    model, images = models.retinaface_mobilenet(image_size=(64, 96)), cases.images(2, (64, 96))
    for module in model.modules():  # as after training: the norms know what arrives
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(images)
    model.eval()
    for head in model.heads:
        nn.init.normal_(head.conf_conv.weight, std=0.5)
        nn.init.normal_(head.loc_conv.weight, std=0.1)
        nn.init.normal_(head.point_conv.weight, std=0.1)
    config = DetectConfig.preset("retinaface", score_threshold=0.6, detections_per_image=40)
    session = ort.InferenceSession(export.to_onnx(model, tmp_path / "faces.onnx", config=config))
    found, expected = cases.run(session, images), model.detect(images, config)
    assert expected.counts.min() > 3
    cases.assert_same_detections(found[:5], expected, tolerance=1e-3)
    assert [v.name for v in session.get_outputs()][5] == "landmarks"
    np.testing.assert_allclose(found[5], expected.extra, rtol=1e-3, atol=1e-3)


def test_a_post_process_alone(tmp_path):
    priors = torch.rand(40, 4) * 0.5 + 0.1
    module = ssd_nn.PostProcess("nvidia").eval()
    path = export.to_onnx(module, tmp_path / "post.onnx", priors=priors, num_classes=6)
    loc, conf = torch.randn(3, 4, 40), torch.randn(3, 6, 40) * 5
    found = cases.run(ort.InferenceSession(path), loc, conf)
    cases.assert_same_detections(found, module(loc, conf, priors))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(config=DetectConfig(soft_nms="gaussian")), "soft_nms must be None"),
        (
            dict(form="tensorrt", config=DetectConfig(iou_eps=1e-5)),
            "iou_eps must be 0[.]0 for EfficientNMS_TRT",
        ),
        (dict(form="tensorrt", config=DetectConfig(detections_per_image=None)), "must be a number for Eff"),
        (
            dict(form="tensorrt", config=DetectConfig(score_threshold=(0.1,) * 4)),
            "score_threshold must be one number for EfficientNMS_TRT, got one for each class",
        ),
        (dict(config=DetectConfig(iou_eps=1e-5, top_k=None)), "top_k must be at most"),
        (dict(form="tflite"), "form must be one of 'nms', 'raw', 'tensorrt'"),
        (dict(input="int8"), "input must be 'float32' or 'uint8'"),
        (dict(classes=["one"]), "classes must name the 3 classes"),
        (dict(opset=11), "opset must be 18 or later"),
        (dict(opset=99), "opset must be at most"),
        (dict(priors=torch.ones(3, 4)), "priors and num_classes are for a PostProcess"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_exported(change, sentence, tmp_path):
    size = (512, 512) if change.get("config") and change["config"].top_k is None else (64, 64)
    with pytest.raises(ValueError, match=sentence):
        export.to_onnx(cases.model(size, 4), tmp_path / "x.onnx", **change)
    assert not list(tmp_path.iterdir())


def test_other_models_are_refused(tmp_path):
    with pytest.raises(TypeError, match="model must be a model of ssd_cuda"):
        export.to_onnx(nn.Linear(2, 2).eval(), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="must be in eval"):
        export.to_onnx(models.ssd_small(3, (64, 64)), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="must not be float64"):
        export.to_onnx(models.ssd_small(3, (64, 64)).eval().double(), tmp_path / "x.onnx")


def test_a_model_in_half_precision(tmp_path):
    """The metadata says what the graph takes."""
    export.to_onnx(cases.model().half(), tmp_path / "half.onnx")
    session = ort.InferenceSession(tmp_path / "half.onnx")
    assert session.get_inputs()[0].type == "tensor(float16)"
    assert "float16, 0 to 1" in cases.metadata(session)["input"]
    with pytest.raises(ValueError, match="model must not be bfloat16 for ONNX"):
        export.to_onnx(cases.model().bfloat16(), tmp_path / "brain.onnx")


def test_an_opset_that_is_not_written(tmp_path, monkeypatch):
    """The exporter tells it on stderr and writes another."""
    written = onnx_file._export
    monkeypatch.setattr(onnx_file, "_export", lambda network, form, _: written(network, form, 18))
    with pytest.raises(ValueError, match=r"opset must be one that torch [^ ]* writes, got 19"):
        export.to_onnx(cases.model(), tmp_path / "x.onnx", opset=19)
    assert not list(tmp_path.iterdir())


class TestCommand:
    def test_a_checkpoint(self, tmp_path, capsys):
        spec = ModelSpec("ssd_small", cases.CLASSES, (64, 64))
        torch.manual_seed(0)
        model = spec.build().eval()
        for head in model.heads:
            nn.init.normal_(head.conf_conv.weight, std=0.4)
        save_model(tmp_path / "checkpoint.pt", spec, model.state_dict())
        out = tmp_path / "new/model.onnx"
        line = ["export", str(tmp_path / "checkpoint.pt"), "-o", str(out), "--threshold", "0.4"]
        assert cli.main([*line, "--detections", "7"]) == 0
        assert "any batch of 64x64 images" in capsys.readouterr().out
        session = ort.InferenceSession(out)
        assert cases.metadata(session)["classes"] == list(cases.CLASSES)
        config = DetectConfig(score_threshold=0.4, detections_per_image=7)
        cases.assert_same_detections(
            cases.run(session, cases.images(2)), model.detect(cases.images(2), config)
        )

    def test_bad_lines(self, tmp_path, capsys):
        assert cli.main(["export", str(tmp_path / "none.pt"), "-o", str(tmp_path / "model.onnx")]) == 1
        assert "does not exist" in capsys.readouterr().err
        assert cli.main(["export", "none.pt", "-o", "model.tflite"]) == 1
        assert "--out must end in .onnx for form nms" in capsys.readouterr().err
        assert cli.main(["export", "none.pt", "-o", "model.onnx", "--form", "pt2"]) == 1
        assert "--out must end in .pt2 for form pt2" in capsys.readouterr().err
        for threshold in ("1.5", "-1", "nan", "inf"):
            assert cli.main(["export", "none.pt", "-o", "model.onnx", f"--threshold={threshold}"]) == 1
            assert "--threshold must lie in [0, 1], got" in capsys.readouterr().err
        spec = ModelSpec("ssd_small", cases.CLASSES, (64, 64))
        save_model(tmp_path / "checkpoint.pt", spec, spec.build().state_dict())
        line = ["export", str(tmp_path / "checkpoint.pt"), "-o", str(tmp_path / "MODEL.ONNX")]
        assert cli.main([*line, "--detections", "1000000"]) == 1
        assert "--detections must lie in [1, " in capsys.readouterr().err
        assert cli.main([*line, "--form", "raw"]) == 0 and (tmp_path / "MODEL.ONNX").exists()
