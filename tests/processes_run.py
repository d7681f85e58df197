"""Runs of one and of several processes for ``test_processes.py``: ``python processes_run.py FOLDER``.

The interpreter imports torch once and forks for every process, as a launcher would start them. What each
leaves behind lies in FOLDER.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib.figure
import pycocotools.cocoeval
import torch
import torch._dynamo
import torchvision.transforms.v2
import tqdm
from tiny_model import tiny
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torchvision import tv_tensors

from ssd_cuda import cli, data
from ssd_cuda.data.sampling import Share
from ssd_cuda.engine.checkpoint import ModelSpec
from ssd_cuda.engine.console import run_safely
from ssd_cuda.engine.processes import join_processes
from ssd_cuda.engine.train import TrainConfig, train
from ssd_cuda.engine.validation import Validation
from ssd_cuda.models import MODELS

# Imported once, before the processes part.
IMPORTED = (matplotlib.figure, pycocotools.cocoeval, torch._dynamo, torchvision.transforms.v2, tqdm)
SIZE = (64, 64)
CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=2,
    batch_size=8,
    optimizer="sgd",
    lr=0.05,
    warmup_steps=0,
    augment="flips",
    workers=0,
    min_negatives=3,
)
CONFIG_SHORT = replace(CONFIG, epochs=1)


for normalizer in ("batch", "per_image", "selected"):
    MODELS[f"tiny {normalizer}"] = (lambda n, s, kind=normalizer: tiny(n, s, kind), None)


class WithBlanks(data.ShapesDataset):
    """Every third image has no objects, so that a share of a step may have none at all."""

    def target(self, index):
        return blank(super().target(index)) if index % 3 == 0 else super().target(index)

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image, blank(target) if index % 3 == 0 else target


def blank(target):
    none = {k: v[:0] if isinstance(v, torch.Tensor) else v for k, v in target.items()}
    return none | {"boxes": tv_tensors.wrap(none["boxes"], like=target["boxes"])}


def dataset(split):
    return WithBlanks(split, length=20 if split == "train" else 7, size=SIZE)


def run(path, *, config=CONFIG, kind="batch", end=None, resume=None, die=None, look=False):
    """One run of this process; ``end`` stops it after that many steps."""
    with join_processes(CPU, timeout=20) as processes:
        shapes = dataset("train")
        loader = data.BatchLoader(
            data.prepare(shapes, SIZE, config.augment), config.batch_size, train=True, seed=config.seed,
            workers=config.workers, share=Share(processes.rank, processes.count, config.accumulate),
        )  # fmt: skip
        asked = iter(range(1, 100))

        def stop():
            step = next(asked)
            if die == (processes.rank, step):
                os.kill(os.getpid(), signal.SIGKILL)
            return processes.rank == processes.count - 1 and end is not None and step >= end  # one is asked

        trainer = train(
            loader, ModelSpec(f"tiny {kind}", tuple(shapes.classes), SIZE), config, path, resume=resume,
            processes=processes, stop=stop,
            validation=Validation(dataset("test"), workers=0, batch_size=2) if look else None,
        )  # fmt: skip
        left = {"state": trainer.state(), "rank": processes.rank, "config": asdict(trainer.model.loss_config)}
        torch.save(left, f"{path}.{processes.rank}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(count, action, log):
    """``action`` in ``count`` processes that know of each other; their exit statuses and the seconds it
    took."""
    port = free_port()
    start, children = time.monotonic(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            os.environ.update(
                RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
            )  # fmt: skip
            for number, kind in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{log}.{kind}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            status = 99
            try:
                status = run_safely(action)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return statuses, time.monotonic() - start


def machines(path):
    """Two launchers with a process each, as ``torchrun --nnodes 2`` on two machines; their statuses."""
    port, children = free_port(), []
    for number in range(2):
        child = os.fork()
        if child == 0:
            status = 99
            try:
                os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                config = LaunchConfig(
                    min_nodes=2, max_nodes=2, nproc_per_node=1, run_id="machines", rdzv_backend="c10d",
                    rdzv_endpoint=f"127.0.0.1:{port}", local_addr="127.0.0.1", max_restarts=0,
                    monitor_interval=0.1, start_method="fork",
                )  # fmt: skip
                elastic_launch(config, run)(path)
                status = 0
            except BaseException:  # told as launch() tells it
                path.with_name(f"{path.name}.err.{number}").write_text(traceback.format_exc())
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], 0.0


def terminate_after(path):
    """SIGTERM for this process once ``path`` is there."""
    while not path.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder):
    torch.set_num_threads(1)
    done = {}

    def go(name, count, **options):
        done[name] = launch(count, lambda: run(folder / name, **options), folder / name)

    go("one", 1, look=True)
    go("two", 2, look=True)
    go("four", 4, look=True)
    go("per image", 1, kind="per_image", config=CONFIG_SHORT)
    go("per image, two", 2, kind="per_image", config=CONFIG_SHORT)
    go("parts", 1, config=replace(CONFIG, accumulate=4))
    go("parts of two, workers", 2, config=replace(CONFIG, accumulate=2, workers=1))
    go("ended", 2, end=4)
    go("resumed by four", 4, resume=folder / "ended")
    go("selected", 2, kind="selected")
    go("uneven", 3)
    go("killed", 2, die=(1, 2))
    done["machines"] = machines(folder / "machines")
    real = data.open_dataset
    data.open_dataset = lambda path, split, **o: real(path, split, length=8, size=SIZE, **o)
    line = [
        "train", "--out", folder / "cli run", "--size", 64, 96, "--device", "cpu", "--workers", 0,
        "--epochs", 1, "--batch-size", 4, "--eval-every", 1,
    ]  # fmt: skip
    done["cli"] = launch(2, lambda: cli.main([str(word) for word in line]), folder / "cli")
    long = [*line, "--out", folder / "terminated run", "--epochs", 100_000]

    def terminated():
        if os.environ["RANK"] == "1":  # it alone is told, as by `kill`
            threading.Thread(target=terminate_after, args=[folder / "terminated run/metrics.csv"]).start()
        return cli.main([str(word) for word in long])

    done["terminated"] = launch(2, terminated, folder / "terminated")
    torch.save(done, folder / "done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
