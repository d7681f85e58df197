"""Loads the compiled extension; explains, when an op is first called, why it cannot run.

``import ssd_cuda`` never fails for want of the extension: data, models and references work without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Fn = TypeVar("Fn", bound=Callable[..., Any])

BUILD_HINT = "build it with 'pip install --no-build-isolation .' in the repository"

try:
    from . import _C  # type: ignore[attr-defined]
except ImportError as error:
    _C = None  # type: ignore[assignment]
    _load_error = f"{type(error).__name__}: {error}"
else:
    _load_error = ""


def is_available() -> bool:
    """Whether the extension is loaded, that is, whether the ops can be called.

    Example:
        >>> ssd_cuda.is_available()
        True
    """
    return _C is not None and not _load_error


def _has_op(name: str) -> bool:
    """Whether the loaded binary defines the op; one built from older sources may not."""
    global _load_error
    if _C is None:
        return False
    if not hasattr(torch.ops.ssd_cuda, name):
        _load_error = f"it was built from older sources and lacks {name}"
        return False
    return True


def build_info() -> dict[str, Any]:
    """Facts of the build and of the running torch, as plain values.

    Keys: ``available``, ``error`` (why not), ``torch`` and ``torch_built_with``, ``cuda`` (the CUDA
    version of the build, or None), ``cuda_archs``, ``compiler``, ``simd`` (the level this processor
    runs), ``gpus`` (name, compute capability and whether the build serves it).

    Example:
        >>> facts = ssd_cuda.build_info()
        >>> facts["available"], facts["torch"] == torch.__version__
        (True, True)
    """
    built = _C.build_info() if _C is not None else {}
    archs = [arch for arch in built.get("cuda_archs", "").split(";") if arch]
    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            capability = torch.cuda.get_device_capability(index)
            name = torch.cuda.get_device_name(index)
            gpus.append(
                {"name": name, "arch": "{}.{}".format(*capability), "served": _serves(archs, capability)}
            )
    return {
        "available": is_available(),
        "error": _load_error or None,
        "torch": torch.__version__,
        "torch_built_with": built.get("torch"),
        "cuda": built.get("cuda") or None,
        "cuda_archs": archs,
        "compiler": built.get("compiler"),
        "simd": built.get("simd"),
        "gpus": gpus,
    }


def _serves(archs: list[str], capability: tuple[int, int]) -> bool:
    """A binary runs on its own major version from its minor on; PTX runs on everything newer."""
    for arch in archs:
        major, minor = (int(part) for part in arch.removesuffix("+PTX").split("."))
        if major == capability[0] and minor <= capability[1]:
            return True
        if arch.endswith("+PTX") and (major, minor) <= capability:
            return True
    return False


@functools.cache
def _cuda_problem(index: int) -> str | None:
    info = build_info()
    if info["cuda"] is None:
        return (
            "this build of ssd_cuda has CPU kernels only, but a tensor is on CUDA: rebuild with nvcc on PATH "
            "or FORCE_CUDA=1, or move the tensors to the CPU"
        )
    capability = torch.cuda.get_device_capability(index)
    if not _serves(info["cuda_archs"], capability):
        arch = "{}.{}".format(*capability)
        return (
            f"this build of ssd_cuda has kernels for {', '.join(info['cuda_archs'])}, but the card is "
            f"{arch}: rebuild with TORCH_CUDA_ARCH_LIST={arch}"
        )
    return None


def require(op: str, *tensors: Tensor | None) -> None:
    """Raise unless the extension can run ``op`` on these tensors, which must share one device."""
    if _load_error:
        raise RuntimeError(f"ssd_cuda.{op} needs the compiled extension ({_load_error}): {BUILD_HINT}")
    devices = {t.device for t in tensors if t is not None}
    if len(devices) > 1:
        names = ", ".join(sorted(str(device) for device in devices))
        raise ValueError(f"the tensors of {op} must be on one device, got {names}")
    device = next(iter(devices), torch.device("cpu"))
    if device.type == "cuda" and not torch.compiler.is_compiling():
        problem = _cuda_problem(device.index or 0)
        if problem:
            raise RuntimeError(f"ssd_cuda.{op}: {problem}")
    elif device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{op} runs on CPU and CUDA tensors, got a tensor on {device}")


def register_fake(name: str) -> Callable[[Fn], Fn]:
    """Decorator: the shapes of op ``name`` for torch.compile; nothing without the extension."""

    def decorate(fn: Fn) -> Fn:
        if _has_op(name):
            torch.library.register_fake(f"ssd_cuda::{name}")(fn)
        return fn

    return decorate


def register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    """The backward of op ``name``, which calls the op ``<name>_backward``; nothing without the extension.

    That op has no derivative itself: unless it says so, torch warns and leaves the second derivative out.
    """
    if not _has_op(name):
        return
    torch.library.register_autograd(f"ssd_cuda::{name}", backward, setup_context=setup_context)

    def refuse(ctx, *_):
        raise NotImplementedError(f"{name} has a first derivative only, got a backward through its gradient")

    nothing = {"setup_context": lambda ctx, inputs, output: None}
    torch.library.register_autograd(f"ssd_cuda::{name}_backward", refuse, **nothing)
