"""Loads the compiled extension; explains, when an op is first called, why it cannot run.

``import ssd_cuda`` never fails for want of the extension: data, models and references work without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import _cards

Fn = TypeVar("Fn", bound=Callable[..., Any])

BUILD_HINT = "build it with 'pip install --no-build-isolation .' in the repository"

try:
    from . import _C  # type: ignore[attr-defined]
except ImportError as error:
    _C = None  # type: ignore[assignment]
    _load_error = f"{type(error).__name__}: {error}"
else:
    _load_error = ""
# What is wrong with SSD_CUDA_SIMD, told by the first op and by info.
_simd_problem: str = _C.simd_problem() if _C is not None and hasattr(_C, "simd_problem") else ""


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
    version of the build, or None), ``cuda_archs``, ``compiler``, ``simd`` (see :func:`simd_level`),
    ``simd_levels`` (what this processor has, best first), ``driver`` (the CUDA version that the driver is
    for, or None) and ``driver_problem`` (why it cannot run this build), ``gpus`` (a dict a card: ``name``,
    ``arch``, ``served``, and ``problem``, why its kernels cannot run). Never raises: what cannot be found out
    is None, or a sentence in ``problem``.

    Example:
        >>> facts = ssd_cuda.build_info()
        >>> facts["available"], facts["torch"] == torch.__version__
        (True, True)
    """
    built = _C.build_info() if _C is not None else {}
    archs = [arch for arch in built.get("cuda_archs", "").split(";") if arch]
    cuda = built.get("cuda") or None
    driver = _cards.driver_version()
    return {
        "available": is_available(),
        "error": _load_error or None,
        "torch": torch.__version__,
        "torch_built_with": built.get("torch"),
        "cuda": cuda,
        "cuda_archs": archs,
        "compiler": built.get("compiler"),
        "simd": _C.simd_level() if "simd_levels" in built else None,
        "simd_levels": [level for level in built.get("simd_levels", "").split(";") if level],
        "driver": "{}.{}".format(*driver) if driver else None,
        "driver_problem": _cards.driver_problem(cuda),
        "gpus": _cards.describe(cuda, archs),
    }


def simd_level() -> str:
    """The instruction set that the CPU kernels of this process use.

    ``"avx512"``, ``"avx2"`` or ``"baseline"`` (SSE2) on x86-64, ``"neon"`` on Arm. It is the best one of the
    processor unless the environment variable ``SSD_CUDA_SIMD`` names another when ssd_cuda is imported, or
    :func:`set_simd_level` does later. All of them give the same bits.

    Raises ValueError where ``SSD_CUDA_SIMD`` names no level of this processor, RuntimeError without the
    extension.

    Example:
        >>> ssd_cuda.simd_level() in ssd_cuda.build_info()["simd_levels"]
        True
    """
    if _load_error:
        raise RuntimeError(f"simd_level needs the compiled extension ({_load_error}): {BUILD_HINT}")
    if _simd_problem:
        raise ValueError(_simd_problem)
    return _C.simd_level()


def set_simd_level(level: str) -> None:
    """Use this instruction set in the CPU kernels of this process, on all its threads, from now on.

    ``level`` is one of ``build_info()["simd_levels"]``. For measurements and tests: every level gives the
    same bits. Raises ValueError for any other, RuntimeError without the extension.

    Example:
        >>> before = ssd_cuda.simd_level()
        >>> ssd_cuda.set_simd_level(ssd_cuda.build_info()["simd_levels"][-1])
        >>> ssd_cuda.set_simd_level(before)
    """
    global _simd_problem
    if _load_error:
        raise RuntimeError(f"set_simd_level needs the compiled extension ({_load_error}): {BUILD_HINT}")
    if not isinstance(level, str) or not _C.set_simd_level(level):
        levels = ", ".join(build_info()["simd_levels"])
        raise ValueError(f"level must be an instruction set of this processor ({levels}), got {level!r}")
    _simd_problem = ""


@functools.cache
def _cuda_problem(index: int) -> str | None:
    info = build_info()
    return _cards.problem(info["cuda"], info["cuda_archs"], torch.cuda.get_device_capability(index))


def require(op: str, *tensors: Tensor | None) -> None:
    """Raise unless the extension can run ``op`` on these tensors, which must share one device."""
    if _load_error:
        raise RuntimeError(f"ssd_cuda.{op} needs the compiled extension ({_load_error}): {BUILD_HINT}")
    if _simd_problem:
        raise ValueError(_simd_problem)
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


_eager: dict[str, Any] = {}  # by name, the functions of autograd that differentiable() calls


def _eager_function(name: str, backward: Callable, setup_context: Callable) -> type[torch.autograd.Function]:
    def forward(ctx, options, *inputs):
        output = getattr(torch.ops.ssd_cuda, name)(*inputs, **options)
        setup_context(ctx, inputs=inputs, keyword_only_inputs=options, output=output)
        return output

    def first_and(ctx, *grads):
        return None, *backward(ctx, *grads)

    members = {"forward": staticmethod(forward), "backward": staticmethod(first_and)}
    return type(f"Eager_{name}", (torch.autograd.Function,), members)


def is_transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad) is at work."""
    return torch._C._are_functorch_transforms_active()


def differentiable(name: str, options: dict[str, Any], *inputs: Tensor | None) -> Any:
    """What op ``name`` gives for these inputs and options, with its derivative.

    In plain eager mode by a function of autograd of our own around the op: what torch registers makes a list
    of the schema's arguments once for each of them, 0.25 ms where there are 33 and 0.4 ms where there are 44.
    """
    given = [t for t in inputs if t is not None]
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    plain = all(type(t) in (Tensor, torch.nn.Parameter) for t in given)
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if wanted and not traced and is_transformed():  # torch speaks of a method of a class that nobody has seen
        raise NotImplementedError(
            f"{name} has a derivative by autograd alone, got inputs that require one within a transform of "
            "torch.func (grad, vjp, vmap): use torch.autograd.grad or backward()"
        )
    if wanted and plain and not traced:
        return _eager[name].apply(options, *inputs)
    return getattr(torch.ops.ssd_cuda, name)(*inputs, **options)


def register_autograd(name: str, backward: Callable, setup_context: Callable, has_own: bool = True) -> None:
    """The backward of op ``name``, which calls the op ``<name>_backward`` (has_own) or that of another op;
    nothing without the extension.

    That op has no derivative itself: unless it says so, torch warns and leaves the second derivative out.
    """
    if not _has_op(name):
        return
    torch.library.register_autograd(f"ssd_cuda::{name}", backward, setup_context=setup_context)
    _eager[name] = _eager_function(name, backward, setup_context)

    if not has_own:
        return

    def refuse(ctx, *_):
        raise NotImplementedError(f"{name} has a first derivative only, got a backward through its gradient")

    nothing = {"setup_context": lambda ctx, **_: None}
    torch.library.register_autograd(f"ssd_cuda::{name}_backward", refuse, **nothing)
