"""Matching and the loss in one op: the bits of one after the other, and what the op demands."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from multibox_cases import OTHER_KERNELS, batch_of, gradients, with_zeros
from test_multibox import CHANGES, DTYPES, PRESETS
from test_multibox_zeros import Watch

from ssd_cuda import MultiBoxConfig, ops
from ssd_cuda.ops.matching import op_options as match_options

CONFIG = MultiBoxConfig()


def both(loc, conf, gt, priors, config):
    """Losses and gradients by the one op and by the two."""
    loc.requires_grad_(), conf.requires_grad_()
    codes = ops.match(gt, priors, config=config.match)
    with Watch() as watch:
        results = [
            (losses, gradients(losses, loc, conf))
            for losses in (
                ops.multibox_loss(loc, conf, gt, priors, config),
                ops.multibox_loss(loc, conf, gt, priors, config, codes=codes),
            )
        ]
    assert [name for name, *_ in watch.seen if "backward" not in name] == ["match_loss", "loss"]
    assert torch.equal(watch.seen[0][2][-1], codes)
    return results


def assert_same(first, second):
    for mine, theirs in zip((*first[0], *first[1]), (*second[0], *second[1]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(device, preset):
    config = MultiBoxConfig.preset(preset)
    assert_same(*both(*batch_of(config, (3, 0, 5), width=300, classes=7, device=device), config))
    assert_same(*both(*batch_of(config, (), width=9, device=device), config))


@pytest.mark.parametrize("change", [*CHANGES, *OTHER_KERNELS], ids=lambda change: ", ".join(change))
def test_options(device, change):
    config = MultiBoxConfig(**change)
    loc, conf, gt, priors = batch_of(config, (4, 0, 2, 1), classes=7, device=device)
    assert_same(*both(loc, conf, gt, priors, config))
    own = priors[None] + 0.05 * torch.rand(4, 1, 1, device=device)
    assert_same(*both(loc.detach(), conf.detach(), gt, own, config))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 21, 81])
def test_dtypes(device, dtype, classes):
    loc, conf, gt, priors = batch_of(CONFIG, (3, 2), width=1200, classes=classes, dtype=dtype, device=device)
    if dtype == torch.float64:  # what the boxes are in is what is matched in
        gt = dataclasses.replace(gt, boxes=gt.boxes.double())
    assert_same(*both(loc, conf, gt, priors, CONFIG))


def test_no_priors(device):
    assert_same(*both(*batch_of(CONFIG, (2, 1), width=0, device=device), CONFIG))


def test_boxes_of_another_precision_are_matched_in_it(device):
    loc, conf, gt, priors = batch_of(CONFIG, (3, 2), width=60, device=device)
    gt = dataclasses.replace(gt, boxes=gt.boxes.double())
    with Watch() as watch:
        found = ops.multibox_loss(loc, conf, gt, priors)
    assert [name for name, *_ in watch.seen] == ["loss"]
    expected = ops.multibox_loss(loc, conf, gt, priors, codes=ops.match(gt, priors))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("layout", ["bpc", "bcp", "padded"])
def test_logits_that_the_kernel_before_has_just_written(device, layout):
    """The keys may begin while codes are matched, but not before what comes before the matching has ended."""
    config = MultiBoxConfig(layout="bcp" if layout == "bcp" else "bpc")
    loc, conf, gt, priors = batch_of(config, (7, 3, 9, 5), width=8732, classes=21, device=device)
    if layout == "padded":  # rows that lie apart
        conf = torch.cat([conf, conf[..., :3]], 2)[..., :21]
    sources = [torch.randn_like(conf) * (1 + i) for i in range(6)]
    codes = ops.match(gt, priors)
    expected = [
        ops.multibox_loss(loc, source, gt, priors, config, codes=codes).classification for source in sources
    ]
    conf.requires_grad_()
    found = []
    for _ in range(3):
        for source in sources:
            with torch.no_grad():
                conf.copy_(source)
            found.append(with_zeros(lambda: ops.multibox_loss(loc, conf, gt, priors, config)).classification)
    assert torch.equal(torch.stack(found).detach(), torch.stack(expected * 3))


def test_vmap_over_predictions():
    """Matched once, as the boxes are one batch's."""
    loc, conf, gt, priors = batch_of(CONFIG, (2, 1), width=30)
    locs, confs = torch.stack([loc, 2 * loc]), torch.stack([conf, 2 * conf])
    found = torch.vmap(lambda x, y: ops.multibox_loss(x, y, gt, priors).classification)(locs, confs)
    expected = [ops.multibox_loss(x, y, gt, priors).classification for x, y in zip(locs, confs, strict=True)]
    assert torch.equal(found, torch.stack(expected))


def test_a_warning_does_not_compile_anew(monkeypatch):
    loc, conf, gt, priors = batch_of(CONFIG, (2, 1), width=30)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    step = torch.compile(lambda x, y: ops.multibox_loss(x, y, gt, priors).classification, backend=backend)
    step(loc, conf)
    monkeypatch.setattr(ops.matching, "_warned_of_units", not ops.matching._warned_of_units)
    step(loc, conf)
    assert len(graphs) == 1


def test_more_priors_than_codes_have_numbers_for():
    loc, conf, gt, priors = batch_of(CONFIG, (2, 1), width=2)
    many = priors[:1].expand(2**31, 4)
    loc, conf = loc[:, :1].expand(2, 2**31, 4), conf[:, :1].expand(2, 2**31, 6)
    with pytest.raises(ValueError, match="priors must have at most"):
        ops.multibox_loss(loc, conf, gt, many)


@pytest.mark.parametrize("form", ["eager", "compiled", "subclass"])
def test_the_derivative_is_that_of_the_op(form):
    """In eager mode by a function of its own; else by what torch has registered."""
    loc, conf, gt, priors = batch_of(CONFIG, (3, 2), width=60)
    x, y = loc.requires_grad_(), conf.requires_grad_()
    expected = gradients(ops.multibox_loss(x, y, gt, priors), x, y)

    def call(a, b):
        return ops.multibox_loss(a, b, gt, priors)

    if form == "compiled":
        call = torch.compile(call, backend="aot_eager")
    if form == "subclass":

        class Other(torch.Tensor):
            pass

        x, y = (t.detach().as_subclass(Other).requires_grad_() for t in (x, y))
    losses = call(x, y)
    own = type(losses.classification.grad_fn).__name__ == "Eager_multibox_match_lossBackward"
    assert own == (form == "eager")
    for mine, theirs in zip(gradients(losses, x, y), expected, strict=True):
        assert torch.equal(torch.Tensor(mine), theirs)


def arguments(device, **changes):
    loc, conf, gt, priors = batch_of(CONFIG, (2, 1), width=30, device=device)
    tensors = {
        "loc": loc,
        "conf": conf,
        "boxes": gt.boxes,
        "labels": gt.labels,
        "offsets": gt.offsets,
        "priors": priors,
        "variances": None,
        "class_weights": None,
    }
    options = {**match_options(CONFIG.match), **ops.multibox.op_options(CONFIG), "with_zeros": False}
    return (*(tensors | changes).values(),), options


def test_opcheck(device):
    (loc, conf, *rest), options = arguments(device)
    inputs = (loc.requires_grad_(), conf.requires_grad_(), *rest)
    torch.library.opcheck(torch.ops.ssd_cuda.multibox_match_loss.default, inputs, options)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("conf", torch.zeros(2, 30), "conf must"),
        ("loc", torch.zeros(2, 30, 3), "loc must"),
        ("boxes", torch.zeros(3, 4, dtype=torch.float64), "boxes must"),
        ("boxes", torch.zeros(3, 5), "boxes must"),
        ("labels", torch.zeros(2, dtype=torch.int64), "labels must"),
        ("offsets", torch.zeros(4, dtype=torch.int32), "offsets must"),
        ("offsets", torch.zeros(3, dtype=torch.int64), "offsets must"),
        ("priors", torch.zeros(29, 4), "priors must"),
        ("variances", torch.zeros(29, 4), "variances must"),
        ("class_weights", torch.ones(5), "class_weights must"),
    ],
)
def test_the_op_names_what_is_wrong(device, name, value, message):
    inputs, options = arguments(device, **{name: value.to(device)})
    with pytest.raises(RuntimeError, match=f"^{message}"):
        torch.ops.ssd_cuda.multibox_match_loss(*inputs, **options)


def test_offsets_are_looked_at():
    loc, conf, gt, priors = batch_of(CONFIG, (2, 1), width=30)
    gt.offsets[1] = 5
    with pytest.raises(ValueError, match="offsets must not descend"):
        ops.multibox_loss(loc, conf, gt, priors)
