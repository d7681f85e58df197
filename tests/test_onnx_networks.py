"""Every network that other codebases' weights are for, and DSSD, in onnxruntime: the numbers of torch.

Exporting all takes minutes: one here, the others where SSD_EXPORT_ALL is set.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import onnx_cases as cases
import pytest
import torch
from torch import nn

from ssd_cuda import models

ort = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
from ssd_cuda import export  # noqa: E402
from ssd_cuda.models.sources import SOURCES  # noqa: E402

ALWAYS = {"ulfg_rfb"}
# Those that are built for any size, at one that a test can afford.
SIZES = {
    "ulfg_slim": (48, 64),
    "ulfg_rfb": (48, 64),
    "retinaface_mobilenet": (64, 96),
    "ssd_small": (64, 128),
}
NARROW = {name: dict(depth=50, width=4) for name in ("ssd321", "dssd321", "ssd513", "dssd513")}
NETWORKS = sorted({source.model for source in SOURCES.values()} | {"ssd_small", "dssd321"})


def build(name: str) -> models.SSD:
    """With norms that know their inputs, so that no signal dies on its way."""
    torch.manual_seed(0)
    if name in NARROW:
        model = getattr(models, name)(3, **NARROW[name])
    else:
        model = models.build_model(name, 3, SIZES.get(name) or models.MODELS[name][1])
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(cases.images(4, model.image_size))
    for norm in norms:  # four numbers may be nearly equal, and would blow up all that follows
        norm.running_var.clamp_(min=float(norm.running_var.mean()) / 2)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_onnxruntime(name, tmp_path):
    if name not in ALWAYS and not os.environ.get("SSD_EXPORT_ALL"):
        pytest.skip("all networks are exported where SSD_EXPORT_ALL is set")
    model = build(name)
    session = ort.InferenceSession(export.to_onnx(model, tmp_path / "model.onnx", form="raw"))
    images = cases.images(2, model.image_size, seed=1)
    boxes, scores = cases.run(session, images)
    config = replace(model.detect_config, score_threshold=0.0, detections_per_image=50)
    with torch.no_grad():
        loc, conf = model.predict(images)[:2]
        expected = conf.softmax(-1).numpy()
        found = model.detect(images, config)
    assert boxes.shape == (2, len(model.priors), 4) and loc.shape == boxes.shape
    assert expected[..., 1].std() > 1e-3  # the scores say something
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=2e-5)
    for image, count in enumerate(found.counts.tolist()):
        mine = boxes[image][found.prior_indices[image, :count]]
        expected_boxes = found.boxes[image, :count].numpy()
        if model.detect_config.clip != "none":
            mine = mine.clip(0, 1)
        np.testing.assert_allclose(mine, expected_boxes, rtol=1e-3, atol=1e-4)
        assert count == 50
