"""Several processes train as one with the joint batch: losses, weights, evaluation; and they fail in one
sentence.

``processes_run.py`` makes the runs, over gloo on this machine.
"""

from __future__ import annotations

import csv
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from children import child

pytest.importorskip("torchvision")

from torchvision.tv_tensors import BoundingBoxes

from ssd_cuda import data
from ssd_cuda.data.sampling import Share, StepSampler
from ssd_cuda.engine.checkpoint import ModelSpec, load_model
from ssd_cuda.engine.evaluate import evaluate
from ssd_cuda.engine.processes import join_processes
from ssd_cuda.engine.step import TrainStep
from ssd_cuda.engine.train import TrainConfig, train

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not torch.distributed.is_available(), reason="forks, and speaks over gloo"
)


class Runs:
    """What the processes of the runs left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = torch.load(folder / "done")

    def state(self, name: str, rank: int = 0) -> dict:
        return torch.load(self.folder / f"{name}.{rank}", weights_only=False)["state"]

    def statuses(self, name: str) -> list[int]:
        return self.done[name][0]

    def said(self, name: str, rank: int, kind: str = "err") -> str:
        return (self.folder / f"{name}.{kind}.{rank}").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    places = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests/processes_run.py"), str(folder)]
    with child(command, env=environment) as process:  # and of its own processes none is left behind
        err = process.communicate(timeout=500)[1].decode()
    assert process.returncode == 0, err
    return Runs(folder)


@pytest.mark.parametrize(
    ("name", "count", "like"),
    [
        ("two", 2, "one"),
        ("four", 4, "one"),
        ("per image, two", 2, "per image"),
        ("parts", 1, "one"),
        ("parts of two, workers", 2, "one"),
        ("resumed by four", 4, "one"),
        ("machines", 2, "one"),
    ],
)
def test_a_joint_batch_is_a_joint_batch(runs, name, count, like):
    """In every process: as one process, which takes all images at once and loads them itself."""
    assert runs.statuses(name) == [0] * count, runs.said(name, 0)
    expected = runs.state(like)
    assert expected["step"] == len(expected["history"]) >= 2
    for rank in range(count):
        found = runs.state(name, rank)
        assert found["step"] == expected["step"]
        torch.testing.assert_close(found["history"], expected["history"], rtol=1e-5, atol=1e-5)
        for part in ("model", "average"):
            torch.testing.assert_close(found[part], expected[part], rtol=1e-5, atol=1e-5)


def test_that_is_no_accident(runs):
    """Weights have moved by far more than the tolerance, and the other divisor gives another run."""
    early, late, other = (runs.state(name) for name in ("ended", "one", "per image"))
    moved = max((early["model"][key] - value).abs().max() for key, value in late["model"].items())
    assert moved > 1e-2 and early["step"] == 3
    assert abs(other["history"][1][0] - late["history"][1][0]) > 1e-2


@pytest.mark.parametrize(("name", "count"), [("two", 2), ("four", 4)])
def test_a_shared_evaluation_is_one(runs, name, count):
    expected = runs.state("one")["scores"]
    assert len(expected) == 2 and expected[0]["ap50"] > 0
    for rank in range(count):
        found = runs.state(name, rank)["scores"]
        for row, own in zip(found, expected, strict=True):
            assert row == pytest.approx(own, rel=1e-5)


def test_one_process_writes_and_speaks(runs):
    assert runs.statuses("cli") == [0, 0]
    lines = runs.said("cli", 0, "out").splitlines()
    assert lines[0].startswith("training ssd_small on cpu with 2 processes: 8 images")
    assert lines[-1].split()[0] == "mean" and not runs.said("cli", 1, "out") and not runs.said("cli", 1)
    assert sorted(os.listdir(runs.folder / "cli run")) == [
        "best.pt", "checkpoint.pt", "loss.png", "metrics.csv",
    ]  # fmt: skip


def test_a_process_that_is_terminated_ends_the_others_with_all_written(runs):
    assert runs.statuses("terminated") == [143, 143], runs.said("terminated", 0)
    state = torch.load(runs.folder / "terminated run/checkpoint.pt")
    assert 1 <= state["step"] < 100_000 and len(state["history"]) == state["step"]
    for rank in 0, 1:
        err = runs.said("terminated", rank)
        assert f"ssd-cuda: terminated; wrote {runs.folder}" in err and f"after step {state['step']};" in err


def test_what_is_evaluated_is_what_is_written(runs):
    """Batch norms see other images in every process; those of the first one are the checkpoint's."""
    model, _ = load_model(runs.folder / "cli run/checkpoint.pt")
    shapes = data.ShapesDataset("test", length=8, size=(64, 64))
    scores = evaluate(model, shapes, workers=0, losses=True)
    with (runs.folder / "cli run/metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["val_localization"]) == pytest.approx(scores["loss"][0], rel=1e-5)
    assert float(row["val_classification"]) == pytest.approx(scores["loss"][1], rel=1e-5)
    assert runs.said("cli", 0, "out").splitlines()[-1].split()[2] == f"{scores['ap50']:.3f}"


def test_a_killed_process_ends_the_others_in_one_sentence(runs):
    statuses, seconds = runs.done["killed"]
    assert statuses == [1, -9] and seconds < 20 + 10
    (line,) = runs.said("killed", 0).splitlines()
    assert line.startswith(
        "ssd-cuda: error: process 0 lost the others, of which one ended or was silent for 20 s: "
    )


@pytest.mark.parametrize(
    ("name", "count", "sentence"),
    [
        ("selected", 2, "a loss that is divided by 'selected' cannot be cut into parts or over processes"),
        ("uneven", 3, "batch_size must be a multiple of 3 for 3 processes of 1 part each, got 8"),
    ],
)
def test_what_cannot_be_shared_is_one_sentence_of_each(runs, name, count, sentence):
    assert runs.statuses(name) == [1] * count
    for rank in range(count):
        (line,) = runs.said(name, rank).splitlines()
        assert line.startswith("ssd-cuda: error:") and sentence in line


# Without other processes


@pytest.mark.parametrize("share", [(2, 1), (1, 3), (3, 2)])
def test_the_shares_of_a_step_are_the_step(share):
    def batches(rank, processes, parts):
        generator = torch.Generator().manual_seed(5)
        sampler = StepSampler(26, 12, generator, 0, Share(rank, processes, parts))
        assert len(sampler) == 2 * parts
        return list(sampler)

    whole = batches(0, 1, 1)
    assert [len(batch) for batch in whole] == [12, 12]
    processes, parts = share
    shares = [batches(rank, processes, parts) for rank in range(processes)]
    for step in range(2):
        rows = [key for own in shares for batch in own[step * parts : (step + 1) * parts] for key in batch]
        assert rows == whole[step]


def test_the_seed_of_an_image_is_of_its_epoch():
    sampler = StepSampler(4, 4, torch.Generator(), 7, Share())
    seeds = [dict(next(iter(sampler)))]
    sampler.epoch = 1
    seeds.append(dict(next(iter(sampler))))
    assert len({seed for epoch in seeds for seed in epoch.values()}) == 8


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loop_that_names_no_epoch_sees_other_augmentation_in_every_pass(workers):
    dataset = data.prepare(data.ShapesDataset("train", length=8, size=(64, 64)), (64, 64), "flip")
    loader = data.BatchLoader(dataset, 8, train=True, workers=workers)
    passes = [{tuple(image.flatten().tolist()) for images, _ in loader for image in images} for _ in range(3)]
    assert passes[0] != passes[1] != passes[2] and len(set.union(*passes)) <= 16
    loader.set_epoch(0)
    assert passes[0] == {tuple(image.flatten().tolist()) for images, _ in loader for image in images}


class Drawn(torch.utils.data.Dataset):
    """Draws from each of the generators that augmentation of somebody else's may use."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = torch.rand(3, 1, 3)
        image[1], image[2] = random.random(), float(np.random.rand())
        none = torch.zeros(0, dtype=torch.bool)
        return image, {"boxes": BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(1, 3)),
                       "labels": none.long(), "crowd": none}  # fmt: skip


def test_what_numpy_and_python_draw_is_of_the_epoch_and_the_image_too():
    before = random.getstate(), np.random.get_state()[1].tolist()
    passes = []
    for workers in (0, 0, 1, 2):
        loader = data.BatchLoader(Drawn(), 2, train=True, workers=workers)
        loader.set_epoch(3)
        passes.append(torch.cat([images for images, _ in loader]))
    assert all(torch.equal(passes[0], other) for other in passes)
    assert [len(set(passes[0][:, channel, 0, 0].tolist())) for channel in range(3)] == [8, 8, 8]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # this process's own go on


def test_fewer_images_than_a_shared_step_are_refused():
    with pytest.raises(
        ValueError, match=r"at least batch_size = 8 images for 2 processes of 1 part each, got 7"
    ):
        Share(0, 2, 1).check(8, 7)


def test_no_images_are_refused(tmp_path):
    """A run of so many steps made none, for ever or to a division by 0."""
    loader = data.BatchLoader(data.PairsDataset([], ["cat"]), 2, train=True, workers=0)
    for config in (TrainConfig(batch_size=2), TrainConfig(batch_size=2, steps=3)):
        with pytest.raises(ValueError, match=r"^loader must have at least one image to train on, got none$"):
            train(loader, ModelSpec("ssd_small", ("cat",), (64, 64)), config, tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()


def test_one_process_alone_needs_no_others(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes(torch.device("cpu")) as processes:
        assert (processes.count, processes.gather(3), processes.from_first("x")) == (1, [3], "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("RANK", "1")
    sentence = "process 1 could not meet the others: .*MASTER_ADDR"
    with pytest.raises(ConnectionError, match=sentence), join_processes(torch.device("cpu")):
        pass


def test_a_loss_that_divides_by_all_processes_is_summed_once():
    model = ModelSpec("ssd_small", ("cat",), (64, 64)).build()
    model.loss_config = type(model.loss_config)(normalizer="global", clamp_normalizer=False)
    TrainStep(model, TrainConfig())
    assert model.loss_config.normalizer == "batch" and model.loss_config.clamp_normalizer
