"""Which images a step sees, however many processes and parts it is cut into.

The order of an epoch, and what the augmentation draws for an image in it, follow from the seed, the
epoch and the image alone. So a run goes on exactly where it was, also with another number of processes
or workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from .._names import counted

__all__ = ["SeededDataset", "Share", "StepSampler"]

Key = tuple[int, int]


class Share(NamedTuple):
    """Which part of every step a process takes, and in how many batches.

    Attributes:
        rank: of this process, from 0.
        processes: that share a step.
        parts: batches in which each takes its share.
    """

    rank: int = 0
    processes: int = 1
    parts: int = 1

    def check(self, batch_size: int, images: int) -> None:
        """Raise ``ValueError`` unless ``batch_size`` images can be cut into equal parts."""
        pieces = self.processes * self.parts
        cut = f"{counted(self.processes, 'process')} of {counted(self.parts, 'part')} each"
        if batch_size % pieces:
            raise ValueError(f"batch_size must be a multiple of {pieces} for {cut}, got {batch_size}")
        if pieces > 1 and images < batch_size:
            raise ValueError(
                f"there must be at least batch_size = {batch_size} images for {cut}, got {images}"
            )


class StepSampler(Sampler[list[Key]]):
    """Lists of (image, seed), one list a batch; the batches of a step are neighbours.

    Of ``n`` images a pass makes ``n // batch_size`` steps, or a single smaller one. Step t of the
    shuffled order has its images ``[t * batch_size, (t + 1) * batch_size)``; the processes take them in
    blocks, by rank.

    Args:
        images: how many there are.
        batch_size: images a step, over all processes and parts.
        generator: of the order; the loader gives it the seed of the epoch.
        seed: of the augmentation.
        share: see :class:`Share`.
    """

    def __init__(
        self, images: int, batch_size: int, generator: torch.Generator, seed: int, share: Share
    ) -> None:
        share.check(batch_size, images)
        self.images, self.batch_size, self.generator = images, batch_size, generator
        self.seed, self.share, self.epoch = seed, share, 0
        self.first = 0  # step of the next pass, whose steps before it were taken already
        self.steps = max(1, images // batch_size) if images else 0

    def __len__(self) -> int:
        return (self.steps - self.first) * self.share.parts

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, self.epoch = self.epoch, self.epoch + 1  # what a loop that names no epoch goes on with
        begin, self.first = self.first, 0
        order = torch.randperm(self.images, generator=self.generator, device="cpu").tolist()
        size = self.batch_size // (self.share.processes * self.share.parts)
        for step in range(begin, self.steps):
            first = step * self.batch_size + self.share.rank * self.share.parts * size
            for part in range(self.share.parts):
                rows = order[first + part * size : first + (part + 1) * size]
                yield [(index, _mix(self.seed, epoch, index)) for index in rows]


def _mix(*numbers: int) -> int:
    """A seed of 32 bits, all that torch's generator takes in, in which every bit of all numbers counts."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class SeededDataset(Dataset):
    """``dataset`` by keys of :class:`StepSampler`: the random numbers of a sample are those of its seed."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Key) -> Any:
        index, seed = key
        if get_worker_info() is not None:  # nothing else of that process is random
            _seed_all(seed)
            return self.dataset[index]
        before = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=[]):
                _seed_all(seed)
                return self.dataset[index]
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _seed_all(seed: int) -> None:
    """A data set of somebody else's may draw from any of the three."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
