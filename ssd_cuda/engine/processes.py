"""The processes of one run, as ``torchrun`` starts them: who they are and what they tell each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from ..config import check_range

__all__ = ["ALONE", "Processes", "join_processes", "launched"]


@dataclass(frozen=True)
class Processes:
    """This process among those of its run.

    Attributes:
        rank: its number, from 0; number 0 writes and speaks.
        count: how many there are.

    Example:
        >>> Processes().is_first, Processes().sum(torch.tensor([2.0]))
        (True, tensor([2.]))
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, on the device; nothing waits for it."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` is true in any process."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(float(flag), device=device)).item())

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """``value`` of process 0."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]

    def copy_from_first(self, tensors: list[Tensor]) -> None:
        """Write those of process 0 over ``tensors``."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


ALONE = Processes()


def launched() -> bool:
    """Whether a launcher such as ``torchrun`` started this process as one of several.

    Example:
        >>> launched()
        False
    """
    count = os.environ.get("WORLD_SIZE", "1")
    return count.isdigit() and int(count) > 1


@contextlib.contextmanager
def join_processes(device: torch.device, timeout: float = 600.0) -> Iterator[Processes]:
    """Meet the other processes of the run, and part from them at the end; alone where none were launched.

    Args:
        device: of the run; NCCL joins cards, gloo CPUs.
        timeout: seconds after which a process that hears nothing from the others gives up.

    Raises:
        ValueError: a time-out below a second.
        ConnectionError: the others cannot be reached, or one of them ended.

    Example:
        >>> with join_processes(torch.device("cpu")) as processes:
        ...     processes.count
        1
    """
    check_range("timeout", timeout, 1.0, 10.0**6)
    if not launched():
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    rank = os.environ.get("RANK", "0")
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except (ValueError, RuntimeError) as error:
        raise ConnectionError(f"process {rank} could not meet the others: {_first_line(error)}") from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise ConnectionError(
            f"process {rank} lost the others, of which one ended or was silent for {timeout:.0f} s: "
            f"{_first_line(error)}"
        ) from error
    else:
        dist.barrier()
    finally:
        # After a failure NCCL would wait for the others; the end of the process closes what is open.
        if device.type != "cuda":
            dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    signs = ("gloo", "nccl", "connection", "timed out", "timeout", "socket")
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs)


def _first_line(error: Exception) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line.rpartition("] ")[2].partition(". ")[0][:160]
