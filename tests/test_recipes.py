"""The recipes: each held against the numbers that its source published, and the rate of every step that
follows."""

from __future__ import annotations

import ast
import json
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch

from ssd_cuda import cli, recipes
from ssd_cuda.cli import train_options
from ssd_cuda.cli.options import UsageError
from ssd_cuda.cli.train import _check_batch
from ssd_cuda.engine.checkpoint import ModelSpec
from ssd_cuda.engine.processes import Processes
from ssd_cuda.engine.recipe import TrainConfig, learning_rate, total_steps

COCO_IMAGES, VOC_IMAGES = 117_266, 16_551  # of train2017 with objects, of VOC07+12 trainval


def chosen(*arguments):
    parser = ArgumentParser()
    train_options.add_arguments(parser)
    return train_options.choose(parser.parse_args([str(argument) for argument in arguments]))


def rates(config, images, *steps):
    each = images // config.batch_size
    return [learning_rate(step, total_steps(config, each), config, each) for step in steps]


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_recipe_is_data_that_the_trainer_takes(name):
    for part in recipes.recipe(name):
        assert set(part) == {"model", "size", "train"}
        config = TrainConfig(**{**part["train"], "freeze": 0})
        json.dumps(part)
        assert config.lr > 0


def test_recipes_are_data_alone():
    """They import each other and typing, and call nothing but dict."""
    for path in Path(recipes.__path__[0]).glob("[!_]*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or node.module == "typing", path
            assert not isinstance(node, (ast.Import, ast.FunctionDef, ast.Lambda)), path
            assert not isinstance(node, ast.Call) or ast.unparse(node.func) == "dict", path


def test_nothing_given_is_the_small_recipe():
    assert chosen() == ("ssd_small", (240, 320), TrainConfig(augment="flip"))


@pytest.mark.parametrize(("name", "side"), [("paper300", 300), ("paper512", 512)])
def test_the_papers(name, side):
    """ssd_pascal.py: base_lr .00004 * 25, multistep 80000, 100000 of 120000, 32 images, biases twice."""
    model, size, config = chosen("--recipe", name)
    assert model == f"ssd{side}_vgg16" and size == (side, side)
    assert (config.optimizer, config.momentum, config.weight_decay) == ("sgd", 0.9, 0.0005)
    assert (config.batch_size, config.bias_lr, config.decay_all, config.augment) == (32, 2.0, False, "caffe")
    assert config.clip_norm is None and config.average_decay == 0 and total_steps(config, 517) == 120_000
    found = rates(config, VOC_IMAGES, 0, 79_999, 80_000, 99_999, 100_000, 119_999)
    assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_torchvisions_ssd300():
    """8 cards of 4; 120 epochs, a tenth from epoch 80 and 110; LinearLR from 1/1000 over 1,000 steps."""
    model, size, config = chosen("--recipe", "torchvision_ssd300")
    assert (model, size, config.epochs, config.batch_size) == (
        "ssd300_vgg16_torchvision", (300, 300), 120, 32,
    )  # fmt: skip
    assert (config.momentum, config.weight_decay, config.decay_all) == (0.9, 0.0005, True)
    assert config.augment == "ssd"  # references/detection --data-augmentation ssd: one interpolation
    each = COCO_IMAGES // 32
    steps = [0, 100, 999, 1000, 80 * each - 1, 80 * each, 110 * each]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.002)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 1000, total_iters=1000)
    expected = []
    for step in range(1001):
        if step in steps:
            expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warm.step()
    assert rates(config, COCO_IMAGES, *steps) == pytest.approx([*expected, 0.002, 0.0002, 0.00002])


def test_torchvisions_ssdlite():
    model, size, config = chosen("--recipe", "torchvision_ssdlite")
    assert (model, size) == ("ssdlite320_mobilenet_v3", (320, 320))
    assert (config.epochs, config.batch_size, config.lr) == (660, 8 * 24, 0.15)
    assert (config.weight_decay, config.decay_all, config.schedule) == (0.00004, True, "cosine")
    each = COCO_IMAGES // 192
    halves, end = rates(config, COCO_IMAGES, 330 * each, 660 * each - 1)
    assert halves == pytest.approx(0.075) and end < 1e-6


def test_nvidia():
    """main.py: 2.6e-3, .9, 5e-4, 65 epochs, multistep 43 54, --amp; its scripts: --warmup 300 from 0."""
    model, size, config = chosen("--recipe", "nvidia")
    assert (model, size) == ("ssd300_resnet50", (300, 300))
    assert (config.epochs, config.batch_size, config.momentum, config.weight_decay) == (65, 32, 0.9, 5e-4)
    assert (config.amp, config.augment, config.decay_all) == ("fp16", "nvidia", False)
    each = COCO_IMAGES // 32
    found = rates(config, COCO_IMAGES, 0, 150, 300, 43 * each - 1, 43 * each, 54 * each)
    assert found == pytest.approx([0, 1.3e-3, 2.6e-3, 2.6e-3, 2.6e-4, 2.6e-5])


def test_dssd():
    """SSD321; its deconvolutions alone; all but the norms at 1e-4."""
    parts = [chosen("--recipe", "dssd", "--stage", number) for number in (1, 2, 3)]
    assert [part.model for part in parts] == ["ssd321", "dssd321", "dssd321"]
    configs = [part.config for part in parts]
    assert [config.freeze for config in configs] == [0, 6, 0]  # ResNet's five and the extra maps
    assert [config.steps for config in configs] == [80_000, 30_000, 40_000]
    assert rates(configs[0], VOC_IMAGES, 39_999, 40_000, 60_000) == pytest.approx([1e-3, 1e-4, 1e-5])
    assert rates(configs[1], VOC_IMAGES, 19_999, 20_000) == pytest.approx([1e-3, 1e-4])
    assert rates(configs[2], VOC_IMAGES, 0, 39_999) == pytest.approx([1e-4, 1e-4])
    assert [config.freeze_norms for config in configs] == [False, False, True]
    assert {config.augment for config in configs} == {"caffe"}


def test_the_command_line_has_the_last_word():
    config = chosen("--recipe", "paper300", "--lr", 0.01, "--batch-size", 8, "--seed", 3)[2]
    assert (config.lr, config.batch_size, config.seed, config.steps) == (0.01, 8, 3, 120_000)
    shorter = chosen("--recipe", "paper300", "--steps", 1200)[2]
    assert (shorter.steps, shorter.milestones) == (1200, (800, 1000))
    epochs = chosen("--recipe", "paper300", "--epochs", 12)[2]
    assert (epochs.steps, epochs.epochs, epochs.milestones) == (None, 12, (8, 10))
    smooth = chosen("--recipe", "nvidia", "--schedule", "cosine", "--clip-norm", "1.5")[2]
    assert (smooth.schedule, smooth.milestones, smooth.clip_norm) == ("cosine", (), 1.5)
    mine = chosen("--milestones", 2, 3, "--freeze", "backbone")[2]
    assert (mine.schedule, mine.milestones, mine.freeze) == ("steps", (2, 3), 6)
    assert chosen("--model", "ssd300_vgg16", "--freeze", "backbone")[1:2] == ((300, 300),)


def test_a_file_is_a_recipe_too(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"model": "ssd_small", "train": {"lr": 0.5, "epochs": 2}}))
    model, size, config = chosen("--recipe", path)
    assert (model, size, config.lr, config.epochs) == ("ssd_small", None, 0.5, 2)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("{", "does not parse: Expecting property name"),
        ("[" * 100_000, "does not parse: maximum recursion depth"),
        (
            '{"model": "ssd_small", "size": [64, 64, 3], "train": {}}',
            "must have [height, width] as size, got",
        ),
        ('{"model": "ssd_small", "size": "ab", "train": {}}', "must have [height, width] as size, got ab"),
        ('{"model": "ssd_small", "train": {"epochs": "x"}}', "epochs must be an integer, got 'x'"),
        (
            '{"model": "ssd_small", "train": {"milestones": "x"}}',
            "milestones must be a list of counts, got 'x'",
        ),
        ("[]", "must hold a recipe, or a list of them under 'stages'"),
        ('{"model": "ssd_small"}', "must have model, size, train in every part, got"),
        (
            '{"model": "ssd_small", "train": {"learning_rate": 1}}',
            "mine.json must have the fields of TrainConfig, epochs, steps, batch_size, ",
        ),
        ('{"model": "ssd_small", "train": {"mixup": 1}}', ", class_weights, got 'mixup'"),
        ('{"model": "ssd_small", "train": {"warmup": 1}}', "got 'warmup' (meant as 'warmup_"),
        ('{"model": "ssd_small", "train": {"lr": 0}}', "lr must lie in"),
        ('{"model": "ssd_small", "train": {"lr": "x"}}', "lr must be a number, got str"),
        ('{"model": "yolo", "train": {}}', "--model must be one of"),
    ],
)
def test_a_recipe_that_is_none_is_one_sentence(capsys, tmp_path, content, finding):
    path = tmp_path / "mine.json"
    path.write_text(content)
    arguments = ["train", "--recipe", str(path), "--device", "cpu", "--out", str(tmp_path), "--epochs", "3"]
    assert cli.main(arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and finding in lines[0]


def test_one_image_is_enough_where_the_norms_are_as_they_are():
    spec, one = ModelSpec("ssd_small", ("cell",), (64, 64)), Processes()
    _check_batch(TrainConfig(batch_size=1, freeze_norms=True), spec, 8, one)
    _check_batch(TrainConfig(batch_size=2), spec, 8, one)
    with pytest.raises(UsageError, match=r"at least 4 for 2 processes where .* got 2 and 8 images; or raise"):
        _check_batch(TrainConfig(batch_size=2), spec, 8, Processes(1, 2))


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (
            ["--recipe", "yolo"],
            "--recipe must be one of dssd, nvidia, paper300, paper512, small, torchvision_ssd300",
        ),
        (["--stage", "2"], "--stage must lie in [1, 1] for small, got 2"),
        (["--freeze", "some"], "--freeze must be 'backbone' or a number of its stages, got 'some'"),
        (
            ["--freeze", "-1"],
            "--freeze must be 'backbone' or a number from 0 to 6, the stages of ssd_small, got -1",
        ),
        (
            ["--freeze", "99"],
            "--freeze must be 'backbone' or a number from 0 to 6, the stages of ssd_small, got 99",
        ),
        (["--weights", "x.pt", "--resume", "y.pt"], "--weights starts a run and --resume goes on with one"),
        (["--weights", "/no/such.pt"], "weights file /no/such.pt does not exist"),
        (["--extend"], "--extend is for --resume, got none"),
        (["--patience", "2"], "--patience counts the evaluations of --eval-every, got none"),
        (["--eval-every", "0"], "--eval-every must be at least 1, got 0"),
        (["--accumulate", "3"], "batch_size must be a multiple of 3 for 1 process of 3 parts each, got 8"),
        (["--sync-batchnorm"], "sync_batchnorm needs CUDA, got cpu"),
        (["--timeout", "0"], "timeout must lie in"),
        (
            ["--size", "64", "64", "--batch-size", "2", "--accumulate", "2"],
            "--batch-size must be at least 4 for --accumulate 2 where --size 64 64 leaves the last map one",
        ),
        (
            ["--recipe", "torchvision_ssdlite", "--batch-size", "1"],
            "--batch-size must be at least 2 where --size 320 320 leaves the last map one cell, got 1 and 8",
        ),
        (["--epochs", "3", "--steps", "9"], "--epochs and --steps both say how long a run is, got 3 and 9"),
        (["--no-eval", "--test-split", "a"], "--test-split is of an evaluation, got --no-eval and no --eval"),
        (
            ["--milestones", "3", "--schedule", "cosine"],
            "--milestones and --schedule both say what becomes of",
        ),
        (["--clip-norm", "0"], "clip_norm must lie in "),
        (["--no-eval", "--voc07"], "--voc07 is of an evaluation, got --no-eval and no --eval-every"),
        (
            ["--freeze", "backbone", "--backbone-lr", ".1"],
            "--backbone-lr is for stages that are trained, all of ssd_small's are frozen",
        ),
    ],
)
def test_options_that_cannot_be_are_one_sentence(capsys, tmp_path, monkeypatch, arguments, finding):
    from ssd_cuda import data

    real = data.open_dataset
    monkeypatch.setattr(
        data, "open_dataset", lambda p, split, **o: real(p, split, length=8, size=(64, 96), **o)
    )
    line = ["train", "--device", "cpu", "--workers", "0", "--out", str(tmp_path), *arguments]
    assert cli.main(line) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and finding in lines[0]
