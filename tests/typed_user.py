"""A user's script over the public surface. tests/test_typing.py runs it and holds it to ``mypy --strict``."""

import torch
from torch import Tensor
from typing_extensions import assert_type

import ssd_cuda
from ssd_cuda import DetectConfig, MatchConfig, MiningConfig, MultiBoxConfig, PriorSpec, models, nn, ops

priors: Tensor = nn.DefaultBoxGenerator().generate(torch.device("cpu"))
assert_type(ops.generate_priors(PriorSpec.preset("paper"), torch.device("cpu")), Tensor)
gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.6]])], [torch.tensor([3])])
assert_type(gt, ops.GroundTruth)
assert_type(ops.match(gt, priors, config=MatchConfig()), Tensor)

loc = torch.zeros(1, len(priors), 4, requires_grad=True)
conf = torch.zeros(1, len(priors), 21, requires_grad=True)
losses = ops.multibox_loss(loc, conf, gt, priors, MultiBoxConfig.preset("paper"))
assert_type(losses, ops.MultiBoxLosses)
assert_type(losses.localization, Tensor)

found = ops.detect(loc.detach(), conf.detach(), priors, DetectConfig.preset("paper"))
assert_type(found, ops.Detections)
assert_type(found.to_list(), list[dict[str, Tensor]])

boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0]])
scores = torch.tensor([0.9, 0.8])
assert_type(ops.box_iou(boxes, boxes), Tensor)
assert_type(ops.nms(boxes, scores, 0.5), Tensor)
assert_type(ops.batched_nms(boxes, scores, torch.zeros(2, dtype=torch.int64), 0.5), Tensor)
assert_type(ops.nms_padded(boxes, scores, 0.5, max_output=2), tuple[Tensor, Tensor])
keys = torch.rand(2, 8)
assert_type(ops.select_hard_negatives(keys, keys > 0.9, MiningConfig().ratio), Tensor)
assert_type(ops.top_k_threshold(keys, torch.tensor([1, 2])), ops.TopK)
assert_type(ops.encode(boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]] * 2)), Tensor)

model = models.ssd_small(num_classes=3)
print(ssd_cuda.build_info()["available"])
assert_type(ssd_cuda.is_available(), bool)


class Doubled(torch.nn.Module):
    """Any module keeps its own type through accelerate's signature."""


def speed_up(net: Doubled) -> Doubled:
    return ssd_cuda.accelerate(net)


print(float(losses.localization), len(found.to_list()), ssd_cuda.__version__)
