"""Half precision, orders of memory, compiled networks: the same run up to rounding, and resumed to the
bit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_model import tiny
from torch import nn

from ssd_cuda.engine import train as train_module
from ssd_cuda.engine.checkpoint import CheckpointError, ModelSpec, load_checkpoint, save_checkpoint
from ssd_cuda.engine.optimizer import make_optimizer
from ssd_cuda.engine.step import Speed, TrainStep
from ssd_cuda.engine.train import TrainConfig, Trainer
from ssd_cuda.models import MODELS
from ssd_cuda.ops import GroundTruth

CONFIG = TrainConfig(epochs=2, batch_size=4, warmup_steps=0, workers=0, optimizer="sgd", lr=1e-2)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", (tiny, None))


def spec():
    return ModelSpec("tiny", ("cat", "dog"), (64, 64))


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    boxes = [torch.tensor([[0.1 * i, 0.2, 0.5 + 0.1 * i, 0.8]]) for i in range(4)]
    labels = [torch.tensor([1 + i % 2]) for i in range(4)]
    return torch.rand(4, 3, 64, 64, generator=generator), GroundTruth.from_list(boxes, labels)


def run(config, steps=6, speed=None, device="cpu"):
    torch.manual_seed(0)
    trainer = Trainer(tiny(3).to(device), config, steps, speed=speed)
    if trainer.trained.scaler.is_enabled():  # so that no step is skipped, which is another test's
        trainer.trained.scaler.load_state_dict({**trainer.trained.scaler.state_dict(), "scale": 64.0})
    trainer.run_epoch([batch(i % 2) for i in range(steps)])
    return trainer


@pytest.fixture(scope="module")
def exact():
    return torch.tensor(run(CONFIG).history).sum(1)


def test_a_pass_does_not_go_on_for_hours_with_a_loss_that_is_none(monkeypatch):
    monkeypatch.setattr(train_module, "_LOOK", 5)
    images, gt = batch()
    broken = [(images, gt)] * 3 + [(images * math.nan, gt)] * 20
    seen = []
    trainer = Trainer(tiny(3), CONFIG, len(broken))
    with pytest.raises(FloatingPointError, match=r"must stay finite, got \[.*nan.*\] at step 3 \(epoch 1\)"):
        trainer.run_epoch(seen.append(1) or parts for parts in broken)
    assert len(seen) == 5


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_learns_alike(exact, amp, device):
    """Weights and loss stay in float32: the curve follows that of float32 by a few roundings of 8 bits."""
    trainer = run(replace(CONFIG, amp=amp), device=device)
    found = torch.tensor(trainer.history).sum(1)
    assert found[-1] < 0.95 * found[0] and not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.01, atol=0.0)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_the_loss_is_of_float32_and_the_convolutions_are_not(monkeypatch):
    step = TrainStep(tiny(3), replace(CONFIG, amp="bf16"))
    seen = []
    real = step.model.loss_of

    def loss_of(loc, conf, gt):
        losses = real(loc, conf, gt)
        seen.append((loc.dtype, conf.dtype, losses.localization.dtype, losses.classification.dtype))
        return losses

    monkeypatch.setattr(step.model, "loss_of", loss_of)
    step([batch()])
    assert seen == [(torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)]


def test_a_step_that_is_too_large_for_fp16_is_skipped_and_leaves_nothing(device):
    """Of torch's fused SGD the first such step would leave momentum as the memory was."""
    step = TrainStep(tiny(3).to(device), replace(CONFIG, amp="fp16"))
    before = {name: value.clone() for name, value in step.model.named_parameters()}
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 1e38})
    step([batch()])
    assert all(torch.equal(value, before[name]) for name, value in step.model.named_parameters())
    for entry in step.optimizer.state.values():
        assert torch.equal(entry["momentum_buffer"], torch.zeros_like(entry["momentum_buffer"]))
    assert step.scaler.get_scale() == pytest.approx(5e37)
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 8.0})
    step([batch()])
    assert any(not torch.equal(value, before[name]) for name, value in step.model.named_parameters())


@pytest.mark.parametrize(
    "changes", [{"amp": "fp16"}, {"amp": "fp16", "optimizer": "adamw"}, {"momentum": 0.0}, {}]
)
def test_a_run_goes_on_to_the_same_bits(tmp_path, changes):
    config = replace(CONFIG, **changes)
    steps = [batch(i) for i in range(3)]
    whole = run(config, 3)
    whole.run_epoch(steps)
    half = run(config, 3)
    save_checkpoint(tmp_path / "x.pt", spec(), half.state())
    resumed = Trainer(tiny(3), config, 3)
    resumed.load_state(load_checkpoint(tmp_path / "x.pt")[1])
    resumed.run_epoch(steps)
    assert resumed.history == whole.history
    assert all(torch.equal(v, whole.model.state_dict()[k]) for k, v in resumed.model.state_dict().items())
    assert resumed.trained.scaler.state_dict() == whole.trained.scaler.state_dict()


def test_a_run_that_left_fp16_goes_on_from_its_own_checkpoint(tmp_path):
    """Steps that GradScaler skipped are missing from the optimizer's count for ever."""
    halved = Trainer(tiny(3), replace(CONFIG, amp="fp16", optimizer="adamw"), 3)
    halved.trained.scaler.load_state_dict({**halved.trained.scaler.state_dict(), "scale": 2.0**60})
    halved.run_epoch([batch(i) for i in range(3)])
    exact = Trainer(tiny(3), replace(halved.config, amp="none"), 3)
    exact.load_state(halved.state())
    exact.run_epoch([batch(i) for i in range(3)])
    save_checkpoint(tmp_path / "x.pt", spec(), exact.state())
    moments = load_checkpoint(tmp_path / "x.pt")[1]["optimizer"]["state"]
    assert exact.step == 6 and {entry["step"].item() for entry in moments.values()} == {3.0}


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ({"scaler": {"scale": 1.0}}, "the parts of a GradScaler"),
        ({"scaler": "x"}, "the scale of a run in fp16"),
        ({"scaler": {"scale": math.nan}}, "the parts of a GradScaler"),
        ({"optimizer": "drop"}, "in 'optimizer' of weight 0, got "),
        ({"scores": [{"epoch": 1}]}, "in 'scores', got "),
        ({"scores": "x"}, "a list of evaluations in 'scores', got str"),
    ],
)
def test_a_damaged_part_of_such_a_run_is_one_sentence(tmp_path, damage, finding):
    state = run(replace(CONFIG, amp="fp16"), 1).state()
    if damage == {"optimizer": "drop"}:
        state["optimizer"]["state"][0] = {}
    elif isinstance(damage.get("scaler"), dict):
        state["scaler"] = {**state["scaler"], **damage["scaler"], "_growth_tracker": -1}
    else:
        state |= damage
    save_checkpoint(tmp_path / "x.pt", spec(), state)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "x.pt")
    assert finding in str(caught.value) and "\n" not in str(caught.value)


def test_the_order_of_memory_changes_no_number(exact, device):
    trainer = run(CONFIG, speed=Speed(channels_last=True), device=device)
    weight = trainer.model.heads[0].loc_conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(torch.tensor(trainer.history).sum(1), exact, rtol=1e-3, atol=1e-4)


def test_the_network_is_compiled_and_its_checkpoint_is_not(monkeypatch):
    modes = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: modes.append((type(self).__name__, options))
    )
    trainer = run(CONFIG, 1, speed=Speed(compile="reduce-overhead"))
    assert modes == [("SSD", {"mode": "reduce-overhead"})]
    assert trainer.state()["model"].keys() == tiny(3).state_dict().keys()


@pytest.mark.parametrize("compile", ["default", "reduce-overhead"])
def test_a_compiled_network_learns_alike(exact, device, compile):
    """Compiled in earnest where there is a card; a CPU would take half a minute for it."""
    if device.type == "cpu":
        pytest.skip("compiles in earnest on a card")
    found = torch.tensor(run(CONFIG, speed=Speed(compile=compile), device=device).history).sum(1)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)


def test_both_optimizers_have_a_place_for_each_weight():
    model = tiny(3)
    for config in (CONFIG, replace(CONFIG, optimizer="adamw")):
        groups = make_optimizer(model, config).param_groups
        assert sum(len(group["params"]) for group in groups) == sum(1 for _ in model.parameters())
