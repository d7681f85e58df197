"""Processes that load, and signals: who may end them, and that a program ends with them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

import pytest
from children import child

pytest.importorskip("torchvision")
pytest.importorskip("PIL")
if not hasattr(signal, "sigwaitinfo"):
    pytest.skip("nothing tells here who sent a signal", allow_module_level=True)

from ssd_cuda import cli, data
from ssd_cuda.data.sampling import SeededDataset
from ssd_cuda.engine.console import StopOnInterrupt


def loader(dataset, length=4):
    shapes = dataset("train", length=length, size=(64, 64))
    unchanged = data.TransformedDataset(shapes, lambda *sample: sample)
    return data.BatchLoader(unchanged, 2, train=True, workers=2)


class Told(data.ShapesDataset):
    """Each worker gets the signals that a terminal and a batch system send to all processes."""

    def __getitem__(self, index):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        return super().__getitem__(index)


def test_workers_leave_signals_to_the_training_process():
    with StopOnInterrupt() as stop:
        assert len(list(loader(Told))) == 2
    assert not stop()


def test_a_worker_ends_when_its_starter_says_so():
    batches = iter(loader(data.ShapesDataset, length=64))
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) >= 2
    try:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * len(workers)
        with pytest.raises(RuntimeError, match="DataLoader worker"):  # torch sees that they are gone
            list(batches)
    finally:
        for worker in workers:
            worker.kill()


def program(code):
    """Run as a script; a program that does not end fails the test."""
    head = """
import os
import signal
from ssd_cuda import data

def loader():
    shapes = data.ShapesDataset("train", length=64, size=(64, 64))
    return data.BatchLoader(data.TransformedDataset(shapes, lambda *sample: sample), 2, train=True, workers=2)
"""
    with child([sys.executable, "-c", head + code], text=True) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("end", ["", "raise RuntimeError('one of its own')"])
def test_a_program_ends_while_its_workers_wait(end):
    """With batches left, as a loop that is left early has it, and an error that nobody catches."""
    status, _, err = program(f"batches = iter(loader())\nnext(batches)\n{end}")
    assert status == (1 if end else 0) and ("one of its own" in err) == bool(end), err


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_as_a_worker_begins_is_left_alone(number):
    """Before the first line of it has run, when no handler can have been set."""
    code = f"""
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.{number}))
print(len(list(loader())))
"""
    assert program(code) == (0, "32\n", "")


def test_the_training_process_takes_its_signals_as_before():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    batches = iter(loader(data.ShapesDataset))
    next(batches)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert len(list(batches)) == 1


def test_a_worker_that_is_killed_is_one_sentence(capsys, tmp_path, monkeypatch):
    trainer = os.getpid()

    def killed(self, key):
        assert os.getpid() != trainer
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(SeededDataset, "__getitem__", killed)
    line = ["train", "--out", tmp_path / "run", "--size", 64, 64, "--device", "cpu", "--workers", 1]
    assert cli.main([str(word) for word in [*line, "--epochs", 1, "--warmup-steps", 0, "--no-eval"]]) == 1
    err = capsys.readouterr().err
    assert err.startswith("ssd-cuda: error: DataLoader worker") and err.count("\n") == 1
    assert err.endswith("; --workers 0 loads images without such processes\n")


def test_a_batch_without_room_in_shared_memory_is_one_sentence():
    """The limit on files holds for /dev/shm too, of which a container has 64 MB: a few large batches."""
    code = """
import resource
import sys
from ssd_cuda.engine.console import run_safely

class Full(data.ShapesDataset):
    def __getitem__(self, index):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        return super().__getitem__(index)

data.ShapesDataset = Full
sys.exit(run_safely(lambda: print(len(list(loader())))))
"""
    status, out, err = program(code)
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith("ssd-cuda: error: a batch must fit in shared memory (/dev/shm;")
    assert "File too large" in err and err.endswith("--workers 0 (workers=0) needs none\n")


def test_an_error_of_a_class_that_cannot_be_pickled_arrives():
    code = """
def failing(*sample):
    class Local(Exception):
        pass
    raise Local("no such image")

shapes = data.ShapesDataset("train", length=4, size=(64, 64))
list(data.BatchLoader(data.TransformedDataset(shapes, failing), 2, train=True, workers=1))
"""
    status, _, err = program(code)
    assert status == 1 and err.rstrip().endswith("Local: no such image"), err
    assert "RuntimeError: Caught RuntimeError in DataLoader worker process 0." in err


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="where open files can be counted")
def test_batches_that_are_kept_hold_no_files_open():
    """Each tensor of a worker is a file in memory: a pass that is kept met the usual limit of 1024."""
    kept, counts = [], []
    for batch in loader(data.ShapesDataset, length=64):
        kept.append(batch)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert len(kept) == 32 and max(counts[8:]) <= max(counts[:8])
