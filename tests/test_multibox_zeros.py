"""The zeros a forward prepares for the gradient of the logits: one backward takes them, peak memory stays."""

from __future__ import annotations

import weakref

import pytest
import torch
from multibox_cases import batch_of, gradients, with_zeros
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssd_cuda import MultiBoxConfig, models, ops

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


class Watch(TorchDispatchMode):
    """What the ops of the loss give, by name."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        if op.namespace == "ssd_cuda" and "multibox" in op._schema.name:
            self.seen.append((op._schema.name.removeprefix("ssd_cuda::multibox_"), args, result))
        return result


def case(device, dtype=torch.float32, layout="bpc", classes=6):
    config = MultiBoxConfig(layout=layout)
    loc, conf, gt, priors = batch_of(config, (3, 0, 2), classes=classes, dtype=dtype, device=device)
    return loc.requires_grad_(), conf.requires_grad_(), gt, priors, config


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_the_gradients_are_those_without_them(device, dtype, layout):
    loc, conf, *rest = case(device, dtype, layout)
    prepared = with_zeros(lambda: gradients(ops.multibox_loss(loc, conf, *rest), loc, conf))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops.multibox, "_wants_zeros", lambda conf: False)
        expected = gradients(ops.multibox_loss(loc, conf, *rest), loc, conf)
    for mine, theirs in zip(prepared, expected, strict=True):
        assert torch.equal(mine, theirs) and mine.stride() == theirs.stride() and mine.any()


def test_the_first_backward_has_them_and_a_second_has_its_own(device):
    loc, conf, *rest = case(device)
    with Watch() as watch:
        losses = with_zeros(lambda: ops.multibox_loss(loc, conf, *rest))
        total = losses.localization + 2 * losses.classification
        first, second = (torch.autograd.grad(total, (loc, conf), retain_graph=True) for _ in range(2))
        third = torch.autograd.grad(losses.classification, conf)[0]
    zeros = watch.seen[0][2][6]
    again = ["loss_backward_into", "loss_backward", "loss_backward"]
    assert [name for name, *_ in watch.seen] == ["match_loss", *again]
    assert first[1].data_ptr() == zeros.data_ptr() != second[1].data_ptr()
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    torch.testing.assert_close(2 * third, first[1])  # nothing of an earlier backward is left in it


class OnCard(torch.Tensor):
    """Says that it lies on a card."""

    is_cuda = True


@pytest.mark.parametrize("form", ["wanted", "no_grad", "no gradient of the logits", "compiled", "a subclass"])
def test_who_asks_for_them(monkeypatch, form):
    """On a card the wrapper asks in eager mode, of plain tensors that want a gradient."""
    conf = torch.rand(1, 3, 2).as_subclass(OnCard).requires_grad_(form != "no gradient of the logits")
    if form != "a subclass":
        monkeypatch.setattr(ops.multibox, "Tensor", OnCard)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: form == "compiled")
    with torch.set_grad_enabled(form != "no_grad"):
        assert ops.multibox._wants_zeros(conf) == (form == "wanted")


def test_the_wrapper_asks_as_it_should(device):
    loc, conf, *rest = case(device)
    with Watch() as watch:
        losses = ops.multibox_loss(loc, conf, *rest)
        torch.autograd.grad(losses.classification, conf)
        with torch.no_grad():
            ops.multibox_loss(loc, conf, *rest)
    names = [name for name, *_ in watch.seen]
    assert names == ["match_loss", "loss_backward_into" if conf.is_cuda else "loss_backward", "match_loss"]
    assert watch.seen[-1][2][6].numel() == 0


@pytest.mark.parametrize("spoil", ["shape", "dtype"])
def test_a_gradient_that_does_not_fit_is_refused(device, spoil):
    loc, conf, *rest = case(device)
    with Watch() as watch:
        losses = with_zeros(lambda: ops.multibox_loss(loc, conf, *rest))
        torch.autograd.grad(losses.classification, conf)
    _, arguments, _ = watch.seen[-1]
    bad = arguments[-1][:, 1:] if spoil == "shape" else arguments[-1].double()
    options = ops.multibox.op_options(rest[-1])
    with pytest.raises(RuntimeError, match="d_conf must"):
        torch.ops.ssd_cuda.multibox_loss_backward_into(*arguments[:-1], bad, **options)


class Peak(TorchDispatchMode):
    """The most bytes that lived at once, each storage from its first use to its end."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor):
                self._count(t.untyped_storage())
        return result

    def _count(self, storage):
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key, size):
        self.known.discard(key)
        self.now -= size


def peak_of_a_step(prepare: bool) -> int:
    """Of a training step of ssd300 with 32 images of 81 classes; shapes alone, nothing is computed."""
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.MonkeyPatch.context() as patch:
        model = models.ssd300_vgg16(81)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        images = torch.empty(32, 3, 300, 300)
        offsets = torch.arange(33, dtype=torch.int32)
        gt = ops.GroundTruth(torch.empty(32, 4), torch.ones(32, dtype=torch.int64), offsets)
        patch.setattr(ops.multibox, "_wants_zeros", lambda conf: prepare and conf.requires_grad)
        with Peak() as peak:
            loc, conf = model(images)
            losses = ops.multibox_loss(loc, conf, gt, model.priors)
            (losses.localization + losses.classification).backward()
            optimizer.step()
    return peak.most


def test_peak_memory_of_a_training_step_is_what_it_was():
    gradient = 32 * 8732 * 81 * 4
    without = peak_of_a_step(False)
    assert gradient < without
    assert peak_of_a_step(True) <= without
