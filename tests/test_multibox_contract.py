"""multibox: strides, threads, opcheck, compile, autocast, static targets, and what is refused."""

from __future__ import annotations

import os

import pytest
import torch
from conftest import random_boxes
from multibox_cases import batch_of, gradients, with_zeros

import ssd_cuda
from ssd_cuda import MultiBoxConfig, ops


def views_of(x: torch.Tensor) -> list[torch.Tensor]:
    """x [B, P, K] as other memory: transposed, a slice of wider rows, misaligned, every second row."""
    batch, width, classes = x.shape
    wide = torch.zeros(batch, width, classes + 3, dtype=x.dtype, device=x.device)
    wide[..., 1 : 1 + classes] = x
    flat = torch.zeros(x.numel() + 1, dtype=x.dtype, device=x.device)
    flat[1:] = x.reshape(-1)
    stretched = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return [
        x.transpose(1, 2).contiguous().transpose(1, 2),
        x.transpose(0, 1).contiguous().transpose(0, 1),
        wide[..., 1 : 1 + classes],
        flat[1:].view(x.shape),
        stretched[:, ::2, ::2],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_any_strides_give_the_same_bits(device, dtype):
    loc, conf, gt, priors = batch_of(MultiBoxConfig(), (3, 2), width=70, dtype=dtype, device=device)
    loc.requires_grad_(), conf.requires_grad_()
    expected = ops.multibox_loss(loc, conf, gt, priors)
    grads = gradients(expected, loc, conf)
    for x, y in zip(views_of(loc.detach()), views_of(conf.detach()), strict=True):
        x.requires_grad_(), y.requires_grad_()
        result = ops.multibox_loss(x, y, gt, priors)
        torch.testing.assert_close(result[:2], expected[:2], rtol=1e-6, atol=0)
        for mine, theirs in zip(gradients(result, x, y), grads, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3 if dtype == torch.float16 else 1e-5, atol=1e-7)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_expanded_logits(device, layout, dim):
    """One image, one row or one class for all: strides of 0."""
    config = MultiBoxConfig(layout=layout)
    loc, conf, gt, priors = batch_of(config, (3, 2), width=70, device=device)
    views = [x.narrow(dim, 0, 1).expand(x.shape) for x in (loc, conf)]
    results = []
    for x, y in (views, [view.contiguous() for view in views]):
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        losses = ops.multibox_loss(x, y, gt, priors, config)
        results.append([*losses, *gradients(losses, x, y)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_any_number_of_threads_gives_the_same_bits():
    config = MultiBoxConfig()
    loc, conf, gt, priors = batch_of(config, (5, 0, 9, 1), width=3000, classes=91)  # a gradient past 1 MB
    loc.requires_grad_(), conf.requires_grad_()
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        losses = ops.multibox_loss(loc, conf, gt, priors, config)
        results.append([*losses, *gradients(losses, loc, conf)])
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_opcheck(device):
    loc, conf, gt, priors = batch_of(MultiBoxConfig(), (2, 1), width=30, device=device)
    codes = ops.match(gt, priors)
    options = ops.multibox.op_options(MultiBoxConfig())
    targets = (codes, gt.boxes, gt.labels, gt.offsets, priors, None, None)
    for x, y in ((loc, conf), tuple(t.transpose(1, 2).contiguous().transpose(1, 2) for t in (loc, conf))):
        x.requires_grad_(), y.requires_grad_()
        loss = torch.ops.ssd_cuda.multibox_loss
        torch.library.opcheck(loss.default, (x, y, *targets), {**options, "with_zeros": False})
        settings = {**options, "with_zeros": True}  # the wrapper does not ask for it where a graph is traced
        untraced = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(loss.default, (x, y, *targets), settings, test_utils=untraced)
        *_, keys, cuts, scales, zeros = loss(x, y, *targets, **settings)
        one = torch.ones((), device=device)
        inputs = (one, one, x.detach(), y.detach(), *targets, keys, cuts, scales, zeros.detach())
        torch.library.opcheck(torch.ops.ssd_cuda.multibox_loss_backward_into.default, inputs, options)


@pytest.mark.parametrize("layout", ["bpc", "bcp"])
def test_compiles_without_a_break(device, layout):
    config = MultiBoxConfig(layout=layout)
    loc, conf, gt, priors = batch_of(config, (3, 1), width=40, device=device)
    head = torch.nn.Linear(conf.shape[-1], conf.shape[-1]).to(device)

    def step(x, y):
        losses = ops.multibox_loss(x, head(y), gt, priors, config)
        return losses.localization + losses.classification

    loc.requires_grad_(), conf.requires_grad_()
    result = step(loc, conf)
    expected = torch.autograd.grad(result, (loc, conf))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(loc, conf)
    torch.testing.assert_close(compiled, result)
    torch.testing.assert_close(torch.autograd.grad(compiled, (loc, conf)), expected)


@pytest.mark.parametrize("form", ["matched", "ready"])
def test_compiles_without_a_config(device, form):
    loc, conf, gt, priors = batch_of(MultiBoxConfig(), (3, 1), width=40, device=device)
    target = torch.randint(0, 6, (2, 40), device=device)

    def step(x, y):
        if form == "ready":
            return ops.multibox_loss_on_targets(x, y, loc, target).classification
        return ops.multibox_loss(x, y, gt, priors).classification

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(loc, conf), step(loc, conf))


def test_a_second_derivative_is_refused(device):
    loc, conf, gt, priors = batch_of(MultiBoxConfig(), (3, 1), width=40, device=device)
    loc.requires_grad_(), conf.requires_grad_()
    for call in (lambda fn: fn(), with_zeros):
        loss = call(lambda: ops.multibox_loss(loc, conf, gt, priors)).classification
        (grad,) = torch.autograd.grad(loss, conf, create_graph=True)
        with pytest.raises(NotImplementedError, match="multibox_loss has a first derivative only"):
            grad.pow(2).sum().backward()


def test_autocast(device):
    loc, conf, gt, priors = batch_of(MultiBoxConfig(), (3, 1), width=40, device=device)
    head = torch.nn.Linear(6, 6).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits = head(conf)
        losses = ops.multibox_loss(loc, logits, gt, priors)
        assert logits.dtype == torch.bfloat16
        assert losses.localization.dtype == losses.classification.dtype == torch.float32
        expected = ops.multibox_loss(loc, logits.float(), gt, priors)
    torch.testing.assert_close(losses, expected)
    losses.classification.backward()
    assert head.weight.grad.abs().sum() > 0


def test_static_targets_may_change_between_calls(device):
    """from_padded keeps room: the same tensors, other counts, no value on the host."""
    boxes = random_boxes(8).view(2, 4, 4).to(device)
    labels = torch.randint(1, 5, (2, 4), device=device)
    loc, conf, _, priors = batch_of(MultiBoxConfig(), (1, 1), width=60, device=device)
    for counts in ((0, 0), (4, 1), (2, 3)):
        gt = ops.GroundTruth.from_padded(boxes, labels, torch.tensor(counts, device=device))
        exact = ops.GroundTruth.from_list(
            [boxes[i, :n] for i, n in enumerate(counts)], [labels[i, :n] for i, n in enumerate(counts)]
        )
        torch.testing.assert_close(
            ops.multibox_loss(loc, conf, gt, priors), ops.multibox_loss(loc, conf, exact, priors)
        )


def test_the_global_normalizer_adds_over_the_processes(device, monkeypatch):
    """Another process with twice as many positives: the losses are a third, nothing is read on the host."""
    loc, conf, gt, priors = batch_of(MultiBoxConfig(), (3, 2), device=device)
    config = MultiBoxConfig(normalizer="global")
    alone = ops.multibox_loss(loc, conf, gt, priors, config)
    groups = []

    def all_reduce(tensor, group=None):
        groups.append(group)
        tensor.mul_(3)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    result = ops.multibox_loss(loc, conf, gt, priors, config, process_group="ours")
    torch.testing.assert_close(result.localization, alone.localization / 3)
    torch.testing.assert_close(result.classification, alone.classification / 3)
    assert result.num_positives == alone.num_positives
    assert groups == ["ours"]


def _whole_batch(config):
    torch.manual_seed(7)
    return batch_of(config, (3, 0, 5), width=40)


_GLOBAL = [MultiBoxConfig(normalizer="global", clamp_normalizer=clamp) for clamp in (True, False)]


def _global_worker(rank, path, results):
    """Losses and gradients of this process' images, for every place to cut the batch in two."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    found = []
    for config in _GLOBAL:
        loc, conf, gt, priors = _whole_batch(config)
        for cut in range(4):
            own = slice(cut) if rank == 0 else slice(cut, 3)
            start, end = gt.offsets[own.start or 0], gt.offsets[own.stop]
            counts = gt.offsets.diff()[own].tolist()
            mine = ops.GroundTruth.from_list(
                gt.boxes[start:end].split(counts), gt.labels[start:end].split(counts)
            )
            x, y = loc[own].clone().requires_grad_(), conf[own].clone().requires_grad_()
            losses = ops.multibox_loss(x, y, mine, priors, config)
            found.append([t.tolist() for t in (*losses, *gradients(losses, x, y))])
    results.put((rank, found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_the_global_normalizer_between_two_processes(tmp_path):
    """However the images are dealt out, even none to one process, it is the loss of the whole batch."""
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    args = (str(tmp_path / "store"), results)
    spawned = torch.multiprocessing.spawn(_global_worker, args=args, nprocs=2, join=False)
    found = dict(results.get() for _ in range(2))
    while not spawned.join():
        pass
    expected = []
    for config in _GLOBAL:
        loc, conf, gt, priors = _whole_batch(config)
        loc.requires_grad_(), conf.requires_grad_()
        losses = ops.multibox_loss(loc, conf, gt, priors, config)
        expected += 4 * [[t.tolist() for t in (*losses, *gradients(losses, loc, conf))]]
    for first, second, whole in zip(found[0], found[1], expected, strict=True):
        for a, b, both in zip(first[:3], second[:3], whole[:3], strict=True):
            assert a + b == pytest.approx(both, rel=1e-6)
        for a, b, both in zip(first[3:], second[3:], whole[3:], strict=True):
            torch.testing.assert_close(torch.tensor(a + b), torch.tensor(both), rtol=1e-6, atol=1e-9)


def test_an_unchecked_label_out_of_range_is_nan(device):
    loc, conf, gt, priors = batch_of(MultiBoxConfig(), (2, 1), width=20, device=device)
    options = ops.multibox.op_options(MultiBoxConfig())
    codes = ops.match(gt, priors)
    codes[0, 0] = 99  # no such ground truth: nothing is read for it
    loss = torch.ops.ssd_cuda.multibox_loss(
        loc,
        conf,
        codes,
        gt.boxes,
        gt.labels + 90,
        gt.offsets,
        priors,
        None,
        None,
        **options,
        with_zeros=False,
    )
    assert loss[0].isnan()
    assert loss[1].isnan()


LOC, CONF, PRIORS = torch.zeros(1, 3, 4), torch.zeros(1, 3, 2), torch.rand(3, 4)
GT = ops.GroundTruth.from_list([torch.tensor([[0.0, 0, 1, 1]])], [torch.tensor([1])])
BAD = ops.GroundTruth.from_list([torch.tensor([[0.0, 0, 1, 1]])], [torch.tensor([2])])


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ops.multibox_loss(LOC, 1, GT, PRIORS), TypeError, "conf must be a tensor, got int"),
        (
            lambda: ops.multibox_loss(LOC, CONF[0], GT, PRIORS),
            ValueError,
            r"conf must have shape \[B, P, C\]",
        ),
        (
            lambda: ops.multibox_loss(LOC[:, :2], CONF, GT, PRIORS),
            ValueError,
            r"loc must have shape \[1, 3, 4\]",
        ),
        (
            lambda: ops.multibox_loss(LOC, CONF.int(), GT, PRIORS),
            TypeError,
            "conf must be float32.*got int32",
        ),
        (
            lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS, "paper"),
            TypeError,
            "config must be a MultiBoxConfig, got str; see MultiBoxConfig.preset",
        ),
        (
            lambda: ops.ssd_loss(LOC, CONF, LOC, torch.tensor([[0, 1, 156]], dtype=torch.uint8)),
            ValueError,
            r"conf_target must lie in \[0, 2\), got 156",
        ),
        (lambda: ops.multibox_loss(LOC, CONF[..., :0], GT, PRIORS), ValueError, "at least one class, got 0"),
        (lambda: ops.multibox_loss(LOC, CONF, [GT], PRIORS), TypeError, "gt must be a GroundTruth.*got list"),
        (
            lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS[:2]),
            ValueError,
            r"priors must have shape \[3, 4\]",
        ),
        (
            lambda: ops.multibox_loss(LOC.expand(2, 3, 4), CONF.expand(2, 3, 2), GT, PRIORS),
            ValueError,
            "gt must hold 2 images like conf, got 1",
        ),
        (
            lambda: ops.multibox_loss(LOC, CONF, BAD, PRIORS),
            ValueError,
            r"gt.labels of multibox_loss must give a class in \[0, 2\), got 2 as label 0",
        ),
        (
            lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS, codes=torch.zeros(1, 3)),
            TypeError,
            "codes must be int32, got float32",
        ),
        (
            lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS, codes=torch.zeros(2, 3, dtype=torch.int32)),
            ValueError,
            r"codes must have shape \[1, 3\], got \[2, 3\]",
        ),
        (
            lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS.clone().requires_grad_()),
            ValueError,
            "priors must not require a gradient",
        ),
        (
            lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS, variances=PRIORS[:1]),
            ValueError,
            r"variances must have shape \[3, 4\]",
        ),
        (
            lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS.to("meta")),
            ValueError,
            "must be on one device, got cpu, meta",
        ),
        (
            lambda: ops.ssd_loss(LOC, CONF, LOC, torch.tensor([[0, 1, 2]])),
            ValueError,
            r"conf_target must lie in \[0, 2\), got 2",
        ),
        (
            lambda: ops.ssd_loss(LOC, CONF, LOC, torch.zeros(1, 3)),
            TypeError,
            "conf_target must be int64.*got float32",
        ),
        (
            lambda: ssd_cuda.nn.SSDLoss(5)(LOC, CONF, LOC, torch.zeros(1, 3).long()),
            ValueError,
            "conf_pred must have num_classes = 5 columns, got 2",
        ),
        (lambda: ssd_cuda.nn.MultiBoxLoss("ssd"), ValueError, "preset must be one of.*got 'ssd'"),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()
