"""Models as packages of AOTInductor, which torch loads without any Python of this project."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import DetectConfig
from ..engine.outputs import write_file
from .forms import Detecting
from .network import describe, network_of

__all__ = ["to_pt2"]

# By default the weights come from an assembler file that asks for an executable stack, which glibc 2.41 and
# later refuse to a library that is loaded. Behind the library's end they ask for nothing.
_SETTINGS = {"aot_inductor.use_consts_asm_build": False, "aot_inductor.force_mmap_weights": True}


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
    where). Inputs that an op refuses are an error; under torch 2.11 a line on stderr, and the results None.

    Raises:
        ValueError, TypeError: as :func:`to_onnx`, but every rule of detection is taken.

    Example:
        >>> export.to_pt2(models.ssd_small(num_classes=4, image_size=(64, 64)), "model.pt2")
        Traceback (most recent call last):
        ValueError: model must be in eval() mode to be exported, got one in train() mode
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"path must end in .pt2, got {path}")
    network = network_of(
        model, input=input, config=config, classes=classes, priors=priors, num_classes=num_classes
    )
    batch = torch.export.Dim("batch", min=1, max=1024)
    shapes = (tuple({0: batch} for _ in network.example),)
    settings = {**_SETTINGS, "aot_inductor.metadata": {"ssd_cuda": json.dumps(describe(network, "pt2"))}}
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(Detecting(network).eval(), network.example, dynamic_shapes=shapes)
        made = torch._inductor.aoti_compile_and_package(
            program, package_path=os.path.join(folder, "model.pt2"), inductor_configs=settings
        )
        content = Path(made).read_bytes()
    write_file(path, lambda file: file.write(content))
    return path
