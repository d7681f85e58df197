"""Each rule of detection as a graph of standard operators, in onnxruntime, against the op."""

from __future__ import annotations

import numpy as np
import onnx_cases as cases
import pytest
import torch
from conftest import random_boxes, random_priors
from torch import nn
from torch.export import Dim

from ssd_cuda import DetectConfig, ops

ort = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
from ssd_cuda import export  # noqa: E402
from ssd_cuda.export import onnx_file  # noqa: E402

BATCH, ROWS = Dim("batch", min=1), Dim("rows", min=1)
RULES = {
    "paper": DetectConfig(),
    "few": DetectConfig(top_k=7, detections_per_image=9),
    "no bounds": DetectConfig(top_k=None, detections_per_image=None),
    "inclusive": DetectConfig(inclusive=True, iou_threshold=0.5, score_threshold=0.05),
    "any overlap": DetectConfig(inclusive=True, iou_threshold=0.0, top_k=20),
    "eps": DetectConfig(iou_eps=1e-2, iou_threshold=0.3, detections_per_image=None, top_k=30),
    "pixels": DetectConfig(pixel_offset=1.0, iou_threshold=0.4),
    "last": DetectConfig(background="last", max_log_scale=0.5, symmetric_log_scale=True, clip="before"),
    "agnostic": DetectConfig(
        class_agnostic=True, background="none", scores="sigmoid", top_k=50, clip="after"
    ),
    "own thresholds": DetectConfig(
        score_threshold=(0.0, 0.3, 0.01, 0.5, 0.1), iou_threshold=(0.5, 0.1, 0.9, 0.3, 0.0), top_k=25
    ),
    "own scores, agnostic": DetectConfig(score_threshold=(0.0, 0.3, 0.01, 0.5, 0.1), class_agnostic=True),
    "given": DetectConfig(scores="given", score_threshold=0.2, prior_format="xyxy"),
}


class Rules(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.names = names
        centers = random_priors(60)
        corners = torch.cat([centers[:, :2] - centers[:, 2:] / 2, centers[:, :2] + centers[:, 2:] / 2], 1)
        self.register_buffer("cxcywh", centers)
        self.register_buffer("xyxy", corners)

    def forward(self, loc, conf):
        rules = [RULES[name] for name in self.names]
        return [tuple(ops.detect(loc, conf, getattr(self, r.prior_format), r)[:5]) for r in rules]


def convert(module, inputs, shapes, **options):
    with onnx_file._quiet():
        program = torch.onnx.export(
            module.eval(), inputs, dynamo=True, dynamic_shapes=shapes, verbose=False, **options
        )
    return ort.InferenceSession(program.model_proto.SerializeToString())


def head(batch):
    return torch.randn(batch, 60, 4), torch.randn(batch, 60, 5) * 4


@pytest.fixture(scope="module")
def rules():
    torch.manual_seed(0)
    module = Rules(list(RULES))
    return module, convert(module, head(2), ({0: BATCH}, {0: BATCH}))


def test_every_rule(rules):
    """One graph of all of them, by the table that the import registers; 0 and many detections an image."""
    module, session = rules
    for batch in (1, 5):
        loc, conf = head(batch)
        conf[0, :, 0] = 60 if batch > 1 else conf[0, :, 0]  # one image is background by most rules
        found = cases.run(session, loc, conf)
        for number, (name, expected) in enumerate(zip(RULES, module(loc, conf), strict=True)):
            assert expected[4].max() >= 4, name
            cases.assert_same_detections(found[5 * number : 5 * number + 5], expected)


def test_ties_and_what_is_not_a_number(rules):
    """Equal scores go to the lowest label and prior; nan never passes."""
    module, session = rules
    loc, conf = torch.zeros(2, 60, 4), torch.zeros(2, 60, 5)
    conf[:, :, 1:4] = 2.0
    conf[1, :30] = torch.nan
    found = cases.run(session, loc, conf)
    for number, (name, expected) in enumerate(zip(RULES, module(loc, conf), strict=True)):
        for ours, theirs in zip(found[5 * number + 2 : 5 * number + 5], expected[2:], strict=True):
            assert np.array_equal(ours, theirs), name


def test_heads_and_priors_in_half():
    """A cast tells of no shape where the batch is open, and the graph asks for that of conf."""
    torch.manual_seed(0)
    module = Rules(["paper", "agnostic"]).half()
    session = convert(module, tuple(part.half() for part in head(2)), ({0: BATCH}, {0: BATCH}))
    given = tuple(part.half() for part in head(3))
    found = cases.run(session, *given)
    for number, expected in enumerate(module(*given)):
        assert expected[4].max() >= 4
        cases.assert_same_detections(found[5 * number : 5 * number + 5], expected)


class Nms(nn.Module):
    def forward(self, boxes, scores, idxs):
        options = dict(inclusive=True, pixel_offset=1.0)
        plain, other = ops.nms(boxes, scores, 0.5), ops.nms(boxes, scores, 0.3, **options)
        third = ops.nms(boxes, scores, 1 / 3)
        found = plain, other, third, ops.batched_nms(boxes, scores, idxs, 0.5)
        return *found, ops.decode(boxes, boxes, (0.1, 0.2))


def test_nms_and_decode():
    def inputs(n):
        return random_boxes(n, size=50), torch.rand(n), torch.randint(-2, 3, (n,))

    shapes = ({0: ROWS}, {0: ROWS}, {0: ROWS})
    session = convert(
        Nms(), inputs(9), shapes, custom_translation_table=export.translation_table(), opset_version=18
    )
    # An IoU of 1 / 3 in float32 is above 1 / 3 in double.
    on_the_edge = (
        torch.tensor([[0.0, 0, 2, 1], [1, 0, 3, 1]]),
        torch.tensor([0.9, 0.8]),
        torch.zeros(2).long(),
    )
    for given in (on_the_edge, *map(inputs, (1, 40, 200))):
        found, expected = cases.run(session, *given), Nms()(*given)
        assert all(np.array_equal(a, b) for a, b in zip(found[:4], expected[:4], strict=True))
        np.testing.assert_allclose(found[4], expected[4], rtol=1e-5)
    assert Nms()(*on_the_edge)[2].tolist() == [0]


def test_an_op_that_a_graph_cannot_hold_says_so():
    priors, config = random_priors(60), DetectConfig(soft_nms="gaussian")

    class Soft(nn.Module):
        def forward(self, loc, conf):
            return ops.detect(loc, conf, priors, config)[:4]

    with pytest.raises(Exception, match="soft_nms must be None"):
        convert(Soft(), head(2), None)


def test_a_number_of_classes_that_is_open_is_told_by_name():
    """A traced program leaves it open; of what hung from it, the graph's translation spoke of int()."""
    with pytest.raises(Exception) as raised:  # torch's own, at the end of whose causes it is
        convert(Rules(["paper"]), head(2), (None, {2: Dim("classes", min=2)}))
    error = raised.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, export.ONNXExportError)
    assert str(error).startswith("conf must have a fixed size in an ONNX graph, got ")
