"""Damaged checkpoints: every part is held against the model before anything uses it; one sentence each."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssd_cuda import cli
from ssd_cuda.engine.checkpoint import (
    CheckpointError,
    ModelSpec,
    load_checkpoint,
    save_checkpoint,
)
from ssd_cuda.engine.outputs import OutputError
from ssd_cuda.engine.train import TrainConfig, Trainer

ROOT = Path(__file__).parents[1]
SPEC = ModelSpec("ssd_small", ("cat", "dog"), (64, 64))
CONFIG = TrainConfig(epochs=2, batch_size=2, warmup_steps=0, workers=0)
WEIGHT = "heads.1.loc_conv.weight"
VARIANCE = "backbone.stages.0.0.1.running_var"
COUNT = "backbone.stages.0.0.1.num_batches_tracked"


@pytest.fixture(scope="module")
def whole():
    """What a run of one step of two holds, as it lies in the file."""
    from ssd_cuda.ops import GroundTruth

    torch.manual_seed(0)
    trainer = Trainer(SPEC.build(), CONFIG, 1)
    gt = GroundTruth.from_list([torch.tensor([[0.2, 0.2, 0.7, 0.8]])] * 2, [torch.tensor([1])] * 2)
    trainer.run_epoch([(torch.rand(2, 3, 64, 64), gt)])
    spec = {"name": "ssd_small", "classes": ["cat", "dog"], "image_size": [64, 64]}
    return {"format": "ssd_cuda checkpoint 1", "spec": spec, **trainer.state()}


def put(*path):
    """A damage: the last of ``path`` takes the place that the others lead to; a function changes it."""
    *way, last, value = path

    def damage(content):
        place = content
        for key in way:
            place = place[key]
        place[last] = value(place[last]) if callable(value) else value

    return damage


def drop(*way):
    *way, last = way

    def damage(content):
        place = content
        for key in way:
            place = place[key]
        del place[last]

    return damage


def with_value(value):
    """One number of a tensor is another."""

    def change(tensor):
        tensor = tensor.clone()
        tensor[(-1,) * tensor.dim()] = value
        return tensor

    return change


MOMENTS = ("optimizer", "state", 0)
GROUP = ("optimizer", "param_groups", 0)
DAMAGED = {
    "spec is text": put("spec", "ssd_small"),
    "spec lacks a part": drop("spec", "classes"),
    "spec has a part more": put("spec", "depth", 3),
    "name unknown": put("spec", "name", "yolo"),
    "name is a number": put("spec", "name", 3),
    "name of another model": put("spec", "name", "ssd300_vgg16"),
    "classes is text": put("spec", "classes", "cat"),
    "classes empty": put("spec", "classes", []),
    "classes twice": put("spec", "classes", ["cat", "cat"]),
    "classes of numbers": put("spec", "classes", [1, 2]),
    "class without a name": put("spec", "classes", ["cat", ""]),
    "one class more": put("spec", "classes", ["cat", "dog", "emu"]),
    "20,000 classes": put("spec", "classes", [str(i) for i in range(20_000)]),
    "size of one side": put("spec", "image_size", [64]),
    "size negative": put("spec", "image_size", [64, -64]),
    "size nothing": put("spec", "image_size", [0, 64]),
    "size of fractions": put("spec", "image_size", [64.0, 64.0]),
    "size true": put("spec", "image_size", [True, 64]),
    "size immense": put("spec", "image_size", [100_000, 100_000]),
    "size beyond 64 bits": put("spec", "image_size", [10**30, 1]),
    "model is a list": put("model", []),
    "model is none": put("model", None),
    "model empty": put("model", {}),
    "model lacks a weight": drop("model", WEIGHT),
    "model has a weight more": put("model", "extra", torch.zeros(1)),
    "weight is a number": put("model", WEIGHT, 1.0),
    "weight of one number": put("model", WEIGHT, torch.zeros(1)),
    "weight of another shape": put("model", WEIGHT, lambda t: t.transpose(0, 1)),
    "weight in half": put("model", WEIGHT, lambda t: t.half()),
    "weight in double": put("model", WEIGHT, lambda t: t.double()),
    "weight complex": put("model", WEIGHT, lambda t: t.to(torch.complex64)),
    "weight sparse": put("model", WEIGHT, lambda t: t.to_sparse()),
    "weight nan": put("model", WEIGHT, with_value(math.nan)),
    "weight infinite": put("model", WEIGHT, with_value(-math.inf)),
    "variance negative": put("model", VARIANCE, with_value(-1.0)),
    "batches negative": put("model", COUNT, lambda t: t - 9),
    "batches are floats": put("model", COUNT, lambda t: t.float()),
    "average lacks a weight": drop("average", WEIGHT),
    "average nan": put("average", WEIGHT, with_value(math.nan)),
    "average of another shape": put("average", WEIGHT, lambda t: t[:1]),
    "optimizer is a list": put("optimizer", []),
    "optimizer lacks its state": drop("optimizer", "state"),
    "optimizer without moments": put("optimizer", "state", {}),
    "optimizer lacks a weight": drop(*MOMENTS),
    "optimizer has a weight more": put("optimizer", "state", 999, {}),
    "optimizer numbers are texts": put("optimizer", "state", lambda s: {str(k): v for k, v in s.items()}),
    "moment of one number": put(*MOMENTS, "exp_avg", torch.zeros(1)),
    "second moment of one number": put(*MOMENTS, "exp_avg_sq", torch.zeros(1)),
    "moment of another shape": put(*MOMENTS, "exp_avg", lambda t: t[:1]),
    "moment in half": put(*MOMENTS, "exp_avg", lambda t: t.half()),
    "moment nan": put(*MOMENTS, "exp_avg", with_value(math.nan)),
    "second moment negative": put(*MOMENTS, "exp_avg_sq", with_value(-1.0)),
    "moment is text": put(*MOMENTS, "exp_avg", "zero"),
    "moment missing": drop(*MOMENTS, "exp_avg_sq"),
    "moment more": put(*MOMENTS, "max_exp_avg_sq", torch.zeros(1)),
    "steps of a weight differ": put(*MOMENTS, "step", torch.tensor(7.0)),
    "steps of a weight are a fraction": put(*MOMENTS, "step", torch.tensor(0.5)),
    "steps of a weight are below 0": put(*MOMENTS, "step", torch.tensor(-1.0)),
    "steps of a weight are many": put(*MOMENTS, "step", torch.ones(4)),
    "one group": drop(*GROUP),
    "group is text": put(*GROUP, "weights"),
    "group of other weights": put(*GROUP, "params", lambda p: p[::-1]),
    "group with amsgrad": put(*GROUP, "amsgrad", True),
    "group of another decay": put(*GROUP, "weight_decay", 0.5),
    "group with betas of text": put(*GROUP, "betas", ("a", "b")),
    "epoch negative": put("epoch", -1),
    "epoch is a fraction": put("epoch", 1.0),
    "epoch beyond the end": put("epoch", 3),
    "epoch true": put("epoch", True),
    "step negative": put("step", -1),
    "step is text": put("step", "1"),
    "step immense": put("step", 10**40),
    "steps an epoch are none": put("steps_per_epoch", 0),
    "steps an epoch are fewer": put("step", 3),
    "step without history": put("history", []),
    "history is text": put("history", "x"),
    "history of single numbers": put("history", [1.0]),
    "step without rate": put("rates", []),
    "rates are text": put("rates", "x"),
    "rate nan": put("rates", [math.nan]),
    "rate below 0": put("rates", [-1.0]),
    "history nan": put("history", [[math.nan, 1.0]]),
    "history of text": put("history", [["a", "b"]]),
    "config is a list": put("config", []),
    "config unknown key": put("config", "mixup", 1),
    "config epochs nothing": put("config", "epochs", 0),
    "config epochs are a fraction": put("config", "epochs", 2.5),
    "config lr nan": put("config", "lr", math.nan),
    "config lr infinite": put("config", "lr", math.inf),
    "config augment unknown": put("config", "augment", "mosaic"),
    "config seed immense": put("config", "seed", 10**40),
    "config batch is text": put("config", "batch_size", "8"),
}


def damaged(whole, name, path):
    content = copy.deepcopy(whole)
    DAMAGED[name](content)
    torch.save(content, path)
    return path


def test_the_whole_one_is_taken(whole, tmp_path):
    torch.save(whole, tmp_path / "x.pt")
    spec, state = load_checkpoint(tmp_path / "x.pt")
    assert spec == SPEC and state["epoch"] == 1 and len(DAMAGED) >= 60


def test_a_file_of_an_older_version_is_taken(whole, tmp_path):
    content = copy.deepcopy(whole)
    del content["steps_per_epoch"], content["config"]["min_negatives"]
    torch.save(content, tmp_path / "x.pt")
    spec, state = load_checkpoint(tmp_path / "x.pt")
    trainer = Trainer(spec.build(), CONFIG, 1)
    trainer.load_state(state)
    assert trainer.epoch == 1 and trainer.state()["steps_per_epoch"] == 1


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="checkpoint must be a file, got the pipe or device"):
        load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_one_sentence(whole, tmp_path, name):
    path = damaged(whole, name, tmp_path / "x.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message and "got" in message and "\n" not in message and len(message) < 400


@pytest.mark.parametrize("name", ["moment of one number", "average nan"])
def test_every_command_refuses_it(whole, tmp_path, capsys, name):
    path = damaged(whole, name, tmp_path / "x.pt")
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    run = ["--device", "cpu", "--workers", "0"]
    for command in (
        ["detect", str(image), "-c", str(path), "-o", str(tmp_path / "out"), *run],
        ["eval", str(path), *run],
        ["train", "--resume", str(path), "--out", str(tmp_path / "run"), "--size", "64", "64", *run],
    ):
        assert cli.main(command) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("ssd-cuda: error:") and str(path) in lines[0]


def test_the_state_of_a_trainer_is_checked_too(whole):
    content = copy.deepcopy(whole)
    DAMAGED["moment of one number"](content)
    trainer = Trainer(SPEC.build(), CONFIG, 1)
    with pytest.raises(CheckpointError, match=r"state must have torch\.float32 of shape"):
        trainer.load_state(content)
    assert trainer.step == 0


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_moments_of_the_right_shape_and_another_memory_are_copied(whole, tmp_path, moment):
    """One number may stand behind all of an expanded tensor, and a contiguous one has another order."""
    content = copy.deepcopy(whole)
    for entry in content["optimizer"]["state"].values():
        entry[moment] = torch.full((1,), 0.5).expand(entry[moment].shape)
    torch.save(content, tmp_path / "x.pt")
    trainer = Trainer(SPEC.build(), CONFIG, 1)
    trainer.load_state(load_checkpoint(tmp_path / "x.pt")[1])
    for parameter, entry in trainer.optimizer.state.items():
        assert entry[moment].stride() == parameter.stride()
        assert entry[moment].untyped_storage().nbytes() >= 4 * parameter.numel()
        assert (entry[moment] == 0.5).all()


# Saving


FULL = """
import resource, sys
from pathlib import Path
from ssd_cuda.engine.checkpoint import ModelSpec, save_checkpoint
from ssd_cuda.engine.outputs import OutputError
import torch
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(sys.argv[1], ModelSpec("ssd_small", ("cat",), (64, 64)), {"model": torch.zeros(10**6)})
except OutputError as error:
    print(error)
"""


def test_no_room_leaves_the_old_file_and_no_partial_one(tmp_path):
    """The limit on the size of a file stands for a full disk: the write fails half way."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{path} cannot be written: File too large\n" and not done.stderr
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["checkpoint.pt"]


def test_an_interrupt_while_saving_leaves_no_partial_file(tmp_path, monkeypatch):
    def interrupted(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "x.pt", SPEC, {})
    assert not os.listdir(tmp_path)


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "x.pt").mkdir()
    with pytest.raises(OutputError, match=r"x\.pt cannot be written: it is a folder"):
        save_checkpoint(tmp_path / "x.pt", SPEC, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"y\.pt cannot be written: "):
        save_checkpoint(tmp_path / "file" / "y.pt", SPEC, {})
