"""Ways in which torch calls the ops beside a plain call: batched gradients, traces with sizes left open."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import random_boxes, random_priors

from ssd_cuda import FocalConfig, models, nn, ops

PRIORS = random_priors(20)
LOC, CONF = torch.randn(2, 20, 4), torch.randn(2, 20, 5)
LABELS = [torch.tensor([1, 2, 3]), torch.tensor([1, 4])]
GT = ops.GroundTruth.from_list([random_boxes(3), random_boxes(2)], LABELS)
CLASSES = torch.zeros(2, 20, dtype=torch.int64).index_fill(1, torch.tensor([3]), 2)

LOSSES = {
    "multibox": lambda x, y: ops.multibox_loss(x, y, GT, PRIORS),
    "on targets": lambda x, y: ops.multibox_loss_on_targets(x, y, LOC, CLASSES),
    "sigmoid": lambda x, y: ops.focal_loss(x, y, GT, PRIORS),
    "softmax": lambda x, y: ops.focal_loss(x, y, GT, PRIORS, FocalConfig(form="softmax")),
    "focal on targets": lambda x, y: ops.focal_loss_on_targets(x, y, LOC, CLASSES),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_several_factors_at_once(name):
    """torch.autograd.grad(is_grads_batched=True): the factors of a backward are then no numbers to read."""
    loc, conf = LOC.clone().requires_grad_(), CONF.clone().requires_grad_()
    losses = LOSSES[name](loc, conf)
    total = losses.localization + losses.classification
    factors = torch.tensor([1.0, 2.0, 0.0])
    found = torch.autograd.grad(total, (loc, conf), factors, is_grads_batched=True, retain_graph=True)
    for i, factor in enumerate(factors):
        one = torch.autograd.grad(total, (loc, conf), factor, retain_graph=True)
        assert all(torch.equal(several[i], single) for several, single in zip(found, one, strict=True))


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
    reason="Dynamo of torch 2.11 has no graph of a frozen dataclass that is replaced",
)
def test_options_are_replaced_where_numbers_are_left_open():
    loss = lambda ratio: ops.ssd_loss(LOC, CONF, LOC + 1, CLASSES, ratio)  # noqa: E731
    whole = compiled(loss)
    for ratio in (3.0, 1.5):
        assert all(map(torch.equal, whole(ratio), loss(ratio)))


@pytest.mark.parametrize("degenerate", ["keep", "error"])
def test_ground_truth_is_made_in_a_trace(degenerate):
    def offsets(first, second):
        labels = [torch.ones(len(rows), dtype=torch.int64) for rows in (first, second)]
        return ops.GroundTruth.from_list([first, second], labels, degenerate=degenerate).offsets

    whole = compiled(offsets)
    for count in (3, 5):
        assert torch.equal(whole(random_boxes(count), random_boxes(2)), torch.tensor([0, count, count + 2]))


def test_a_trace_does_not_look_at_boxes():
    flat = torch.tensor([[0.2, 0.2, 0.2, 0.4]])
    boxes = lambda rows: ops.GroundTruth.from_list([rows], [torch.ones(1, dtype=torch.int64)]).boxes  # noqa: E731
    assert torch.equal(compiled(boxes)(flat), flat)
    with pytest.raises(ValueError, match="boxes must be finite with x1 < x2"):
        boxes(flat)


SIZES = {
    "soft_nms": lambda boxes, scores: ops.soft_nms(boxes, scores),
    "diou_nms": lambda boxes, scores: (ops.diou_nms(boxes, scores, 0.3),),
    "matrix_nms": lambda boxes, scores: ops.matrix_nms(boxes, scores),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_depends_on_the_data_is_exported(name, strict):
    class Module(torch.nn.Module):
        def forward(self, boxes, scores):
            return SIZES[name](boxes, scores)

    program = torch.export.export(Module(), (random_boxes(30), torch.rand(30)), strict=strict)
    boxes, scores = random_boxes(30), torch.rand(30)
    found, expected = program.module()(boxes, scores), SIZES[name](boxes, scores)
    assert all(map(torch.equal, found, expected))


SIZES_OF_LISTS = {
    **SIZES,
    "nms": lambda boxes, scores: (ops.nms(boxes, scores, 0.3),),
    "to_list": lambda boxes, scores: tuple(
        ops.detect(boxes[None], torch.stack([scores * 0, scores], -1)[None], boxes).to_list()[0].values()
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", SIZES_OF_LISTS)
def test_a_size_that_depends_on_the_data_is_traced(name):
    """torch.jit.trace, in which a number that is read is a tensor: the size is that of each call."""
    call = SIZES_OF_LISTS[name]
    traced = torch.jit.trace(call, (random_boxes(30), torch.rand(30)), check_trace=False)
    boxes, scores = random_boxes(30) * 0.3, torch.rand(30)
    found, expected = traced(boxes, scores), call(boxes, scores)
    assert all(map(torch.equal, found, expected))


def test_rows_of_a_result_that_follow_from_a_size():
    class Module(torch.nn.Module):
        def forward(self, boxes, scores):
            return ops.nms_padded(boxes, scores, 0.5, max_output=boxes.shape[0] // 2)

    size = {0: torch.export.Dim.AUTO}
    program = torch.export.export(Module(), (random_boxes(30), torch.rand(30)), dynamic_shapes=(size, size))
    boxes, scores = random_boxes(30), torch.rand(30)
    found = program.module()(boxes, scores)
    assert all(map(torch.equal, found, ops.nms_padded(boxes, scores, 0.5, max_output=15)))


@pytest.mark.filterwarnings("ignore")  # torch's own: it calls torch.jit deprecated
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        nn.PostProcess,
        nn.MultiBoxLoss,
        nn.FocalLoss,
        nn.DefaultBoxGenerator,
        lambda: nn.SSDLoss(3),
        lambda: models.ssd_small(3, (64, 64)),
    ],
    ids=("PostProcess", "MultiBoxLoss", "FocalLoss", "DefaultBoxGenerator", "SSDLoss", "SSD"),
)
def test_what_cannot_be_scripted_says_what_can_be_done(make, wrapped):
    """The compiler stopped at a line of ours, in words such as: Unknown type annotation: 'Tensor'."""
    module = make()
    name = type(module).__name__
    whole = torch.nn.Sequential(torch.nn.ReLU(), module) if wrapped else module
    with pytest.raises(TypeError, match=rf"^torch\.jit\.script cannot take {name}, .* use torch\.export, or"):
        torch.jit.script(whole)
    assert repr(copy.deepcopy(module)) == repr(module)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_scripted_can_be_traced():
    inputs = torch.randn(1, 8, 4), torch.randn(1, 8, 3), random_priors(8)
    post_process = nn.PostProcess()
    traced = torch.jit.trace(lambda *given: tuple(post_process(*given)[:5]), inputs, check_trace=False)
    assert all(map(torch.equal, traced(*inputs), post_process(*inputs)[:5]))
