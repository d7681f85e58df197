"""multibox: what it allocates, gradients of megabytes, the same bits at every instruction set, rounding."""

from __future__ import annotations

import gc
import hashlib

import pytest
import torch
from multibox_cases import batch_of, gradients
from simd_levels import at_every_level

from ssd_cuda import MultiBoxConfig, ops


def allocations(call, device) -> list[int]:
    """Bytes of every allocation of a call on the CPU; on a card one number, their peak."""
    call()
    gc.collect()  # or garbage of others goes meanwhile
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kept = call()
        peak = torch.cuda.max_memory_allocated() - before
        del kept
        return [peak]
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    return [event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage > 0]


FORMS = ["matched", "matched bcp", "ready", "ready bcp"]


def loss_of(form, device, width=2000, classes=91):
    """A function that gives the losses, and loc and conf as they are in memory."""
    config = MultiBoxConfig(layout="bcp" if "bcp" in form else "bpc")
    loc, conf, gt, priors = batch_of(config, (3, 2), width=width, classes=classes, device=device)
    loc.requires_grad_(), conf.requires_grad_()
    if form.startswith("matched"):
        return lambda: ops.multibox_loss(loc, conf, gt, priors, config), loc, conf
    target = ops.match(gt, priors).clamp(min=-1, max=0).long() + 1
    loc_target = torch.randn_like(loc)
    return lambda: ops.multibox_loss_on_targets(loc, conf, loc_target, target, config), loc, conf


@pytest.mark.parametrize("form", FORMS)
def test_forward_makes_no_temporary_of_the_size_of_the_logits(device, form):
    loss, _, conf = loss_of(form, device)
    priors = conf.numel() // 91
    copied = 16 * priors if form == "ready bcp" else 0  # box targets are turned to rows once
    zeros = (
        4 * conf.numel() if device.type == "cuda" else 0
    )  # of the gradient, which no backward allocates then
    allocated = sum(allocations(loss, device)) - zeros
    assert 4 * priors <= allocated < 16 * priors + copied  # the logits are 364 B each


@pytest.mark.parametrize("form", FORMS)
def test_backward_allocates_the_gradients_and_little_else(device, form):
    loss, loc, conf = loss_of(form, device)
    losses = loss()
    total = losses.localization + losses.classification
    found = sorted(allocations(lambda: torch.autograd.grad(total, (loc, conf), retain_graph=True), device))
    priors = conf.numel() // 91
    wanted = (4 + 91) * 4 * priors
    assert wanted <= sum(found) <= wanted + 8 * priors
    if device.type == "cpu":
        assert found[-2:] == [4 * 4 * priors, 91 * 4 * priors]
        assert sum(found[:-2]) < priors


@pytest.mark.parametrize("width, classes", [(3000, 91), (8732, 91)])  # 4 MB an image, 12.7: all of them 38
def test_large_gradients_are_those_of_the_images(device, width, classes):
    """Cleared by streaming stores, or mapped: as image by image, and none shares memory with another."""
    images = 3 if width < 5000 else 12
    config = MultiBoxConfig(normalizer="per_image")
    loc, conf, gt, priors = batch_of(config, (3,) * images, width=width, classes=classes, device=device)
    loc.requires_grad_(), conf.requires_grad_()
    losses = ops.multibox_loss(loc, conf, gt, priors, config)
    first = gradients(losses, loc, conf)
    again = gradients(ops.multibox_loss(loc, conf, gt, priors, config), loc, conf)
    for b in range(images):
        own = ops.GroundTruth.from_list([gt.boxes[3 * b : 3 * b + 3]], [gt.labels[3 * b : 3 * b + 3]])
        x, y = (t[b : b + 1].detach().requires_grad_() for t in (loc, conf))
        alone = gradients(ops.multibox_loss(x, y, own, priors, config), x, y)
        for mine, theirs in zip(first, alone, strict=True):
            torch.testing.assert_close(mine[b : b + 1], theirs / images, rtol=1e-5, atol=1e-9)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in zip(first, again, strict=True))


def checksum() -> str:
    """A hash of losses and gradients at many C, dtypes and layouts."""
    torch.manual_seed(0)
    digest = hashlib.sha256()
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        for classes in (2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 21, 33, 81, 91):
            for layout in ("bpc", "bcp"):
                config = MultiBoxConfig(layout=layout)
                loc, conf, gt, priors = batch_of(config, (3, 1), width=77, classes=classes, dtype=dtype)
                loc.requires_grad_(), conf.requires_grad_()
                losses = ops.multibox_loss(loc, conf, gt, priors, config)
                for tensor in (*losses, *gradients(losses, loc, conf)):
                    digest.update(tensor.detach().double().contiguous().numpy().tobytes())
    return digest.hexdigest()


def test_same_bits_at_every_instruction_set():
    assert len(set(at_every_level(checksum))) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float_and_rounded_once(device, dtype):
    loc, conf, gt, priors = batch_of(MultiBoxConfig(), (3, 1), dtype=dtype, device=device)
    results = []
    for wide in (dtype, torch.float32):
        x, y = (t.to(wide).requires_grad_() for t in (loc, conf))
        losses = ops.multibox_loss(x, y, gt, priors)
        results.append([*losses, *(grad.to(dtype) for grad in gradients(losses, x, y))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
