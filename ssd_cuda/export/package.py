"""Models as packages of AOTInductor, which torch loads without any Python of this project."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .._extension import register_fake
from ..config import DetectConfig
from ..engine.outputs import check_no_folder, write_file
from .forms import Detecting
from .network import Network, describe, dtype_of, network_of

__all__ = ["to_pt2"]

# By default the weights come from an assembler file that asks for an executable stack, which glibc 2.41 and
# later refuse to a library that is loaded. Behind the library's end they ask for nothing.
_SETTINGS = {"aot_inductor.use_consts_asm_build": False, "aot_inductor.force_mmap_weights": True}


_MOST = 1024  # images in a batch


@register_fake("checked_input")
def _(input, **_):
    return input.new_empty(input.shape)


class _Checked(nn.Module):
    """The whole detection of inputs that are what it was compiled for.

    A package looks at nothing but the address: uint8 given as float, images of another size or photographs
    turned by ``permute`` gave boxes of what happened to lie there.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.detecting = Detecting(network)
        self.wants = [
            dict(name=name, size=list(like.shape[1:]), dtype=dtype_of(like), most=_MOST)
            for name, like in zip(network.inputs, network.example, strict=True)
        ]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        checked = torch.ops.ssd_cuda.checked_input
        return self.detecting(*(checked(x, **want) for x, want in zip(inputs, self.wants, strict=True)))


def to_pt2(
    model: nn.Module,
    path: str | Path,
    *,
    input: str = "float32",
    config: DetectConfig | None = None,
    classes: Sequence[str] | None = None,
    priors: Tensor | None = None,
    num_classes: int | None = None,
) -> Path:
    """Write ``model`` and its detection as a ``.pt2`` package, compiled for the device that the model is on.

    The ops in it are this package's own kernels. A process needs torch and the extension::

        torch.ops.load_library("ssd_cuda/_C....so")
        boxes, scores, labels, prior_indices, counts = torch._inductor.aoti_load_package("model.pt2")(images)

    Args:
        model, input, config, classes, priors, num_classes: as of :func:`to_onnx`.
        path: of the file; it must end in ``.pt2``.

    Returns:
        The path. ``get_metadata()["ssd_cuda"]`` of what is loaded is the JSON of :func:`to_onnx`.

    A post-process gives the bits of the module itself; the network's convolutions are compiled anew and round
    otherwise. Compiling takes a C++ compiler and minutes, for a card CUDA's headers too (``CUDA_HOME`` says
    where). Inputs of another dtype or size are an error, as are those that an op refuses; under torch 2.11
    a line on stderr, and the results None. They may lie in memory in any order; at most 1024 are a batch.

    Raises:
        ValueError, TypeError: as :func:`to_onnx`, but every rule of detection is taken.

    Example:
        >>> export.to_pt2(models.ssd_small(num_classes=4, image_size=(64, 64)), "model.pt2")
        Traceback (most recent call last):
        ValueError: model must be in eval() mode to be exported, got one in train() mode
    """
    path = Path(path)
    if path.suffix.lower() != ".pt2":
        raise ValueError(f"path must end in .pt2, got {path}")
    check_no_folder(path)
    network = network_of(
        model, input=input, config=config, classes=classes, priors=priors, num_classes=num_classes
    )
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    shapes = (tuple({0: batch} for _ in network.example),)
    settings = {**_SETTINGS, "aot_inductor.metadata": {"ssd_cuda": json.dumps(describe(network, "pt2"))}}
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(_Checked(network).eval(), network.example, dynamic_shapes=shapes)
        made = torch._inductor.aoti_compile_and_package(
            program, package_path=os.path.join(folder, "model.pt2"), inductor_configs=settings
        )
        content = Path(made).read_bytes()
    write_file(path, lambda file: file.write(content))
    return path
