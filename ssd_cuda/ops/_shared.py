"""A tensor that is made once and used by later calls, in any mode and on any stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _python_dispatch

from .._extension import is_transformed


def is_tracing() -> bool:
    """Whether tensors that are made now may be no real ones, and so must not be kept: in a traced program,
    under a mode such as FakeTensorMode, or in a transform of torch.func, which wraps what is made in it."""
    if torch.compiler.is_compiling() or _python_dispatch.is_in_torch_dispatch_mode():
        return True
    return is_transformed()


@dataclass(frozen=True)
class SharedTensor:
    """A tensor that later calls return too, on whichever stream they come."""

    tensor: Tensor
    stream: torch.cuda.Stream | None = None  # that fills it; None on the CPU
    filled: torch.cuda.Event | None = None

    @staticmethod
    def made_by(make: Callable[[], Tensor]) -> SharedTensor:
        """The result of ``make``, fit for training even where inference mode is on now."""
        with torch.inference_mode(False), torch.no_grad():
            tensor = make()
            if tensor.is_inference():
                tensor = tensor.clone()
        if tensor.device.type != "cuda":
            return SharedTensor(tensor)
        stream = torch.cuda.current_stream(tensor.device)
        return SharedTensor(tensor, stream, stream.record_event())

    def for_current_stream(self) -> Tensor:
        """The tensor, once it is filled: another stream than the first waits for that, the host never.

        A stream that captures may not wait for work before its capture; the calls that warm it up have.
        """
        if self.filled is not None and not torch.cuda.is_current_stream_capturing():
            current = torch.cuda.current_stream(self.tensor.device)
            if current != self.stream:
                current.wait_event(self.filled)
                self.tensor.record_stream(current)  # should it be dropped while it is in use there
        return self.tensor
