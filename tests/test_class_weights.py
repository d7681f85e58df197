"""Class weights and label smoothing in training: command line, recipe, what a run does and carries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_cli import SMALL, run
from test_engine import CONFIG, SIZE, loader
from torch.nn import functional as F

from ssd_cuda import data, ops, reference
from ssd_cuda.engine.checkpoint import CheckpointError, ModelSpec, load_checkpoint
from ssd_cuda.engine.class_weights import balanced_weights, parse_weights
from ssd_cuda.engine.train import TrainConfig, Trainer, train

WEIGHTS = (0.5, 2.0, 1.0, 0.25, 1.0, 3.0)


@pytest.fixture(scope="module")
def shapes():
    return data.ShapesDataset("train", length=8, size=SIZE)


@pytest.fixture(scope="module")
def spec(shapes):
    return ModelSpec("ssd_small", tuple(shapes.classes), SIZE)


@pytest.mark.parametrize(
    "text, classes, weights",
    [
        ("cat=2,dog=0.5", ("cat", "dog"), (1.0, 2.0, 0.5)),
        (" dog = 3 ", ("cat", "dog"), (1.0, 1.0, 3.0)),
        ("background=0.1,cat=0", ("cat", "dog"), (0.1, 0.0, 1.0)),
        ("background=0.1", ("background", "dog"), (1.0, 0.1, 1.0)),  # a class of the data has the name
        ("a=b=2", ("a=b", "a"), (1.0, 2.0, 1.0)),
        ("lamp, red=2,cup=3", ("lamp, red", "cup"), (1.0, 2.0, 3.0)),
    ],
)
def test_a_list_of_weights(text, classes, weights):
    assert parse_weights(text, classes) == weights


@pytest.mark.parametrize(
    "text, words",
    [
        ("cat", "class_weights must be 'balanced' or names with weights, cat=2,dog=0.5, got 'cat'"),
        ("", "class_weights must be 'balanced' or names with weights.* got ''"),
        ("cow=2", "class_weights must name classes of the data, cat, dog, got 'cow'"),
        ("cat=2,cat=3", "class_weights must name a class once, got 'cat' twice"),
        ("cat=two", "class_weights must be finite numbers of at least 0, got 'two' for 'cat'"),
        ("cat=-1", "class_weights must be finite numbers of at least 0, got '-1' for 'cat'"),
        ("cat=inf", "class_weights must be finite numbers of at least 0, got 'inf' for 'cat'"),
    ],
)
def test_a_list_that_is_none_is_one_sentence(text, words):
    with pytest.raises(ValueError, match=words):
        parse_weights(text, ("cat", "dog"))


class Counted(data.DetectionDataset):
    """Three images: three cats, of which one is a crowd, one dog, no cow."""

    classes = ("cat", "dog", "cow")

    def __len__(self):
        return 3

    def target(self, index):
        labels = ([1, 1], [1], [2])[index]
        return {"labels": torch.tensor(labels), "crowd": torch.tensor([index == 1] * len(labels))}


def test_balanced_weights_by_hand():
    """Three boxes of two classes: cat 3 / (2 * 2), dog 3 / (2 * 1); every class that occurs counts alike."""
    assert balanced_weights(Counted()) == (1.0, 0.75, 1.5, 1.0)
    assert 2 * 0.75 == 1 * 1.5


def first_loss(spec, config):
    torch.manual_seed(0)
    trainer = Trainer(spec.build(), config, 1)
    boxes, labels = torch.tensor([[0.1, 0.2, 0.6, 0.8]]), torch.tensor([4])
    batch = (torch.rand(2, 3, *SIZE), ops.GroundTruth.from_list([boxes, boxes], [labels, labels + 1]))
    trainer.run_epoch([batch])
    return trainer, batch


def test_a_run_trains_on_the_weighted_loss(spec):
    """The loss of the first step is torch's cross_entropy of the rows that are mined."""
    config = replace(CONFIG, class_weights=WEIGHTS, label_smoothing=0.1, freeze_norms=True)
    trainer, (images, gt) = first_loss(spec, config)
    torch.manual_seed(0)
    model = spec.build().freeze(0, norms=True).train()
    _, conf = model(images)
    codes = ops.match(gt, model.priors, config=model.loss_config.match)
    target = torch.where(codes >= 0, gt.labels[gt.offsets[:-1, None] + codes.clamp(min=0)], 0)
    losses = F.cross_entropy(
        conf.transpose(1, 2), target, torch.tensor(WEIGHTS), reduction="none", label_smoothing=0.1
    )
    positive = target > 0
    negative = reference.mining.select_hard_negatives(losses.detach(), positive)
    expected = losses[positive | negative].sum() / positive.sum()
    torch.testing.assert_close(torch.tensor(trainer.history[0][1]), expected.detach(), rtol=1e-4, atol=1e-5)


def test_the_average_and_the_state_know_them(spec):
    config = replace(CONFIG, class_weights=list(WEIGHTS), label_smoothing=0.1)
    trainer, _ = first_loss(spec, config)
    assert trainer.average.class_weights.tolist() == list(WEIGHTS)
    assert trainer.average.loss_config.label_smoothing == 0.1
    assert trainer.state()["config"]["class_weights"] == WEIGHTS
    assert not [name for name in trainer.model.state_dict() if "class_weights" in name]


def test_a_run_resumes_with_its_weights_alone(shapes, spec, tmp_path):
    config = replace(CONFIG, epochs=1, class_weights=WEIGHTS, label_smoothing=0.1)
    path = tmp_path / "last.pt"
    train(loader(shapes, config), spec, config, path)
    saved = load_checkpoint(path)[1]["config"]
    assert saved["class_weights"] == WEIGHTS and saved["label_smoothing"] == 0.1
    longer = replace(config, epochs=2)
    resumed = train(loader(shapes, longer), spec, longer, path, resume=path, extend=True)
    assert resumed.model.class_weights.tolist() == list(WEIGHTS)
    for other in (replace(config, class_weights=None), replace(config, label_smoothing=0.0)):
        with pytest.raises(CheckpointError, match=r"same recipe, got .*--extend lets these differ"):
            train(loader(shapes, other), spec, other, tmp_path / "x.pt", resume=path)


@pytest.mark.parametrize(
    "changes, error, words",
    [
        (dict(label_smoothing=1.0), ValueError, "label_smoothing must be below 1, got 1.0"),
        (dict(class_weights="balanced"), TypeError, "class_weights must be a list of numbers"),
        (dict(class_weights=(1.0,)), TypeError, "class_weights must be a list of numbers"),
        (dict(class_weights=(1.0, -1.0)), ValueError, r"class_weights must lie in \[0, inf\], got -1.0"),
        (dict(class_weights=(1.0, float("nan"))), ValueError, "class_weights must"),
        (dict(class_weights=(1.0, "2")), TypeError, "class_weights must be a number, got str"),
    ],
)
def test_a_recipe_that_is_none_is_refused(changes, error, words):
    with pytest.raises(error, match=words):
        TrainConfig(**changes)


def test_weights_of_other_classes_are_refused(spec):
    with pytest.raises(ValueError, match="class_weights must be of 6 classes, the background's first, got 2"):
        Trainer(spec.build(), replace(CONFIG, class_weights=(1.0, 2.0)), 1)


def test_the_command_line_trains_with_them(capsys, monkeypatch, tmp_path, shapes):
    monkeypatch.setattr(data, "open_dataset", lambda *_, **__: shapes)
    arguments = ["train", "--out", tmp_path, "--epochs", 1, "--batch-size", 4, "--no-eval", *SMALL]
    arguments.append("--overwrite")
    name = shapes.classes[1]
    status, _, err = run(capsys, *arguments, "--class-weights", f"{name}=2.5", "--label-smoothing", 0.1)
    assert status == 0, err
    saved = load_checkpoint(tmp_path / "checkpoint.pt")[1]["config"]
    assert saved["class_weights"] == (1.0, 1.0, 2.5, 1.0, 1.0, 1.0) and saved["label_smoothing"] == 0.1
    status, out, err = run(capsys, *arguments, "--class-weights", "balanced")
    assert status == 0 and f"class weights: {shapes.classes[0]} " in out, err
    saved = load_checkpoint(tmp_path / "checkpoint.pt")[1]["config"]
    assert saved["class_weights"] == balanced_weights(shapes)
    status, _, err = run(capsys, *arguments, "--class-weights", "cow=2")
    assert status == 1 and err.count("\n") == 1 and "--class-weights must name classes of the data" in err
    status, _, err = run(capsys, *arguments, "--label-smoothing", 1)
    assert status == 1 and err.count("\n") == 1 and "label_smoothing must be below 1" in err
