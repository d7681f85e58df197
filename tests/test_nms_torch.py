"""nms inside torch: torchvision's own behaviour, compile, export, opcheck, CUDA graphs, errors."""

from __future__ import annotations

import pytest
import torch
from conftest import random_boxes

from ssd_cuda import ops


def _case(n=200, classes=4, device="cpu"):
    boxes = random_boxes(n, size=300).to(device)
    return boxes, torch.rand(n, device=device), torch.randint(0, classes, (n,), device=device)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.2, 0.3, 0.45, 0.5, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_is_torchvisions(dtype, threshold):
    """On the CPU: the comparison there is the documented one."""
    box_ops = pytest.importorskip("torchvision.ops")
    for n in (0, 1, 30, 1000):
        boxes, scores = random_boxes(n, size=300, dtype=dtype), (torch.rand(n) * 20).round().to(dtype) / 20
        assert torch.equal(ops.nms(boxes, scores, threshold), box_ops.nms(boxes, scores, threshold))
        small = (boxes / 30).round()  # integer corners: IoUs on the threshold, empty boxes
        assert torch.equal(ops.nms(small, scores, threshold), box_ops.nms(small, scores, threshold))


def test_batched_nms_is_torchvisions_class_by_class():
    box_ops = pytest.importorskip("torchvision.ops")
    for n in (0, 1, 300, 1500):  # both of torchvision's strategies
        boxes, _, idxs = _case(n)
        scores = torch.randperm(n).float()
        assert torch.equal(
            ops.batched_nms(boxes, scores, idxs, 0.5), box_ops.batched_nms(boxes, scores, idxs, 0.5)
        )


def test_drop_in_for_torchvisions_detection(monkeypatch):
    """Its SSD post-process gives the same detections with our nms in the place of its own."""
    detection = pytest.importorskip("torchvision.models.detection")
    import torchvision.ops.boxes as tv_boxes
    from torchvision.models.detection.image_list import ImageList

    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=6)
    size = (320, 320)
    features = [torch.zeros(2, 1, side, side) for side in (20, 10, 5, 3, 2, 1)]
    anchors = model.anchor_generator(ImageList(torch.zeros(2, 3, *size), [size] * 2), features)
    outputs = {
        "bbox_regression": torch.randn(2, len(anchors[0]), 4),
        "cls_logits": torch.randn(2, len(anchors[0]), 6) * 3,
    }
    expected = model.postprocess_detections(outputs, anchors, [size] * 2)
    calls = []

    def spy(*args):
        calls.append(1)
        return ops.nms(*args)

    monkeypatch.setattr(tv_boxes, "nms", spy)
    result = model.postprocess_detections(outputs, anchors, [size] * 2)
    assert calls and len(result) == 2
    for ours, theirs in zip(result, expected, strict=True):
        assert len(ours["boxes"]) > 5
        for name in theirs:
            assert torch.equal(ours[name], theirs[name])


def test_region_proposals_with_our_batched_nms(monkeypatch):
    """Boxes that require a gradient, as torchvision's training code may pass: the indices have none."""
    boxes, scores, idxs = _case()
    keep = ops.batched_nms(boxes.requires_grad_(), scores.requires_grad_(), idxs, 0.5)
    assert not keep.requires_grad
    boxes[keep].sum().backward()
    assert boxes.grad[keep].eq(1).all()


def test_opcheck(device):
    boxes, scores, idxs = _case(device=device)
    for classes in (None, idxs):
        options = {"iou_threshold": 0.5, "inclusive": True, "iou_eps": 1e-5, "pixel_offset": 1.0}
        torch.library.opcheck(torch.ops.ssd_cuda.nms.default, (boxes, scores, classes), options)
        options["max_output"] = 7
        torch.library.opcheck(torch.ops.ssd_cuda.nms_padded.default, (boxes, scores, classes), options)


def test_compiles_without_a_break(device):
    boxes, scores, idxs = _case(device=device)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(boxes, scores, idxs):
        keep, count = ops.nms_padded(boxes * 2, scores, 0.5, max_output=20, idxs=idxs)
        return boxes[keep.clamp(min=0)] + 1, count

    rows, count = step(boxes, scores, idxs)
    keep, expected_count = ops.nms_padded(boxes * 2, scores, 0.5, max_output=20, idxs=idxs)
    assert torch.equal(rows, boxes[keep.clamp(min=0)] + 1) and torch.equal(count, expected_count)


def test_the_size_that_depends_on_the_data_compiles(device):
    boxes, scores, idxs = _case(device=device)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        step = torch.compile(
            lambda b, s, i: (b[ops.nms(b, s, 0.5)] * 2, ops.batched_nms(b, s, i, 0.5) + 1),
            fullgraph=True,
            backend="aot_eager",
        )
        kept, shifted = step(boxes, scores, idxs)
    assert torch.equal(kept, boxes[ops.nms(boxes, scores, 0.5)] * 2)
    assert torch.equal(shifted, ops.batched_nms(boxes, scores, idxs, 0.5) + 1)


def test_exports_with_static_shapes():
    class Padded(torch.nn.Module):
        def forward(self, boxes, scores, idxs):
            return ops.nms_padded(boxes, scores, 0.5, max_output=50, idxs=idxs)

    case = _case()
    program = torch.export.export(Padded(), case)
    for result, expected in zip(program.module()(*case), Padded()(*case), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bits_for_any_number_of_threads(threads):
    boxes, scores, idxs = _case(3000)
    expected = ops.batched_nms(boxes, scores, idxs, 0.6)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.6), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_captures_in_a_cuda_graph():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    boxes, scores, idxs = _case(5000, device="cuda")
    ops.nms_padded(boxes, scores, 0.5, idxs=idxs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keep, count = ops.nms_padded(boxes, scores, 0.5, idxs=idxs)
    new_boxes, new_scores, new_idxs = _case(5000, device="cuda")
    boxes.copy_(new_boxes), scores.copy_(new_scores), idxs.copy_(new_idxs)
    graph.replay()
    expected = ops.batched_nms(new_boxes.cpu(), new_scores.cpu(), new_idxs.cpu(), 0.5)
    assert torch.equal(keep[: count.item()].cpu(), expected)


BOXES, SCORES, IDXS = torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ops.nms([1], SCORES, 0.5), TypeError, "boxes must be a tensor, got list"),
        (
            lambda: ops.nms(torch.rand(4), SCORES, 0.5),
            ValueError,
            r"boxes must have shape \[N, 4\], got \[4\]",
        ),
        (
            lambda: ops.nms(torch.rand(3, 5), SCORES, 0.5),
            ValueError,
            r"boxes must have shape \[N, 4\], got \[3, 5\]",
        ),
        (
            lambda: ops.nms(BOXES, torch.rand(3, 2), 0.5),
            ValueError,
            r"scores must have shape \[3\], got \[3, 2\]",
        ),
        (lambda: ops.nms(BOXES, torch.rand(4), 0.5), ValueError, r"scores must have shape \[3\], got \[4\]"),
        (
            lambda: ops.nms(BOXES[:1].expand(2**31 - 1, 4), SCORES[:1].expand(2**31 - 1), 0.5),
            ValueError,
            r"boxes must have at most 2\*\*31 - 2 rows, got 2147483647",
        ),
        (lambda: ops.nms(BOXES.int(), SCORES, 0.5), TypeError, "boxes must be float32, .*, got int32"),
        (lambda: ops.nms(BOXES, SCORES.int(), 0.5), TypeError, "scores must be float32, .*, got int32"),
        (lambda: ops.nms(BOXES, SCORES, 1.5), ValueError, r"iou_threshold must lie in \[0.0, 1.0\], got 1.5"),
        (lambda: ops.nms(BOXES, SCORES, float("nan")), ValueError, r"iou_threshold must lie in .*, got nan"),
        (lambda: ops.nms(BOXES, SCORES, "half"), TypeError, "iou_threshold must be a number, got str"),
        (
            lambda: ops.nms(BOXES, SCORES, 0.5, iou_eps=-1.0),
            ValueError,
            r"iou_eps must lie in \[0.0, inf\], got -1",
        ),
        (
            lambda: ops.nms(BOXES, SCORES, 0.5, pixel_offset=-1.0),
            ValueError,
            r"pixel_offset must lie in .* got -1",
        ),
        (
            lambda: ops.nms(BOXES.to("meta"), SCORES, 0.5),
            ValueError,
            "nms must be on one device, got cpu, meta",
        ),
        (
            lambda: ops.batched_nms(BOXES, SCORES, IDXS[:2], 0.5),
            ValueError,
            r"idxs must have shape \[3\], got \[2\]",
        ),
        (lambda: ops.batched_nms(BOXES, SCORES, None, 0.5), TypeError, "idxs must be a tensor, got NoneType"),
        (
            lambda: ops.batched_nms(BOXES, SCORES, IDXS.cfloat(), 0.5),
            TypeError,
            "idxs must be int64, .*, got complex64",
        ),
        (lambda: ops.batched_nms(BOXES, SCORES, IDXS.to("meta"), 0.5), ValueError, "must be on one device"),
        (
            lambda: ops.nms_padded(BOXES, SCORES, 0.5, max_output=-1),
            ValueError,
            r"max_output must lie in .* got -1",
        ),
        (
            lambda: ops.nms_padded(BOXES, SCORES, 0.5, max_output=2.5),
            TypeError,
            "max_output must be an integer",
        ),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()
