"""compat.openvino: the rule of NonMaxSuppression-9 in numpy, and OpenVINO's own where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssd_cuda.compat.openvino import non_max_suppression

CASES = [  # most, iou, score, sigma
    (10, 0.5, 0.3, 0.0),
    (3, 0.3, 0.0, 0.0),
    (100, 0.5, 0.5, 0.0),
    (20, 0.0, 0.2, 0.0),
    (0, 0.5, 0.1, 0.0),
    (8, 0.5, 0.2, 0.5),
    (30, 1.0, 0.3, 0.3),
    (9, 0.4, 0.05, 1.0),
]


def scene(encoding, ties, seed, images=2, classes=2, width=25):
    g = torch.Generator().manual_seed(seed)
    corner = (20 * torch.rand(images, width, 2, generator=g)).round()
    size = 1 + (9 * torch.rand(images, width, 2, generator=g)).round()
    scores = torch.rand(images, classes, width, generator=g)
    boxes = torch.cat([corner, size if encoding == "center" else corner + size], -1)
    return boxes, (scores * 20).round() / 20 if ties else scores


def overlap(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = np.prod(np.maximum(high - low, 0), dtype=np.float32)
    return inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter)


def documented(boxes, scores, most, iou, score, sigma, encoding, by_score):
    """The algorithm of the page with the plugin's comparisons: rows of image, class, box, score."""
    if encoding == "center":
        boxes = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    rows = []
    for image, label in np.ndindex(*scores.shape[:2]):
        left = {i: s for i, s in enumerate(scores[image, label]) if s > np.float32(score)}
        chosen = 0
        while left and chosen < most:
            best = min(left, key=lambda i: (-left[i], i))
            value = left.pop(best)
            rows.append((image, label, best, value))
            chosen += 1
            for i in list(left):
                shared = overlap(boxes[image, best], boxes[image, i])
                if sigma:
                    left[i] = np.float32(left[i] * np.exp(-0.5 * shared * shared / sigma))
                if left[i] <= np.float32(score) or (not sigma and shared >= np.float32(iou)):
                    del left[i]
    return sorted(rows, key=lambda row: -row[3]) if by_score else rows


@pytest.mark.parametrize("encoding", ["corner", "center"])
@pytest.mark.parametrize("by_score", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_is_the_documented_rule(device, encoding, by_score, case):
    for seed in range(3):
        boxes, scores = scene(encoding, seed == 1 and not case[3], seed)
        index, values, count = non_max_suppression(
            boxes.to(device), scores.to(device), *case,
            box_encoding=encoding, sort_result_descending=by_score,
        )  # fmt: skip
        rows = documented(boxes.numpy(), scores.numpy(), *case, encoding, by_score)
        assert index.tolist() == [list(row[:3]) for row in rows]
        assert values[:, 2].tolist() == pytest.approx([float(row[3]) for row in rows], rel=1e-5)
        assert torch.equal(values[:, :2].long(), index[:, :2]) and count.tolist() == [len(rows)]


@pytest.mark.parametrize("encoding", ["corner", "center"])
@pytest.mark.parametrize("by_score", [True, False])
def test_is_openvinos(encoding, by_score):
    openvino = pytest.importorskip("openvino")
    op = pytest.importorskip("openvino.opset9")
    shapes = [[-1, -1, 4], [-1, -1, -1], [1], [1], [1], [1]]
    kinds = [np.float32, np.float32, np.int64, np.float32, np.float32, np.float32]
    inputs = [op.parameter(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
    node = op.non_max_suppression(*inputs, encoding, by_score, "i64")
    model = openvino.Model([node.output(k) for k in range(3)], inputs)
    run = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for case in CASES:
        for seed in range(8):
            boxes, scores = scene(encoding, seed % 2 == 1, seed)
            arrays = [boxes.numpy(), scores.numpy(), np.array(case[:1])]
            expected = run([*arrays, *(np.float32([value]) for value in case[1:])])
            found = non_max_suppression(
                boxes, scores, *case, box_encoding=encoding, sort_result_descending=by_score
            )
            count = int(expected[2][0])
            assert found[2].item() == count
            assert np.array_equal(found[0].numpy(), expected[0][:count])
            np.testing.assert_allclose(found[1].numpy(), expected[1][:count], rtol=1e-5)


def test_types_and_nothing():
    boxes, scores = scene("corner", False, 0)
    index, _, count = non_max_suppression(
        boxes, scores, torch.tensor([4]), torch.tensor(0.5), output_type="i32"
    )
    assert index.dtype == count.dtype == torch.int32 and len(index) > 4
    nothing = non_max_suppression(boxes[:, :0], scores[..., :0], 5, 0.5)
    assert nothing[0].shape == nothing[1].shape == (0, 3) and nothing[2].item() == 0


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"boxes": torch.rand(2, 5)}, ValueError, "boxes must have shape"),
        ({"scores": torch.rand(2, 1, 4)}, ValueError, "scores must have shape"),
        ({"box_encoding": "xyxy"}, ValueError, "box_encoding must be one of 'corner', 'center', got 'xyxy'"),
        ({"output_type": "i8"}, ValueError, "output_type must be one of"),
        ({"sort_result_descending": 1}, TypeError, "sort_result_descending must be True or False"),
        ({"iou_threshold": 1.5}, ValueError, "iou_threshold must lie in"),
        ({"score_threshold": -1.0, "soft_nms_sigma": 0.5}, ValueError, "score_threshold must lie in"),
    ],
)
def test_errors(change, error, sentence):
    arguments = {"boxes": torch.rand(2, 5, 4), "scores": torch.rand(2, 1, 5), "iou_threshold": 0.5}
    with pytest.raises(error, match=sentence):
        non_max_suppression(**{**arguments, "max_output_boxes_per_class": 3, **change})
