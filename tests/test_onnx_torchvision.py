"""torchvision's own SSDs as ONNX files: onnxruntime finds on photographs what torchvision finds."""

from __future__ import annotations

import os

import numpy as np
import onnx_cases as cases
import pytest
import torch
from torch import nn

from ssd_cuda import accelerate

ort = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
detection = pytest.importorskip("torchvision.models.detection")
from torchvision.transforms.v2.functional import resize  # noqa: E402

from ssd_cuda import export  # noqa: E402
from ssd_cuda.data import read_image  # noqa: E402

# Factors on the last layers' weights, which spread the logits, and how much background is preferred.
MODELS = {"ssdlite320_mobilenet_v3_large": (320, 2.0, 1.0, 3.0), "ssd300_vgg16": (300, 0.6, 0.3, 4.0)}


def photographs(side: int) -> torch.Tensor:
    """Seven, and one of nothing: its colour is that of the networks' mean."""
    folder = cases.BCCD / "JPEGImages"
    if not folder.is_dir():
        pytest.skip("no photographs")
    files = sorted(folder.iterdir())[:7]
    images = [resize(read_image(f).as_subclass(torch.Tensor), [side, side]) / 255 for f in files]
    return torch.stack([*images[:1], torch.full((3, side, side), 0.48), *images[1:]])


def random_model(name: str, images: torch.Tensor) -> nn.Module:
    """As after training: norms that know these images, logits that lie apart, mostly background."""
    _, spread, move, background = MODELS[name]
    torch.manual_seed(0)
    model = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=5, score_thresh=0.3, detections_per_img=60
    )
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()
        with torch.no_grad():
            model.head(list(model.backbone((images - 0.5) / 0.5).values()))
    for head, factor in ((model.head.classification_head, spread), (model.head.regression_head, move)):
        for layer in head.module_list:
            last = layer[-1] if isinstance(layer, nn.Sequential) else layer
            last.weight.data *= factor
            if head is model.head.classification_head:
                last.bias.data.view(-1, 5)[:, 0] = background
    return model.eval()


def assert_same_rows(found: np.ndarray, expected: dict[str, torch.Tensor]) -> None:
    """Boxes to .02 pixels, scores to 2e-4, equal labels; near-equal scores may stand in another order."""
    columns = [expected["boxes"], 100 * expected["scores"][:, None], 1000 * expected["labels"][:, None]]
    theirs = torch.cat(columns, 1).numpy()
    assert found.shape == theirs.shape
    if not len(found):
        return
    apart = np.abs(found[:, None] - theirs).max(2)
    assert sorted(apart.argmin(1)) == list(range(len(theirs)))
    assert apart.min(1).max() < 0.02
    np.testing.assert_allclose(found[:, 4], theirs[:, 4], atol=0.02)  # best first


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_what_torchvision_finds(name, tmp_path):
    """The model as it was and accelerated, for 1, 2 and 8 images; in one of them nothing is found."""
    if name == "ssd300_vgg16" and not os.environ.get("SSD_EXPORT_ALL"):
        pytest.skip("a minute of VGG-16; runs where SSD_EXPORT_ALL is set")
    side = MODELS[name][0]
    images = photographs(side)
    model = random_model(name, images)
    with torch.no_grad():
        plain = model(list(images))
        fast = accelerate(model)(list(images))
    session = ort.InferenceSession(export.to_onnx(model, tmp_path / "model.onnx"))
    counts = [len(found["scores"]) for found in plain]
    assert counts[1] == 0 and sum(c > 3 for c in counts) >= 6, counts
    for start, batch in ((0, 1), (1, 1), (0, 2), (0, 8)):
        boxes, scores, labels, priors, number = cases.run(session, images[start : start + batch])
        assert number.tolist() == counts[start : start + batch]
        assert boxes.shape == (batch, 60, 4) and (priors[labels < 0] == -1).all()
        for row in range(batch):
            count = counts[start + row]
            found = np.column_stack([boxes[row] * side, 100 * scores[row], 1000 * labels[row]])[:count]
            for expected in (plain[start + row], fast[start + row]):
                assert_same_rows(found, expected)
