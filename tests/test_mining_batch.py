"""Mining over the whole batch: one k from all positives, the hardest rows wherever they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from multibox_cases import assert_same_loss, batch_of, gradients, targets_with_ignored

from ssd_cuda import MiningConfig, MultiBoxConfig, ops, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
RULES = [
    dict(),
    dict(ratio=0.0),
    dict(ratio=2.4, rounding="ceil"),
    dict(ratio=0.0, min_negatives=7),
    dict(ratio=1e9),
    dict(ratio=50.0, cap="all", positive_fill="zero"),
    dict(ratio=50.0, cap="all_but_one"),
]


def scene(batch, width, dtype=torch.float32, device="cpu", ties=False):
    """keys, positive, candidates: [B, P]."""
    keys = torch.randint(0, 5, (batch, width)).to(dtype) if ties else torch.randn(batch, width).to(dtype)
    positive = torch.rand(batch, width) < torch.rand(batch, 1) * 0.1
    return keys.to(device), positive.to(device), (torch.rand(batch, width) < 0.9).to(device)


def by_sorting(keys, positive, k):
    """The first k negatives of the batch, hardest first, image after image: by Python's stable sort."""
    flat = [(-key, i) for i, key in enumerate(keys.flatten().tolist()) if not positive.flatten()[i]]
    mask = torch.zeros(keys.numel(), dtype=torch.bool)
    mask[[i for _, i in sorted(flat)[:k]]] = True
    return mask.view_as(positive)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_reference(device, rule, dtype):
    for batch, width in ((3, 200), (1, 40), (5, 1), (2, 3000)):
        for ties in (False, True):
            keys, positive, candidates = scene(batch, width, dtype, device, ties)
            for among in (None, candidates):
                mine = ops.select_hard_negatives(keys, positive, candidates=among, scope="batch", **rule)
                expected = reference.mining.select_hard_negatives(
                    keys, positive, candidates=among, scope="batch", **rule
                )
                assert torch.equal(mine, expected)


@pytest.mark.parametrize("ties", [False, True])
def test_is_a_sort_of_the_batch(device, ties):
    keys, positive, _ = scene(4, 60, device=device, ties=ties)
    mine = ops.select_hard_negatives(keys, positive, 2.0, scope="batch")
    assert torch.equal(mine.cpu(), by_sorting(keys, positive, 2 * int(positive.sum())))


def test_by_hand(device):
    """One positive in the first image, the two hardest rows in the second, which has none; then a tie."""
    positive = torch.tensor([[True, False, False], [False, False, False]], device=device)
    keys = torch.tensor([[9.0, 1.0, 2.0], [5.0, 0.0, 4.0]], device=device)
    found = ops.select_hard_negatives(keys, positive, 2.0, scope="batch")
    assert found.tolist() == [[False] * 3, [True, False, True]]
    found = ops.select_hard_negatives(torch.ones_like(keys), positive, 3.0, scope="batch")
    assert found.tolist() == [[False, True, True], [True, False, False]]
    found = ops.select_hard_negatives(keys, positive, 2.0)
    assert found.tolist() == [[False, True, True], [False] * 3]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty(device, shape):
    keys = torch.zeros(shape, device=device)
    assert ops.select_hard_negatives(keys, keys > 0, scope="batch", min_negatives=3).shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_loss_is_the_reference(device, rule, dtype):
    for change in (
        dict(),
        dict(normalizer="per_image", layout="bcp"),
        dict(normalizer="selected", background="last"),
    ):
        config = MultiBoxConfig(mining=MiningConfig(scope="batch", **rule), **change)
        for options in (dict(width=80), dict(width=150, ties=True)):
            assert_same_loss(*batch_of(config, (4, 0, 2), dtype=dtype, device=device, **options), config)


def test_the_loss_with_quirks_and_weights_is_the_reference(device):
    mining = MiningConfig(
        scope="batch", cap="all", positive_fill="zero", ratio=50.0, count_positives_twice=True
    )
    for config in (
        MultiBoxConfig(mining=mining),
        MultiBoxConfig(mining=mining, ignored_key="zero", ignore_label=2, normalizer="selected"),
        MultiBoxConfig(mining=replace(mining, ratio=3.0, key="background"), label_smoothing=0.2),
    ):
        loc, conf, gt, priors = batch_of(config, (4, 0, 2, 1), device=device)
        conf[:, ::2, 0] = 200.0  # negatives among the zeros
        assert_same_loss(loc, conf, gt, priors, config)


def test_an_image_without_a_positive_gives_negatives(device):
    """All of the hard rows are in the second image, which has no truth: its rows alone have a gradient."""
    config = MultiBoxConfig(mining=MiningConfig(scope="batch"))
    loc, conf, gt, priors = batch_of(config, (2, 0), device=device)
    conf[1, :, 3] += 50.0
    conf.requires_grad_()
    losses = ops.multibox_loss(loc, conf, gt, priors, config)
    gradient = torch.autograd.grad(losses.classification, conf)[0].any(-1)
    positives = int(losses.num_positives)
    assert int(gradient[0].sum()) == positives and int(gradient[1].sum()) == min(3 * positives, 150)
    alone = ops.multibox_loss(loc, conf, gt, priors, MultiBoxConfig())
    assert not torch.autograd.grad(alone.classification, conf)[0][1].any()


def test_ready_targets_and_empty_batches(device):
    config = MultiBoxConfig(mining=MiningConfig(scope="batch"), ignore_label=-100)
    loc, conf, loc_target, target = targets_with_ignored(0.2, device=device)
    losses = ops.multibox_loss_on_targets(loc, conf, loc_target, target, config)
    keys = reference.multibox.cross_entropy(conf.detach(), target.clamp(min=0))
    positive, ignored = target > 0, target == -100
    negative = reference.mining.select_hard_negatives(
        keys, positive, candidates=~(positive | ignored), scope="batch"
    )
    expected = keys[positive | negative].sum() / positive.sum()
    torch.testing.assert_close(losses.classification.detach(), expected)
    for counts, width in (((), 9), ((0, 0), 9), ((0,), 0)):
        case = batch_of(config, counts, width=width, device=device)
        assert [x.item() for x in ops.multibox_loss(*case, config)] == [0, 0, 0]


def test_any_number_of_threads_gives_the_same_bits():
    config = MultiBoxConfig(mining=MiningConfig(scope="batch"))
    loc, conf, gt, priors = batch_of(config, (5, 0, 9), width=1500, classes=8)
    loc.requires_grad_(), conf.requires_grad_()
    threads, results = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        losses = ops.multibox_loss(loc, conf, gt, priors, config)
        results.append([*losses, *gradients(losses, loc, conf)])
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradcheck(device):
    config = MultiBoxConfig(mining=MiningConfig(scope="batch"))
    loc, conf, gt, priors = batch_of(config, (2, 1), width=6, classes=3, dtype=torch.float64, device=device)
    loc.requires_grad_(), conf.requires_grad_()
    codes = ops.match(gt, priors)
    assert torch.autograd.gradcheck(
        lambda x, y: ops.multibox_loss(x, y, gt, priors, config, codes=codes)[:2], (loc, conf)
    )


def test_another_scope_is_refused():
    with pytest.raises(ValueError, match="scope must be one of 'image', 'batch', got 'world'"):
        MiningConfig(scope="world")
