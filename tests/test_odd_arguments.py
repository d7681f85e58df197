"""Options that are not what their names ask for: one sentence each, and nothing is taken in silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import DetectConfig, PriorSpec, nn, ops
from ssd_cuda.compat import amdegroot, lufficc, nvidia, onnx, openvino, qfgaohao, retinaface, tensorrt

BOXES, SCORES, PRIORS = random_boxes(6), torch.rand(6), random_priors(8)
LOC, CONF = torch.randn(2, 8, 4), torch.randn(2, 8, 3)
GT = ops.GroundTruth.from_list([BOXES[:3], BOXES[3:]], [torch.ones(3, dtype=torch.int64)] * 2)
ROWS = torch.cat([BOXES, SCORES[:, None]], 1)
FUSED = BOXES.view(1, 2, 3, 4), SCORES.view(1, 2, 3)
FOUND = ops.detect(LOC, CONF, PRIORS, extra=torch.rand(2, 8, 10))
HUGE = 10**400  # an int above every float


def run_onnx(**changes):
    arguments = {"max_output_boxes_per_class": 3, "iou_threshold": 0.5, **changes}
    return onnx.non_max_suppression(BOXES[None], SCORES[None, None], **arguments)


def run_openvino(**changes):
    arguments = {"max_output_boxes_per_class": 3, "iou_threshold": 0.5, **changes}
    return openvino.non_max_suppression(BOXES[None], SCORES[None, None], **arguments)


def run_tensorrt(**changes):
    return tensorrt.efficient_nms(BOXES[None], SCORES[None, :, None], **changes)


NUMBER = "must be a number, got"
CASES = [
    (lambda: ops.nms(BOXES, SCORES, 0.5, iou_eps=None), TypeError, f"iou_eps {NUMBER} NoneType"),
    (lambda: ops.nms(BOXES, SCORES, 0.5, pixel_offset=""), TypeError, f"pixel_offset {NUMBER} str"),
    (lambda: ops.nms(BOXES, SCORES, 0.5, iou_eps=False), TypeError, f"iou_eps {NUMBER} bool"),
    (lambda: ops.soft_nms(BOXES, SCORES, iou_eps=None), TypeError, f"iou_eps {NUMBER} NoneType"),
    (lambda: ops.matrix_nms(BOXES, SCORES, iou_eps=SCORES[:2]), TypeError, f"iou_eps {NUMBER} Tensor"),
    (lambda: ops.nms_padded(BOXES, SCORES, 0.5, max_output=2**63), ValueError, "max_output must fit in 64"),
    (lambda: ops.nms_padded(BOXES, SCORES, 0.5, max_output=True), TypeError, "max_output must be an int"),
    (
        lambda: ops.decode(LOC, PRIORS, symmetric_log_scale="yes"),
        TypeError,
        "symmetric_log_scale must be True or False, got 'yes'",
    ),
    (
        lambda: ops.decode(LOC, PRIORS, symmetric_log_scale=float("nan")),
        TypeError,
        "symmetric_log_scale must be True or False, got nan",
    ),
    (
        lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS, check="no"),
        TypeError,
        "check must be True or False, got 'no'",
    ),
    (lambda: ops.soft_nms(BOXES, SCORES, method=np.ones(2)), ValueError, "method must be one of 'gaussian'"),
    (lambda: DetectConfig(clip=np.ones(2)), ValueError, "clip must be one of 'none'"),
    (lambda: DetectConfig(score_threshold=HUGE), ValueError, "score_threshold must be finite, got 1000"),
    (
        lambda: ops.weighted_boxes_fusion(*FUSED, skip_box_thr=HUGE),
        ValueError,
        "skip_box_thr must be finite",
    ),
    (lambda: ops.weighted_boxes_fusion(*FUSED, weights=1.0), TypeError, "weights must be a list of numbers"),
    (
        lambda: ops.weighted_boxes_fusion(*FUSED, clip_size=1.0),
        TypeError,
        "clip_size must be a list of numbers, got float",
    ),
    (
        lambda: ops.weighted_boxes_fusion(*FUSED, clip_size="ab"),
        ValueError,
        "clip_size must be two positive numbers, got ab",
    ),
    (lambda: ops.prior_variances("paper"), TypeError, "spec must be a PriorSpec, got str"),
    (
        lambda: ops.decode_landmarks(FOUND, PRIORS.to("meta")),
        ValueError,
        "priors must be on the device of found, cpu, got meta",
    ),
    (lambda: ops.GroundTruth.from_list(None, []), TypeError, "boxes must be a list with one tensor"),
    (lambda: ops.GroundTruth.from_list([], 1.5), TypeError, "labels must be a list with one tensor"),
    (lambda: ops.GroundTruth.from_dicts(None), TypeError, "targets must be a list with one dict per image"),
    (lambda: ops.GroundTruth.from_dicts([BOXES]), TypeError, r"targets\[0\] must be a dict, got Tensor"),
    (lambda: GT.to(0.5), TypeError, "device must be a torch.device or its name, got float"),
    (lambda: GT.to(dtype="float32"), TypeError, "dtype must be a torch.dtype, got str"),
    (
        lambda: nn.DefaultBoxGenerator(feature_maps=38),
        TypeError,
        "feature_maps must be a list of integers, got int",
    ),
    (lambda: nn.DefaultBoxGenerator(aspect_ratios=2), TypeError, "aspect_ratios must be a list of lists"),
    (lambda: amdegroot.MultiBoxLoss(3, neg_pos=None), TypeError, f"ratio {NUMBER} NoneType"),
    (lambda: lufficc.MultiBoxLoss("3"), TypeError, f"ratio {NUMBER} str"),
    (lambda: amdegroot.Detect(3, nms_thresh=None), TypeError, f"nms_thresh {NUMBER} NoneType"),
    (lambda: nvidia.decode_batch(None, LOC, CONF, criteria="half"), TypeError, f"criteria {NUMBER} str"),
    (lambda: qfgaohao.hard_nms(ROWS, "x"), TypeError, f"iou_threshold {NUMBER} str"),
    (lambda: retinaface.py_cpu_nms(ROWS.numpy(), None), TypeError, f"thresh {NUMBER} NoneType"),
    (
        lambda: run_onnx(max_output_boxes_per_class=2.5),
        TypeError,
        "max_output_boxes_per_class must be an integer, got 2.5",
    ),
    (
        lambda: run_onnx(max_output_boxes_per_class=float("nan")),
        TypeError,
        "max_output_boxes_per_class must be an integer, got nan",
    ),
    (lambda: run_onnx(iou_threshold=None), TypeError, f"iou_threshold {NUMBER} NoneType"),
    (lambda: run_onnx(score_threshold=float("nan")), ValueError, "score_threshold must lie .* got nan"),
    (lambda: run_onnx(score_threshold=torch.ones(2)), TypeError, f"score_threshold {NUMBER} Tensor"),
    (lambda: run_onnx(score_threshold=HUGE), ValueError, "score_threshold must be finite"),
    (
        lambda: run_openvino(max_output_boxes_per_class=None),
        TypeError,
        "max_output_boxes_per_class must be an integer, got None",
    ),
    (lambda: run_openvino(score_threshold=-1.0), ValueError, "score_threshold must lie in .* got -1"),
    (lambda: run_openvino(score_threshold=float("nan")), ValueError, "score_threshold must lie .* got nan"),
    (lambda: run_openvino(soft_nms_sigma=-0.5), ValueError, "soft_nms_sigma must lie in .* got -0.5"),
    (lambda: run_tensorrt(iou_threshold="x"), TypeError, f"iou_threshold {NUMBER} str"),
    (
        lambda: run_tensorrt(class_agnostic="no"),
        ValueError,
        "class_agnostic must be one of 0, 1, got 'no'",
    ),
    (lambda: run_tensorrt(score_activation=2), ValueError, "score_activation must be one of 0, 1, got 2"),
]


@pytest.mark.parametrize("call, error, words", CASES, ids=[str(i) for i in range(len(CASES))])
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=f"^{words}"):
        call()


def test_numbers_of_numpy_and_in_tensors_are_taken():
    kept = ops.nms_padded(BOXES, SCORES, 0.5, max_output=np.int64(2))
    assert all(map(torch.equal, kept, ops.nms_padded(BOXES, SCORES, 0.5, max_output=2)))
    for one in (torch.tensor, np.array, lambda value: torch.tensor([value])):
        found = run_onnx(max_output_boxes_per_class=one(3), iou_threshold=one(0.5), score_threshold=one(0.25))
        assert torch.equal(found, run_onnx(score_threshold=0.25))
    assert torch.equal(ops.prior_variances(PriorSpec())[0], torch.tensor([0.1, 0.1, 0.2, 0.2]))
