"""Compares the fake kernel of every op of the library that runs with what the op gave."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


def _number(size, like: int) -> int:
    """A size; a symbol of the sizes of the inputs is the number it stands for here, and what depends on the
    data, which a fake kernel cannot know, is ``like``."""
    if isinstance(size, int):
        return size
    return size.node.hint if size.node.has_hint() else like


def _numbers(sizes, like):
    return tuple(map(_number, sizes, like))


def _assert_same_layout(name: str, fake, real) -> None:
    assert type(fake) is not type(None) or real is None, f"{name}: the fake kernel gives None"
    if not isinstance(real, torch.Tensor):
        assert type(fake) is type(real), f"{name}: {type(real)}, its fake kernel {type(fake)}"
        return
    assert isinstance(fake, torch.Tensor), f"{name}: a tensor, its fake kernel gives {fake}"
    assert fake.dim() == real.dim(), f"{name}: {real.shape}, its fake kernel {fake.shape}"
    facts = {
        "shape": (_numbers(fake.shape, real.shape), tuple(real.shape)),
        "dtype": (fake.dtype, real.dtype),
        "device": (fake.device, real.device),
        "strides": (_numbers(fake.stride(), real.stride()), real.stride()),
        "offset": (fake.storage_offset(), real.storage_offset()),
    }
    for fact, (told, true) in facts.items():
        assert told == true, f"{name}: {fact} {true}, its fake kernel tells {told}"


class FakesCompared(TorchDispatchMode):
    """While it is on, every op of the library also runs its fake kernel, on fake inputs of the same sizes,
    strides and dtypes: the results must agree in all of these. ``met``: the names of the ops that ran."""

    def __init__(self):
        super().__init__()
        self.met: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace != "ssd_cuda":
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        self.met.add(name)
        with FakeTensorMode(shape_env=ShapeEnv()) as mode:
            inputs = tree_map_only(torch.Tensor, mode.from_tensor, (args, kwargs))
            fakes = tree_leaves(func(*inputs[0], **inputs[1]))
        result = func(*args, **kwargs)
        reals = tree_leaves(result)
        assert len(fakes) == len(reals), f"{name}: {len(reals)} results, its fake kernel {len(fakes)}"
        for fake, real in zip(fakes, reals, strict=True):
            _assert_same_layout(name, fake, real)
        return result
