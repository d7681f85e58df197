"""A run that goes on in another folder: what it takes along, and what it says where it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torchvision")

from tiny_model import tiny

from ssd_cuda import data
from ssd_cuda.data.sampling import Share
from ssd_cuda.engine.checkpoint import ModelSpec, load_checkpoint, save_checkpoint
from ssd_cuda.engine.train import TrainConfig, train
from ssd_cuda.engine.validation import Validation, best_row
from ssd_cuda.models import MODELS

SIZE = (64, 64)
CONFIG = TrainConfig(epochs=3, batch_size=2, warmup_steps=0, workers=0)


@pytest.fixture(autouse=True)
def looks(monkeypatch):
    """What the looks find, one after the other; nothing is evaluated."""
    found = [0.25, 0.5, 0.125]

    def look(self, trainer):
        row = dict(epoch=trainer.epoch, step=trainer.step, localization=1.0, classification=1.0)
        trainer.scores.append({**row, "ap50": found[trainer.epoch - 1], "map": 0.0})
        return best_row(trainer.scores) == len(trainer.scores) - 1

    monkeypatch.setitem(MODELS, "tiny", (tiny, None))
    monkeypatch.setattr(Validation, "look", look)
    return found


def run(folder, config=CONFIG, patience=None, **options):
    shapes = data.ShapesDataset("train", length=4, size=SIZE)
    loader = data.BatchLoader(data.prepare(shapes, SIZE), config.batch_size, train=True, workers=0)
    spec = ModelSpec("tiny", tuple(shapes.classes), SIZE)
    look = Validation(shapes, best=folder / "best.pt", patience=patience)
    return train(loader, spec, config, folder / "checkpoint.pt", validation=look, **options)


@pytest.mark.parametrize("name", ["checkpoint.pt", "best.pt"])
def test_the_best_checkpoint_comes_along(tmp_path, looks, name):
    first = tmp_path / "first"
    run(first)
    assert load_checkpoint(first / "best.pt")[1]["step"] == 4
    looks[2:] = [0.125] * 2
    longer = replace(CONFIG, epochs=4)
    run(tmp_path / "next", longer, resume=first / name, extend=True)
    run(tmp_path / "last", longer, resume=tmp_path / "next/checkpoint.pt")  # which has ended
    for folder in ("next", "last"):
        assert load_checkpoint(tmp_path / folder / "checkpoint.pt")[1]["step"] == 8
        assert (tmp_path / folder / "best.pt").read_bytes() == (first / "best.pt").read_bytes()


def test_a_best_checkpoint_that_is_not_there_is_told(tmp_path):
    """Beside a copy of the last checkpoint lies the best one of another run."""
    run(tmp_path / "first")
    spec, state = load_checkpoint(tmp_path / "first/checkpoint.pt")
    state["scores"][0]["ap50"] = 0.75
    alone = tmp_path / "alone/checkpoint.pt"
    save_checkpoint(alone, spec, state)
    alone.with_name("best.pt").write_bytes((tmp_path / "first/best.pt").read_bytes())
    sentence = r"best\.pt must wait for a look that is better than AP50 0\.750, that of step 2: "
    with pytest.warns(UserWarning, match=sentence):
        run(tmp_path / "next", resume=alone)
    assert not (tmp_path / "next/best.pt").exists()


def test_a_run_that_ended_by_its_patience_has_ended(tmp_path, looks):
    """A job that is resumed until it ends would train an epoch more each time."""
    looks[1:] = [0.125] * 3
    longer = replace(CONFIG, epochs=4)
    first, again = tmp_path / "first", tmp_path / "again"
    stopped = run(first, longer, patience=2, on_epoch=lambda trainer, _: trainer.epoch == 3)
    assert stopped.epoch == 3
    for folder in (first, again):
        with pytest.warns(
            UserWarning, match=r"has ended: no better AP50 in 2 looks; it goes on with a higher"
        ):
            resumed = run(folder, longer, patience=2, resume=first / "checkpoint.pt")
        assert resumed.epoch == 3
    assert (
        load_checkpoint(again / "checkpoint.pt")[1]["step"]
        == load_checkpoint(again / "best.pt")[1]["step"] * 3
    )
    assert run(again, longer, patience=3, resume=again / "checkpoint.pt").epoch == 4


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (1, 2)])
def test_images_of_the_steps_that_were_taken_are_not_read_again(tmp_path, workers, accumulate):
    """Half an epoch is half an hour of reading where an epoch is one."""

    class Noted(data.ShapesDataset):
        def __getitem__(self, index):
            with (tmp_path / "read").open("a") as file:
                file.write(f"{index} ")
            return super().__getitem__(index)

    def part(path, workers=0, **options):
        shapes = Noted("train", length=16, size=SIZE)
        share = Share(parts=accumulate)
        prepared = data.prepare(shapes, SIZE, cache=False)
        loader = data.BatchLoader(prepared, 2, train=True, workers=workers, share=share)
        spec = ModelSpec("tiny", tuple(shapes.classes), SIZE)
        config = replace(CONFIG, epochs=1, accumulate=accumulate)
        trainer = train(loader, spec, config, path, **options)
        read = (tmp_path / "read").read_text().split()
        (tmp_path / "read").unlink()
        return trainer, read

    whole, order = part(tmp_path / "whole.pt")
    asked = iter([False, False, True])
    begun, _ = part(tmp_path / "x.pt", stop=lambda: next(asked, True))
    assert (begun.step, begun.epoch) == (3, 0)
    done, rest = part(tmp_path / "x.pt", workers, resume=tmp_path / "x.pt")
    assert (done.step, done.epoch, done.history) == (8, 1, whole.history)
    assert rest == order[6:]
