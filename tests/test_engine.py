"""Engine: the schedule, exact resuming, checkpoints that are refused, evaluation, the demo in small."""

import copy
import functools
import json
import math
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from ssd_cuda import data, models
from ssd_cuda.engine import demo, op_costs
from ssd_cuda.engine import train as train_module
from ssd_cuda.engine.checkpoint import (
    CheckpointError,
    ModelSpec,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from ssd_cuda.engine.evaluate import evaluate, predict, to_pixels
from ssd_cuda.engine.report import without_nan
from ssd_cuda.engine.step import TrainStep
from ssd_cuda.engine.train import TrainConfig, Trainer, learning_rate, train
from ssd_cuda.engine.validation import Validation, best_row

SIZE = (64, 96)
CONFIG = TrainConfig(epochs=3, batch_size=4, warmup_steps=2, workers=0)


@pytest.fixture(scope="module")
def shapes():
    return data.ShapesDataset("train", length=12, size=SIZE)


@pytest.fixture(scope="module")
def spec(shapes):
    return ModelSpec("ssd_small", tuple(shapes.classes), SIZE)


def loader(dataset, config=CONFIG):
    prepared = data.prepare(dataset, SIZE, config.augment)
    return data.BatchLoader(prepared, config.batch_size, train=True, seed=config.seed, workers=config.workers)


@pytest.fixture(scope="module")
def finished(shapes, spec, tmp_path_factory):
    """A run of three epochs: (trainer, folder with its checkpoint after the first and the last epoch)."""
    folder = tmp_path_factory.mktemp("run")

    def keep(trainer, mean):
        if trainer.epoch == 1:
            shutil.copy(folder / "last.pt", folder / "first.pt")

    return train(loader(shapes), spec, CONFIG, folder / "last.pt", on_epoch=keep), folder


def equal_states(one, other):
    flat, tree = torch.utils._pytree.tree_flatten(one)
    flat2, tree2 = torch.utils._pytree.tree_flatten(other)
    assert tree == tree2
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(flat, flat2, strict=True)
    )


def test_learning_rate_warms_up_and_decays_to_nothing():
    config = TrainConfig(lr=1.0, warmup_steps=9)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.5)
    assert max(rates) < 1 and rates.index(max(rates)) == 9
    assert 0 < rates[-1] < 1e-3
    assert learning_rate(0, 10, replace(config, warmup_steps=0)) == 1.0


def test_training_lowers_the_loss(finished):
    history = finished[0].history
    assert len(history) == 9
    assert sum(map(sum, history[-3:])) < 0.8 * sum(map(sum, history[:3]))


def test_a_resumed_run_repeats_the_bits_of_an_uninterrupted_one(shapes, spec, finished, tmp_path):
    trainer, folder = finished
    torch.rand(17)  # whatever the process did before must not matter
    resumed = train(loader(shapes), spec, CONFIG, tmp_path / "again.pt", resume=folder / "first.pt")
    assert resumed.epoch == 3
    assert equal_states(resumed.state(), trainer.state())
    assert equal_states(
        load_checkpoint(tmp_path / "again.pt")[1]["model"], load_checkpoint(folder / "last.pt")[1]["model"]
    )


def test_another_seed_gives_another_run(shapes, spec, finished, tmp_path):
    config = replace(CONFIG, seed=1, epochs=1)
    other = train(loader(shapes, config), spec, config, tmp_path / "other.pt")
    assert other.history[0] != finished[0].history[0]


def test_resuming_a_finished_run_into_a_new_folder_takes_it_there(shapes, spec, finished, tmp_path):
    trainer, folder = finished
    again = train(loader(shapes), spec, CONFIG, tmp_path / "new/x.pt", resume=folder / "last.pt")
    assert again.step == trainer.step
    assert equal_states(load_checkpoint(tmp_path / "new/x.pt")[1]["model"], trainer.state()["model"])
    before = (folder / "last.pt").stat().st_mtime_ns
    train(loader(shapes), spec, CONFIG, folder / "last.pt", resume=folder / "last.pt")
    assert (folder / "last.pt").stat().st_mtime_ns == before  # in its own nothing changes


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_run_that_was_ended_in_an_epoch_goes_on_to_the_same_bits(shapes, spec, finished, tmp_path, steps):
    """Three steps an epoch: in the first epoch, at its end, in the second."""
    # Asked after every step and, once more, after every epoch.
    asked, reached, epochs = iter([False] * (steps - 1 + (steps - 1) // 3) + [True]), [False], []

    def stop():
        reached[0] = reached[0] or next(asked)
        return reached[0]

    def note(trainer, mean):
        epochs.append(trainer.epoch)

    path = tmp_path / "x.pt"
    ended = train(loader(shapes), spec, CONFIG, path, stop=stop, on_epoch=note)
    assert ended.step == steps and ended.epoch == steps // 3 == len(epochs)
    assert load_checkpoint(path)[1]["step"] == steps
    resumed = train(loader(shapes), spec, CONFIG, path, resume=path)
    assert equal_states(resumed.state(), finished[0].state())


def test_a_run_that_ends_between_its_two_files_has_the_best_one_again(shapes, spec, tmp_path, monkeypatch):
    """The disk may be full, or the machine gone: the checkpoint must not know of a best that was not kept."""
    real = train_module.save_checkpoint
    written = iter(range(4))

    def save(path, spec, state):
        if next(written) == 3:  # of the second epoch
            raise OSError("no space left")
        real(path, spec, state)

    scores = {"map": float("nan"), "loss": [1.0, 2.0]}
    values = iter([0.1, 0.3, 0.3, 0.2])
    monkeypatch.setattr(
        "ssd_cuda.engine.validation.evaluate", lambda *a, **k: {**scores, "ap50": next(values)}
    )
    test, path = data.ShapesDataset("test", length=3, size=SIZE), tmp_path / "x.pt"
    look = Validation(test, best=tmp_path / "best.pt", workers=0)
    monkeypatch.setattr(train_module, "save_checkpoint", save)
    with pytest.raises(OSError, match="no space"):
        train(loader(shapes), spec, CONFIG, path, validation=look)
    monkeypatch.setattr(train_module, "save_checkpoint", real)
    trainer = train(loader(shapes), spec, CONFIG, path, resume=path, validation=look)
    best = trainer.scores[best_row(trainer.scores)]
    assert best["ap50"] == 0.3 and load_checkpoint(look.best)[1]["epoch"] == best["epoch"] == 2


def test_min_negatives_let_an_image_without_objects_be_learned_from(spec):
    from ssd_cuda.ops import GroundTruth

    none = GroundTruth.from_list([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    losses = []
    for count in (0, 7):
        torch.manual_seed(0)
        trainer = Trainer(spec.build(), replace(CONFIG, min_negatives=count), 1)
        assert trainer.average.loss_config.mining.min_negatives == count
        losses.append(trainer.run_epoch([(torch.rand(2, 3, *SIZE), none)]))
    assert losses[0] == 0 < losses[1]


def test_resume_refuses_another_recipe_or_model(shapes, spec, finished, tmp_path):
    first = finished[1] / "first.pt"
    with pytest.raises(CheckpointError, match=r"same recipe, got \{'lr': 0.002\}"):
        train(loader(shapes), spec, replace(CONFIG, lr=1e-3), tmp_path / "x.pt", resume=first)
    with pytest.raises(CheckpointError, match="must hold the model that is to be trained"):
        train(loader(shapes), replace(spec, classes=tuple("abcde")), CONFIG, tmp_path / "x.pt", resume=first)


def test_resume_refuses_another_number_of_images(spec, finished, tmp_path):
    fewer = loader(data.ShapesDataset("train", length=8, size=SIZE))
    with pytest.raises(CheckpointError, match="2 steps an epoch, got 3 steps in 1 epoch"):
        train(fewer, spec, CONFIG, tmp_path / "x.pt", resume=finished[1] / "first.pt")


def test_the_average_follows_the_weights(spec):
    """By hand: after one step the decay is min(decay, (1 + 0) / (10 + 0)) = .1."""
    torch.manual_seed(0)
    trainer = Trainer(spec.build(), CONFIG, 1)
    start = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    for parameter in trainer.model.parameters():
        parameter.data += 1
    trainer._update_average()
    weight = "heads.0.loc_conv.weight"
    torch.testing.assert_close(trainer.average.state_dict()[weight], start[weight] + 0.9)


Losses = namedtuple("Losses", "localization classification num_positives")


def test_a_loss_that_is_not_finite_stops_the_run(shapes, spec, monkeypatch, tmp_path):
    trainer = Trainer(spec.build(), CONFIG, 3)

    def loss(self, images, gt):
        zero = sum(p.sum() for p in self.parameters()) * 0
        return Losses(zero, zero + math.nan, torch.tensor(1))

    monkeypatch.setattr(models.SSD, "loss", loss)
    with pytest.raises(FloatingPointError, match=r"finite, got \[.*nan\] at step 0 \(epoch 1\); lower lr"):
        trainer.run_epoch(loader(shapes))


def test_weights_that_are_not_finite_are_not_written_over_good_ones(shapes, spec, monkeypatch, tmp_path):
    """The loss of an epoch's last step is looked at before that step: nothing of it is told by a loss."""
    real = TrainStep.__call__

    def spoil(self, parts):
        losses = real(self, parts)
        if self.optimizer.state_dict()["state"][0]["step"] == 6:
            next(self.model.parameters()).data.fill_(math.inf)
        return losses

    monkeypatch.setattr(TrainStep, "__call__", spoil)
    with pytest.raises(FloatingPointError, match=r"weights must stay .* after step 6 \(epoch 2\); lower lr"):
        train(loader(shapes), spec, CONFIG, tmp_path / "x.pt")
    assert load_checkpoint(tmp_path / "x.pt")[1]["epoch"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must lie in"),
        ({"lr": 0.0}, "lr must lie in"),
        ({"batch_size": -1}, "batch_size must lie in"),
        ({"average_decay": 1.5}, r"average_decay must lie in \[0, 1\], got 1.5"),
    ],
)
def test_config_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


def test_checkpoint_round_trip_gives_the_averaged_model(finished, spec):
    trainer, folder = finished
    model, found = load_model(folder / "last.pt")
    assert found == spec and not model.training
    assert equal_states(dict(model.state_dict()), dict(trainer.average.state_dict()))
    assert not list(folder.glob("*.partial"))


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)


class Unsafe:
    """Something that only an unsafe unpickler would build."""


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"not a checkpoint", "must be a checkpoint of ssd_cuda, got a text"),
        (b"", "must be a checkpoint of ssd_cuda, got an empty file"),
        (Unsafe(), "must be a checkpoint of ssd_cuda, got a pickle with test_engine.Unsafe, as of a whole m"),
        ([1, 2], "got a saved list"),
        ({}, "got an empty dict"),
        (
            {"state_dict": {}, "meta": 1},
            "with state_dict, meta, ...: `ssd-cuda import` makes a checkpoint of weights",
        ),
        ({"format": "ssd_cuda checkpoint 99"}, "got the format 'ssd_cuda checkpoint 99'"),
        ({"format": "ssd_cuda checkpoint 1", "spec": {}}, "got no model, average"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, finding):
    path = tmp_path / "x.pt"
    write(path, content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert finding in message and str(path) in message and "\n" not in message


def test_a_missing_checkpoint_and_weights_that_do_not_fit(tmp_path, finished):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    spec, state = load_checkpoint(finished[1] / "last.pt")
    save_checkpoint(tmp_path / "odd.pt", replace(spec, classes=("one",)), state)
    with pytest.raises(
        CheckpointError,
        match=r"must have .*\[8, 96, 3, 3\] in 'model' heads.*\[24, ",
    ):
        load_model(tmp_path / "odd.pt")


def test_to_pixels():
    detections = {
        "boxes": torch.tensor([[0.0, 0.5, 0.5, 1.0]]),
        "scores": torch.ones(1),
        "labels": torch.ones(1),
    }
    assert to_pixels(detections, (100, 200))["boxes"].tolist() == [[0.0, 50.0, 100.0, 100.0]]


class OracleModel(models.SSD):
    """Finds exactly what it is told, in fractions of the image."""

    def __init__(self, answers):
        torch.nn.Module.__init__(self)
        self.answers, self.image_size, self.num_classes = answers, SIZE, 6
        self.register_buffer("priors", torch.zeros(0, 4), persistent=False)

    def detect(self, images, config=None):
        chosen, self.answers = self.answers[: len(images)], self.answers[len(images) :]
        return type("Found", (), {"to_list": lambda self: chosen})()


def test_a_perfect_model_has_ap_one(shapes):
    answers = []
    scale = torch.tensor([96.0, 64.0, 96.0, 64.0])
    for index in range(len(shapes)):
        target = shapes.target(index)
        boxes = target["boxes"].as_subclass(torch.Tensor) / scale
        answers.append({"boxes": boxes, "scores": torch.ones(len(boxes)), "labels": target["labels"]})
    scores = evaluate(OracleModel(answers), shapes, batch_size=5, workers=0)
    assert scores["ap50"] == pytest.approx(1.0) and scores["map"] == pytest.approx(1.0)
    torch.testing.assert_close(scores["predictions"][7]["boxes"], answers[7]["boxes"] * scale)
    none = [
        {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    ]
    assert evaluate(OracleModel(none * 12), shapes, workers=0)["ap50"] == 0


def test_a_model_in_training_is_evaluated_as_it_is_shipped_and_left_alone(finished):
    model, test = copy.deepcopy(finished[0].average), data.ShapesDataset("test", length=3, size=SIZE)
    expected = evaluate(model, test, workers=0, losses=True)
    before = {key: value.clone() for key, value in model.freeze(2).train().state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert equal_states(evaluate(model, test, workers=0, losses=True)["predictions"], expected["predictions"])
    assert equal_states(predict(model, test, workers=0), expected["predictions"])
    assert equal_states(dict(model.state_dict()), before)
    assert modes == [module.training for module in model.modules()] and True in modes and False in modes


def test_evaluate_refuses_a_model_of_other_classes(shapes):
    with pytest.raises(ValueError, match="must have the 2 classes of the model, got 5: circle"):
        evaluate(models.ssd_small(3, SIZE), shapes)


def test_predict_gives_boxes_inside_the_stored_image(finished):
    larger = data.ShapesDataset("test", length=3, size=(128, 200))
    found = predict(finished[0].average, larger, batch_size=2, workers=0)
    assert len(found) == 3
    for image in found:
        assert image["boxes"].min() >= 0
        assert (image["boxes"].amax(0) <= torch.tensor([200.0, 128.0, 200.0, 128.0])).all()
        assert image["boxes"].max() > 128  # in pixels of the stored image, not of the model's


def test_op_costs_compare_equal_results(finished, shapes):
    prepared = data.prepare(shapes, SIZE)
    images, gt = data.collate([prepared[i] for i in range(2)])
    rows = op_costs.measure_op_costs(finished[0].average, images, gt, repeats=1)
    assert len(rows) == 2 and all(row["ssd_cuda"] > 0 and row["reference"] > 0 for row in rows)
    table = op_costs.costs_table(rows)
    assert table.count("\n") == 3 and "| vs reference |" in table.splitlines()[0]


@pytest.mark.parametrize(("images", "epochs"), [(292, 12), (400, 9), (8, 430), (100_000, 1), (1, 430)])
def test_the_demo_trains_about_as_many_steps_on_any_data(images, epochs):
    assert demo.epochs_for(images) == epochs


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_demo_writes_what_it_promises(tmp_path, capsys, monkeypatch, amp):
    monkeypatch.setattr(demo, "IMAGE_SIZE", SIZE)
    monkeypatch.setattr(demo, "BATCH", 2)
    monkeypatch.setattr(demo, "measure_op_costs", functools.partial(op_costs.measure_op_costs, repeats=1))
    real = data.open_dataset
    monkeypatch.setattr(demo, "open_dataset", lambda *a, **k: real(*a, length=6, size=SIZE, **k))
    results = demo.run_demo("shapes", tmp_path / "out", epochs=1, amp=amp)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"checkpoint.pt", "detections.png", "loss.png", "op_costs.md", "results.json"}
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"ap50", "map", "train_seconds", "op_costs"} <= set(stored)
    assert stored["ap50"] == pytest.approx(results["ap50"], nan_ok=True) and stored["amp"] == amp
    assert "AP50 (VOC)" in capsys.readouterr().out


def test_json_has_no_nan():
    assert without_nan({"a": [math.nan, 1.0], "b": (math.inf, "x")}) == {"a": [None, 1.0], "b": [None, "x"]}
