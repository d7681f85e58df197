"""What a run shows: looks at validation, the best checkpoint, its end, metrics.csv, warnings; going on
otherwise."""

from __future__ import annotations

import csv
import re
import shlex
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision")

from layouts import write_checkpoint
from PIL import Image

from ssd_cuda import cli, data
from ssd_cuda.engine.checkpoint import CheckpointError, ModelSpec, load_checkpoint, save_checkpoint
from ssd_cuda.engine.evaluate import evaluate
from ssd_cuda.engine.progress import COLUMNS, RunLog, warn_if_idle, warn_if_slow
from ssd_cuda.engine.train import TrainConfig, Trainer, learning_rate, train
from ssd_cuda.engine.validation import Validation, best_row
from ssd_cuda.ops import GroundTruth

SIZE = (64, 96)
CONFIG = TrainConfig(epochs=3, batch_size=4, warmup_steps=2, workers=0)


@pytest.fixture(scope="module")
def shapes():
    return data.ShapesDataset("train", length=8, size=SIZE)


@pytest.fixture(scope="module")
def spec(shapes):
    return ModelSpec("ssd_small", tuple(shapes.classes), SIZE)


def loader(dataset, config=CONFIG):
    return data.BatchLoader(data.prepare(dataset, SIZE), config.batch_size, train=True, workers=0)


def validation(tmp_path, **options):
    test = data.ShapesDataset("test", length=3, size=SIZE)
    return Validation(test, best=tmp_path / "best.pt", workers=0, batch_size=2, **options)


@pytest.fixture(scope="module")
def finished(shapes, spec, tmp_path_factory):
    """A run of three epochs that is looked at in the second and at the end, its lines and its folder."""
    folder = tmp_path_factory.mktemp("run")
    look, lines = validation(folder, every=2), []
    log = RunLog(folder, lines.append, look)
    trainer = train(loader(shapes), spec, CONFIG, folder / "x.pt", validation=look, on_epoch=log.on_epoch)
    return trainer, lines, folder


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_look_gives_the_loss_of_the_whole_split(finished, spec):
    """By hand from the images one by one: sums over sums, whatever the batches."""
    trainer = finished[0]
    assert [row["epoch"] for row in trainer.scores] == [2, 3]
    test = data.prepare(data.ShapesDataset("test", length=3, size=SIZE), SIZE)
    sums = torch.zeros(3)
    for index in range(3):
        losses = trainer.average.loss(*data.collate([test[index]]))
        sums += torch.stack([losses[0] * losses[2], losses[1] * losses[2], losses[2]])
    row = trainer.scores[-1]
    assert row["localization"] == pytest.approx((sums[0] / sums[2]).item(), rel=1e-5)
    assert row["classification"] == pytest.approx((sums[1] / sums[2]).item(), rel=1e-5)
    scores = evaluate(trainer.average, data.ShapesDataset("test", length=3, size=SIZE), workers=0)
    assert (row["ap50"], row["map"]) == (scores["ap50"], scores["map"])


def test_the_best_checkpoint_is_that_of_the_best_look(finished):
    trainer, _, folder = finished
    best = trainer.scores[best_row(trainer.scores)]
    assert load_checkpoint(folder / "best.pt")[1]["step"] == best["step"]
    assert load_checkpoint(folder / "x.pt")[1]["scores"] == trainer.scores


def test_images_a_second_are_those_that_were_seen(shapes, spec, tmp_path):
    config = replace(CONFIG, epochs=1, batch_size=800, warmup_steps=0)
    log = RunLog(tmp_path, lambda line: None)
    train(loader(shapes, config), spec, config, tmp_path / "x.pt", on_epoch=log.on_epoch)
    (row,) = table(tmp_path)
    assert float(row["images_per_second"]) * float(row["seconds"]) == pytest.approx(8, rel=1e-4)


def test_metrics_have_a_row_an_epoch(finished):
    trainer, lines, folder = finished
    rows = table(folder)
    assert tuple(rows[0]) == COLUMNS and [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["val_loss"] == rows[0]["ap50"] == "" and rows[1]["val_loss"]
    history = torch.tensor(trainer.history, dtype=torch.float64)
    for number, row in enumerate(rows):
        means = history[2 * number : 2 * number + 2].mean(0)
        assert float(row["localization"]) == pytest.approx(means[0].item(), rel=1e-5)
        assert float(row["loss"]) == pytest.approx(means.sum().item(), rel=1e-5)
        assert float(row["lr"]) == pytest.approx(learning_rate(2 * number + 1, 6, CONFIG), rel=1e-5)
        assert float(row["images_per_second"]) > 0 and 0 < float(row["core_share"]) <= 1
    assert len(lines) == 3 and lines[0].startswith("epoch 1/3  loss ") and "images/s" in lines[0]
    assert "validation" not in lines[0] and "validation" in lines[1] and "AP50" in lines[1]


def test_a_resumed_run_keeps_the_rows_and_the_scores(finished, shapes, spec, tmp_path):
    trainer, _, folder = finished
    (tmp_path / "metrics.csv").write_text("\n".join((folder / "metrics.csv").read_text().splitlines()[:3]))
    longer = replace(CONFIG, epochs=4)
    look = validation(tmp_path, every=2)
    log = RunLog(tmp_path, lambda line: None, look)
    resumed = train(
        loader(shapes), spec, longer, tmp_path / "x.pt", resume=folder / "x.pt", extend=True, validation=look,
        on_epoch=log.on_epoch,
    )  # fmt: skip
    rows, before = table(tmp_path), table(folder)
    assert rows[:2] == before[:2]  # the rate too, which the cosine of a longer run has another of
    assert rows[2]["seconds"] == "" and rows[2]["ap50"] == before[2]["ap50"] and rows[3]["seconds"]
    assert [row["epoch"] for row in resumed.scores] == [2, 3, 4] and resumed.scores[:2] == trainer.scores


def test_rates_that_a_file_does_not_tell_are_those_of_its_recipe(finished, shapes, spec, tmp_path):
    _, state = load_checkpoint(finished[2] / "x.pt")
    assert state.pop("rates") == pytest.approx([learning_rate(step, 6, CONFIG) for step in range(6)])
    save_checkpoint(tmp_path / "old.pt", spec, state)
    other, log = replace(CONFIG, epochs=4, lr=1e-4), RunLog(tmp_path, lambda line: None)
    train(
        loader(shapes), spec, other, tmp_path / "x.pt", resume=tmp_path / "old.pt", extend=True,
        on_epoch=log.on_epoch,
    )  # fmt: skip
    rates = [row["lr"] for row in table(tmp_path)]
    assert rates[:3] == [row["lr"] for row in table(finished[2])] and float(rates[3]) < 1e-4


@pytest.mark.parametrize("content", ["", "epoch\nx\n", "epoch,seconds\n1\n", "\0"])
def test_a_file_of_something_else_is_no_harm(tmp_path, shapes, spec, content):
    (tmp_path / "metrics.csv").write_text(content)
    log = RunLog(tmp_path, lambda line: None)
    train(loader(shapes), spec, replace(CONFIG, epochs=1), tmp_path / "x.pt", on_epoch=log.on_epoch)
    assert len(table(tmp_path)) == 1


def test_a_run_ends_when_nothing_gets_better(shapes, spec, tmp_path, monkeypatch):
    values = iter([0.1, 0.3, 0.3, 0.2, 0.9])
    scores = {"map": float("nan"), "loss": [1.0, 2.0]}
    monkeypatch.setattr(
        "ssd_cuda.engine.validation.evaluate", lambda *a, **k: {**scores, "ap50": next(values)}
    )
    look, lines = validation(tmp_path, patience=2), []
    log = RunLog(tmp_path, lines.append, look)
    config = replace(CONFIG, epochs=9)
    trainer = train(loader(shapes), spec, config, tmp_path / "x.pt", validation=look, on_epoch=log.on_epoch)
    assert trainer.epoch == 4 and lines[-1] == "no better AP50 in 2 looks: it is enough"
    assert load_checkpoint(tmp_path / "best.pt")[1]["epoch"] == 2
    assert load_checkpoint(tmp_path / "x.pt")[1]["scores"][0]["map"] is None


# Warnings


def test_images_that_teach_nothing_are_told(spec):
    none = GroundTruth.from_list([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    trainer = Trainer(spec.build(), replace(CONFIG, batch_size=2), 1)
    trainer.run_epoch([(torch.rand(2, 3, *SIZE), none)])
    with pytest.warns(
        UserWarning, match="no prior matched an object in 1 step, and the loss was 0: the images"
    ):
        assert warn_if_idle(trainer)
    trainer = Trainer(spec.build(), replace(CONFIG, batch_size=2, min_negatives=5), 1)
    trainer.run_epoch([(torch.rand(2, 3, *SIZE), none)])
    with pytest.warns(UserWarning, match="no prior matched an object in 1 step: the images"):
        assert warn_if_idle(trainer)


def test_a_loss_of_nothing_with_objects_is_told(spec):
    boxes = GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.5]])] * 2, [torch.tensor([1])] * 2)
    trainer = Trainer(spec.build(), replace(CONFIG, batch_size=2), 1)
    trainer.run_epoch([(torch.rand(2, 3, *SIZE), boxes)])
    assert not warn_if_idle(trainer)
    trainer.history = [[0.0, 0.0]]
    with pytest.warns(UserWarning, match="the loss was 0 in 1 step"):
        assert warn_if_idle(trainer)


@pytest.mark.parametrize("start", [None, 0.5])
def test_a_run_that_ends_in_its_warm_up_is_told(tmp_path, shapes, spec, start):
    config = replace(CONFIG, epochs=1, schedule="constant", warmup_start=start)
    for steps in (2, 1):  # of warm-up, and the run has two
        config = replace(config, warmup_steps=steps)
        reached = max(learning_rate(step, 2, config) for step in range(2)) == config.lr
        assert reached == (steps < 2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(loader(shapes), spec, config, tmp_path / f"{steps}.pt")
        told = "warm-up takes 2 steps and the run has 2: the rate never reaches 0.002; see --warmup-steps"
        assert [told in str(one.message) for one in caught] == [True] * (not reached)
    config = replace(config, warmup_steps=2)
    with warnings.catch_warnings():  # of a run that is done nothing is told
        warnings.simplefilter("error")
        train(loader(shapes), spec, config, tmp_path / "2.pt", resume=tmp_path / "2.pt")


def test_a_rate_that_falls_after_the_end_is_told(tmp_path, shapes, spec):
    config = replace(CONFIG, epochs=1, schedule="steps", warmup_steps=0)
    for milestones, late in ((1,), None), ((1, 2, 3), "the run ends after 1 epoch, before .* at 2, 3; see"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            name = tmp_path / f"{len(milestones)}.pt"
            train(loader(shapes), spec, replace(config, milestones=milestones), name)
        told = [str(one.message) for one in caught if "before the rate falls" in str(one.message)]
        assert len(told) == (late is not None) and all(re.match(late, sentence) for sentence in told)


def test_fp16_on_a_cpu_is_told(tmp_path, shapes, spec):
    config = replace(CONFIG, epochs=2, steps=3)
    for amp, count in (("fp16", 1), ("bf16", 0), ("none", 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(loader(shapes), spec, replace(config, amp=amp), tmp_path / f"{amp}.pt")
        assert sum("--amp bf16 or none" in str(one.message) for one in caught) == count
    assert not warn_if_slow(replace(config, amp="fp16"), "cuda")


# TensorBoard


def test_tensorboard_gets_the_same_numbers(tmp_path, shapes, spec, monkeypatch):
    """A stand-in for its writer, which the package need not be there for."""
    written: dict[str, list] = {}

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            written.setdefault(name, []).append((step, value))

        def flush(self):
            written["flushed"] = [self.folder]

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log = RunLog(tmp_path, lambda line: None, tensorboard=True)
    train(loader(shapes), spec, replace(CONFIG, epochs=2), tmp_path / "x.pt", on_epoch=log.on_epoch)
    rows = table(tmp_path)
    assert [value for _, value in written["loss"]] == pytest.approx(
        [float(row["loss"]) for row in rows], rel=1e-5
    )
    assert [step for step, _ in written["lr"]] == [2, 4] and "ap50" not in written
    assert written["flushed"] == [str(tmp_path / "tensorboard")]


def test_tensorboard_that_is_missing_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    real = data.open_dataset
    monkeypatch.setattr(data, "open_dataset", lambda p, split, **o: real(p, split, length=8, size=SIZE, **o))
    line = [
        "train",
        "--out",
        str(tmp_path),
        "--size",
        "64",
        "96",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--tensorboard",
    ]
    assert cli.main(line) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "--tensorboard needs tensorboard" in sentence and "type `pip install tensorboard`" in sentence


# Going on


def test_a_run_goes_on_longer_and_at_another_rate(finished, shapes, spec, tmp_path):
    trainer, _, folder = finished
    other = replace(CONFIG, epochs=5, lr=1e-4, schedule="constant", warmup_steps=0, amp="bf16")
    with pytest.raises(
        CheckpointError, match=r"same recipe, got \{'epochs': 3.*; --extend lets these differ"
    ):
        train(loader(shapes), spec, other, tmp_path / "x.pt", resume=folder / "x.pt")
    longer = train(loader(shapes), spec, other, tmp_path / "x.pt", resume=folder / "x.pt", extend=True)
    assert longer.epoch == 5 and longer.history[:6] == trainer.history
    assert {group["lr"] for group in longer.optimizer.param_groups} == {1e-4}
    again = train(loader(shapes), spec, other, tmp_path / "y.pt", resume=tmp_path / "x.pt")
    assert again.history == longer.history


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"batch_size": 2}, "same recipe, got {'batch_size': 4}"),
        ({"freeze": 1}, "same recipe, got {'freeze': 0}"),
        ({"optimizer": "sgd"}, "same recipe, got {'optimizer': 'adamw'}"),
        ({"epochs": 2}, "must be of at most 4 steps, got 6"),
    ],
)
def test_what_cannot_be_another_is_named(finished, shapes, spec, tmp_path, changes, finding):
    config = replace(CONFIG, **changes)
    with pytest.raises(CheckpointError) as caught:
        train(
            loader(shapes, config), spec, config, tmp_path / "x.pt", resume=finished[2] / "x.pt", extend=True
        )
    assert finding in str(caught.value) and "--extend lets" not in str(caught.value)


def test_a_run_by_steps_ends_inside_an_epoch(shapes, spec, tmp_path):
    config = replace(CONFIG, steps=3, schedule="steps", milestones=(2,), lr=1e-3, warmup_steps=0)
    trainer = train(loader(shapes), spec, config, tmp_path / "x.pt")
    assert (trainer.step, trainer.epoch, trainer.is_done) == (3, 1, True)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    before = (tmp_path / "x.pt").stat().st_mtime_ns
    assert train(loader(shapes), spec, config, tmp_path / "x.pt", resume=tmp_path / "x.pt").step == 3
    assert (tmp_path / "x.pt").stat().st_mtime_ns == before
    longer = train(
        loader(shapes),
        spec,
        replace(config, steps=5),
        tmp_path / "y.pt",
        resume=tmp_path / "x.pt",
        extend=True,
    )
    assert (longer.step, longer.epoch) == (5, 2)


def test_the_command_line_shows_it_all(capsys, tmp_path, monkeypatch):
    real = data.open_dataset
    monkeypatch.setattr(data, "open_dataset", lambda p, split, **o: real(p, split, length=8, size=SIZE, **o))
    line = shlex.split("train --size 64 96 --device cpu --workers 0 --batch-size 4 --no-eval --epochs 1")
    assert cli.main([*line, "--out", str(tmp_path / "a"), "--eval-every", "1"]) == 0
    written = {path.name for path in (tmp_path / "a").iterdir()}
    assert written == {"best.pt", "checkpoint.pt", "loss.png", "metrics.csv"}
    capsys.readouterr()
    start = shlex.split(f"--weights {tmp_path}/a/best.pt --freeze backbone --amp bf16 --recipe small")
    assert cli.main([*line, "--out", str(tmp_path / "b"), *start]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == f"weights of {tmp_path / 'a/best.pt'}: 70 of 70 tensors"
    old, new = (load_checkpoint(tmp_path / name / "checkpoint.pt")[1] for name in "ab")
    moved = {name for name, value in new["model"].items() if not torch.equal(value, old["average"][name])}
    assert {name.partition(".")[0] for name in moved} == {"heads"}


# Curves


def test_curves_of_runs_are_drawn_together(finished, capsys, tmp_path):
    folder, out = finished[2], tmp_path / "c/x.png"
    assert cli.main(["curves", str(folder / "x.pt"), str(folder / "best.pt"), "-o", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    last, best = sum(finished[0].history[-1]), max(row["ap50"] for row in finished[0].scores)
    assert said[0] == f"{folder / 'x.pt'}: 6 steps, last loss {last:.3f}, best AP50 {best:.3f}"
    picture = Image.open(out)
    assert picture.size == (1260, 960) and len(set(picture.convert("L").getdata())) > 50


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["/no/such"], "checkpoint /no/such does not exist"),
        (["{run}/x.pt", "-o", "x.txt"], "--out must end in .png, .pdf or .svg, got x.txt"),
        (["{run}/new.pt"], "new.pt' must have at least one step, got none"),
    ],
)
def test_curves_that_cannot_be_are_one_sentence(finished, capsys, tmp_path, monkeypatch, arguments, finding):
    write_checkpoint(finished[2] / "new.pt")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["curves", *(word.format(run=finished[2]) for word in arguments)]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert finding in sentence
