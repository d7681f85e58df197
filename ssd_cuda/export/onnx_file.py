"""Models as ONNX files."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._extras import require
from ..config import DetectConfig
from ..engine.outputs import check_no_folder, write_file
from .forms import FORMS
from .limits import check_rule
from .network import Network, describe, network_of
from .onnx_ops import OPSET, ONNXExportError, box_decode, detect, nms

__all__ = ["to_onnx", "translation_table"]


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The ops that ``torch.onnx.export`` can put into a graph: ``detect``, ``decode`` and ``nms``.

    Importing :mod:`ssd_cuda.export` makes them known to ``torch.onnx.export(dynamo=True)``; where a
    version of torch does not offer that, hand them over yourself:
    ``custom_translation_table=translation_table()``.

    Example:
        >>> sorted(str(op) for op in export.translation_table())
        ['ssd_cuda.box_decode.default', 'ssd_cuda.detect.default', 'ssd_cuda.nms.default']
    """
    ops = torch.ops.ssd_cuda
    return {ops.detect.default: detect, ops.box_decode.default: box_decode, ops.nms.default: nms}


def to_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    form: str = "nms",
    input: str = "float32",
    config: DetectConfig | None = None,
    classes: Sequence[str] | None = None,
    priors: Tensor | None = None,
    num_classes: int | None = None,
    opset: int = OPSET,
) -> Path:
    """Write ``model`` as an ONNX file whose batch size is free.

    Args:
        model: of :mod:`ssd_cuda.models`, a torchvision SSD (accelerated or not), or an
            :class:`ssd_cuda.nn.PostProcess` alone; a network in ``eval()`` mode.
        path: of the file.
        form: what comes behind the network. ``"nms"``: the whole detection, padded: ``boxes`` ``[B, K, 4]``,
            ``scores``, ``labels`` and ``prior_indices`` ``[B, K]``, ``counts`` ``[B]``, as
            :class:`~ssd_cuda.ops.Detections` has them, and ``landmarks`` ``[B, K, 10]`` where a model has
            any. ``"raw"``: ``boxes`` ``[B, P, 4]`` and ``scores`` ``[B, P, C]``, background included.
            ``"tensorrt"``: TensorRT's plugin EfficientNMS_TRT; what it cannot, :func:`remarks` says.
        input: of the images ``[B, 3, H, W]``, RGB: ``"float32"`` in [0, 1] (float16 of a model in half
            precision), or ``"uint8"``.
        config: rule of detection; None: the model's own.
        classes: names of labels 1, 2, ..., for the metadata.
        priors: ``[P, 4]``, of a PostProcess.
        num_classes: columns of ``conf``, of a PostProcess.
        opset: of the standard operators, 18 or later.

    Returns:
        The path. Its metadata (``ssd_cuda``, JSON) holds form, input, classes, priors and the rule.

    Boxes are in fractions of the image. Scores are the runtime's own softmax, and with ``pixel_offset``
    the sides are moved before they are measured: last bits may differ from ``model.detect``, and so the
    order of near-equal scores.

    Raises:
        ValueError: a rule that ONNX cannot express (soft-NMS; for ``"tensorrt"`` also ``iou_eps`` and
            others), a model in ``train()`` mode, of float64 or bfloat16, an opset that this torch does not
            write. TypeError: another kind of model.
        ImportError: no onnx or onnxscript.

    Example:
        >>> post_process = nn.PostProcess("torchvision")
        >>> priors = torch.rand(50, 4)
        >>> str(export.to_onnx(post_process, "/dev/null", priors=priors, num_classes=3))
        '/dev/null'
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}, got {form!r}")
    if not isinstance(opset, int) or opset < OPSET:
        raise ValueError(f"opset must be {OPSET} or later, got {opset!r}")
    newest = require("onnx", "an ONNX export").defs.onnx_opset_version()
    if opset > newest:
        raise ValueError(f"opset must be at most {newest}, the newest that onnx knows here, got {opset}")
    require("onnxscript", "an ONNX export")
    check_no_folder(path)
    network = network_of(
        model, input=input, config=config, classes=classes, priors=priors, num_classes=num_classes
    )
    check_rule(form, network.config)
    if any(parameter.dtype == torch.bfloat16 for parameter in network.module.parameters()):
        raise ValueError("model must not be bfloat16 for ONNX, whose runtimes have no such convolution")
    program = _export(network, form, opset)
    if program.model.opset_imports[""] != opset:  # told on stderr and done otherwise
        raise ValueError(f"opset must be one that torch {torch.__version__} writes, got {opset}")
    _forget_the_source(program.model)
    program.model.metadata_props["ssd_cuda"] = json.dumps(describe(network, form))
    content = program.model_proto.SerializeToString()
    write_file(path, lambda file: file.write(content))
    return Path(path)


def _export(network: Network, form: str, opset: int) -> Any:
    module = FORMS[form](network).eval()
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet(), torch.no_grad():
            return torch.onnx.export(
                module,
                network.example,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=(tuple({0: batch} for _ in network.example),),
                input_names=list(network.inputs),
                output_names=list(module.outputs),
                custom_translation_table=translation_table(),
                verbose=False,
            )
    except Exception as error:
        reason: BaseException | None = error
        while reason is not None:
            if isinstance(reason, ONNXExportError):
                raise ONNXExportError(str(reason)) from None
            reason = reason.__cause__
        raise


def _forget_the_source(model: Any) -> None:
    """The exporter notes which line of which file each node is from: of no use elsewhere, and nobody's
    business.
    """
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def _quiet() -> Any:
    """Without the exporter's remarks about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
