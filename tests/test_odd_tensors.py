"""Tensors that are not what they look like: other layouts, narrow integers, quantised ones."""

from __future__ import annotations

import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import FocalConfig, MultiBoxConfig, nn, ops

BOXES, SCORES, PRIORS = random_boxes(6), torch.rand(6), random_priors(8)
IDXS = torch.tensor([1, 2, 1, 2, 1, 2])
LOC, CONF = torch.randn(2, 8, 4), torch.randn(2, 8, 3)
GT = ops.GroundTruth.from_list([BOXES[:3], BOXES[3:]], [IDXS[:3], IDXS[3:]])
CLASSES = torch.zeros(2, 8, dtype=torch.int64)
BATCH = BOXES.view(1, 2, 3, 4)

# name of the argument, the call with another tensor in its place, the tensor
CALLS = [
    ("boxes1", lambda t: ops.box_iou(t, BOXES), BOXES),
    ("boxes", lambda t: ops.encode(t, PRIORS), LOC),
    ("priors", lambda t: ops.decode(LOC, t), PRIORS),
    ("boxes", lambda t: ops.GroundTruth(t, GT.labels, GT.offsets), GT.boxes),
    ("labels", lambda t: ops.GroundTruth(GT.boxes, t, GT.offsets), GT.labels),
    ("offsets", lambda t: ops.GroundTruth(GT.boxes, GT.labels, t), GT.offsets),
    ("priors", lambda t: ops.match(GT, t), PRIORS),
    ("keys", lambda t: ops.top_k_threshold(t, torch.tensor([1, 2])), CONF[..., 0]),
    ("positive", lambda t: ops.select_hard_negatives(CONF[..., 0], t), CLASSES > 0),
    ("conf", lambda t: ops.multibox_loss(LOC, t, GT, PRIORS), CONF),
    ("loc", lambda t: ops.focal_loss(t, CONF, GT, PRIORS), LOC),
    ("loc_target", lambda t: ops.ssd_loss(LOC, CONF, t, CLASSES), LOC),
    ("conf_target", lambda t: ops.multibox_loss_on_targets(LOC, CONF, LOC, t), CLASSES),
    ("boxes", lambda t: ops.nms(t, SCORES, 0.5), BOXES),
    ("scores", lambda t: ops.nms(BOXES, t, 0.5), SCORES),
    ("idxs", lambda t: ops.batched_nms(BOXES, SCORES, t, 0.5), IDXS),
    ("idxs", lambda t: ops.nms_padded(BOXES, SCORES, 0.5, idxs=t), IDXS),
    ("idxs", lambda t: ops.nms_batch(BOXES[None], SCORES[None], 0.5, idxs=t), IDXS[None]),
    ("boxes", lambda t: ops.soft_nms(t, SCORES), BOXES),
    ("scores", lambda t: ops.matrix_nms(BOXES, t), SCORES),
    ("boxes", lambda t: ops.diou_nms(t, SCORES, 0.5), BOXES),
    ("boxes", lambda t: ops.weighted_boxes_fusion(t, SCORES.view(1, 2, 3)), BATCH),
    ("conf", lambda t: ops.detect(LOC, t, PRIORS), CONF),
    ("extra", lambda t: ops.detect(LOC, CONF, PRIORS, extra=t), LOC),
]


@pytest.mark.parametrize("name, call, tensor", CALLS, ids=[f"{i}-{c[0]}" for i, c in enumerate(CALLS)])
def test_other_layouts_are_refused_by_name(name, call, tensor):
    """torch's own errors speak of backends, or of an internal error in place of the shape."""
    call(tensor)
    with pytest.raises(TypeError, match=rf"^{name} must be a dense tensor, got sparse_coo$"):
        call(tensor.to_sparse())
    with pytest.raises(TypeError, match=rf"^{name} must be a dense tensor, got a nested tensor$"):
        call(torch.nested.nested_tensor([tensor, tensor]))
    if tensor.dtype == torch.float32:
        with pytest.raises(TypeError, match=rf"^{name} must be a dense tensor, got _mkldnn$"):
            call(tensor.to_mkldnn())


def test_a_nested_tensor_that_has_as_many_dimensions_as_boxes():
    rows = torch.nested.nested_tensor(list(BOXES))
    with pytest.raises(TypeError, match=r"^boxes must be a dense tensor, got a nested tensor$"):
        ops.nms(rows, SCORES, 0.5)


def test_quantised_labels_are_no_integers():
    labels = torch.quantize_per_tensor(GT.labels.float(), 1.0, 0, torch.quint8)
    with pytest.raises(TypeError, match=r"labels must be an integer tensor, got torch\.quint8"):
        ops.GroundTruth(GT.boxes, labels, GT.offsets)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_labels_are_looked_at_as_the_op_reads_them(dtype):
    """In the dtype of narrow labels the offset wraps: 0 - 1 is 255, and 255 + 1 is a class again."""
    config = FocalConfig(background="none", label_offset=-1)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = ops.focal_loss(LOC, CONF, ops.GroundTruth(GT.boxes, labels, GT.offsets), PRIORS, config)
    narrow = ops.GroundTruth(GT.boxes, labels.to(dtype), GT.offsets)
    found = ops.focal_loss(LOC, CONF, narrow, PRIORS, config)
    assert all(map(torch.equal, found, expected))
    most = torch.iinfo(dtype).max
    bad = ops.GroundTruth(GT.boxes, torch.full((6,), most, dtype=dtype), GT.offsets)
    with pytest.raises(ValueError, match=f"gt.labels of multibox_loss must give a class .*, got {most} as"):
        ops.multibox_loss(LOC, CONF, bad, PRIORS, MultiBoxConfig(label_offset=1))


def test_an_ignored_label_below_0_is_no_uint8():
    gt = ops.GroundTruth(GT.boxes, torch.full((6,), 255, dtype=torch.uint8), GT.offsets)
    with pytest.raises(ValueError, match=r"gt.labels of multibox_loss must give a class .*, got 255"):
        ops.multibox_loss(LOC, CONF, gt, PRIORS, MultiBoxConfig(ignore_label=-1))


@pytest.mark.parametrize("name", ["loc", "conf", "priors"])
def test_the_module_names_what_is_no_tensor(name):
    given = {"loc": LOC, "conf": CONF, "priors": PRIORS}
    with pytest.raises(TypeError, match=rf"^{name} must be a tensor, got list"):
        nn.PostProcess()(**{**given, name: given[name].tolist()})
    with pytest.raises(TypeError, match=r"^extra must be a tensor, got list"):
        nn.PostProcess()(**given, extra=[1.0])


def test_extra_columns_carry_no_gradient():
    extra = LOC.clone().requires_grad_()
    with pytest.raises(ValueError, match=r"^extra must not require a gradient"):
        ops.detect(LOC, CONF, PRIORS, extra=extra)
    assert not nn.PostProcess()(LOC, CONF, PRIORS, extra).extra.requires_grad
    with torch.no_grad():
        assert ops.detect(LOC, CONF, PRIORS, extra=extra).extra.shape == (2, 200, 4)


NARROW = ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn_x2", "uint16", "uint32", "uint64")


@pytest.mark.parametrize("name", [*NARROW, "complex32", "complex64", "bool", "int8"])
def test_extra_columns_are_of_any_dtype(name):
    """torch gathers no float8 and no float4: they ended in its sentence on scatter_gather_tensor_cpu."""
    dtype = getattr(torch, name)
    numbers = torch.randint(1, 2, (2, 8, 16), dtype=torch.uint8)
    numbers[..., 0] = torch.arange(8) % 2
    extra = numbers.view(dtype) if name.startswith("float") else numbers.to(dtype)
    found = ops.detect(LOC, CONF, PRIORS, extra=extra)
    assert found.extra.dtype == dtype and found.extra.shape == (2, 200, 16) and found.counts.min() > 0
    rows = found.extra.view(torch.uint8).view(2, 200, -1)
    expected = extra.view(torch.uint8).view(2, 8, -1)
    for image, count in enumerate(found.counts.tolist()):
        assert torch.equal(rows[image, :count], expected[image][found.prior_indices[image, :count]])
        assert not rows[image, count:].any()


def test_quantised_extra_columns_are_refused_by_name():
    extra = torch.quantize_per_tensor(LOC, 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match=r"^extra must not be quantised, got torch\.quint8; use \.dequantize"):
        ops.detect(LOC, CONF, PRIORS, extra=extra)
