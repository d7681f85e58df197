"""compat.onnx: the selection of onnxruntime's own operator, by its signature."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssd_cuda.compat.onnx import non_max_suppression

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NAMES = ["boxes", "scores", "most", "iou", "score"]


@pytest.fixture(scope="module")
def operators():
    """onnxruntime's operator for both formats of boxes: called with arrays."""

    def make(center: int):
        kinds = [onnx.TensorProto.FLOAT] * 2 + [onnx.TensorProto.INT64] + [onnx.TensorProto.FLOAT] * 2
        shapes = [[None, None, 4], [None, None, None], [1], [1], [1]]
        inputs = [onnx.helper.make_tensor_value_info(*row) for row in zip(NAMES, kinds, shapes, strict=True)]
        output = onnx.helper.make_tensor_value_info("selected", onnx.TensorProto.INT64, [None, 3])
        node = onnx.helper.make_node("NonMaxSuppression", NAMES, ["selected"], center_point_box=center)
        graph = onnx.helper.make_graph([node], "nms", inputs, [output])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda *arrays: session.run(None, dict(zip(NAMES, arrays, strict=True)))[0]

    return [make(center) for center in (0, 1)]


def scene(images: int, classes: int, width: int, center: int, seed: int):
    g = torch.Generator().manual_seed(seed)
    corner = (20 * torch.rand(images, width, 2, generator=g)).round()
    size = (10 * torch.rand(images, width, 2, generator=g)).round()  # some without area
    boxes = torch.cat([corner, size if center else corner + size], -1)
    if not center:  # any two opposite corners
        swapped = torch.rand(images, width, generator=g) < 0.3
        boxes[swapped] = boxes[swapped][:, [2, 3, 0, 1]]
    scores = (torch.rand(images, classes, width, generator=g) * 30).round() / 30  # with ties
    return boxes, scores


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize(
    ("images", "classes", "width", "most", "iou", "score"),
    [
        (1, 1, 1, 1, 0.5, 0.0),
        (2, 3, 60, 100, 0.5, 0.3),
        (3, 2, 90, 7, 0.0, 0.5),
        (2, 2, 90, 1, 0.3, 0.1),
        (1, 4, 120, 120, 1.0, 0.0),
        (2, 1, 40, 0, 0.5, 0.0),
        (2, 2, 40, 5, 0.5, 1.0),
        (1, 2, 200, 200, 1 / 3, 0.2),
    ],
)
def test_selects_what_onnxruntime_selects(
    device, operators, center, images, classes, width, most, iou, score
):
    for seed in range(8):
        boxes, scores = scene(images, classes, width, center, seed)
        arrays = [boxes.numpy(), scores.numpy(), np.array([most]), np.float32([iou]), np.float32([score])]
        expected = operators[center](*arrays)
        found = non_max_suppression(
            boxes.to(device), scores.to(device), most, iou, score, center_point_box=center
        )
        assert found.dtype == torch.int64 and found.device.type == device.type
        assert np.array_equal(found.cpu().numpy(), expected)


def test_without_a_score_threshold_all_take_part():
    boxes, scores = scene(1, 1, 30, 0, 1)
    assert len(non_max_suppression(boxes, scores - 5, 30, 1.0)) == 30


def test_arguments_as_tensors():
    boxes, scores = scene(2, 2, 30, 0, 2)
    given = non_max_suppression(boxes, scores, torch.tensor([4]), torch.tensor([0.3]), torch.tensor(0.2))
    assert torch.equal(given, non_max_suppression(boxes, scores, 4, 0.3, 0.2)) and len(given)


def test_no_boxes():
    assert non_max_suppression(torch.empty(2, 0, 4), torch.empty(2, 3, 0), 5, 0.5).shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"boxes": torch.rand(2, 5)}, ValueError, "boxes must have shape"),
        ({"scores": torch.rand(2, 1, 4)}, ValueError, "scores must have shape"),
        ({"boxes": torch.rand(2, 5, 4).double()}, TypeError, "boxes must be float32"),
        ({"center_point_box": 2}, ValueError, "center_point_box must be"),
        ({"iou_threshold": 1.5}, ValueError, "iou_threshold must lie in"),
    ],
)
def test_errors(change, error, sentence):
    arguments = {"boxes": torch.rand(2, 5, 4), "scores": torch.rand(2, 1, 5), "iou_threshold": 0.5}
    with pytest.raises(error, match=sentence):
        non_max_suppression(**{**arguments, "max_output_boxes_per_class": 3, **change})
