"""``ssd-cuda export``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.console import say
from ..engine.files import refuse_inputs
from ..engine.outputs import check_folder
from .options import UsageError

HELP = "a checkpoint as a file for onnxruntime, OpenVINO, OpenCV, TensorRT or torch alone"
PARENTS = ()
_SUFFIXES = {"nms": ".onnx", "raw": ".onnx", "tensorrt": ".onnx", "pt2": ".pt2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="file that train or import wrote")
    parser.add_argument("--out", "-o", required=True, help="file to write: .onnx, or .pt2")
    parser.add_argument(
        "--form",
        choices=tuple(_SUFFIXES),
        help="nms: the whole detection (default of .onnx); raw: boxes and scores; "
        "tensorrt: EfficientNMS_TRT; pt2: a package of AOTInductor (default of .pt2)",
    )
    parser.add_argument(
        "--input",
        choices=("float32", "uint8"),
        default="float32",
        help="dtype of images (default: %(default)s)",
    )
    parser.add_argument("--threshold", type=float, help="lowest score (default: that of the model)")
    parser.add_argument("--detections", type=int, help="most detections an image")
    parser.add_argument("--opset", type=int, help="of ONNX (default: 18)")


def run(options: argparse.Namespace) -> None:
    from ..engine.checkpoint import load_model

    out = Path(options.out)
    form = options.form or ("pt2" if out.suffix.lower() == ".pt2" else "nms")
    if out.suffix.lower() != _SUFFIXES[form]:
        raise UsageError(f"--out must end in {_SUFFIXES[form]} for form {form}, got {out}")
    if form == "pt2" and options.opset is not None:
        raise UsageError(f"--opset is for ONNX, got {options.opset} for form pt2")
    refuse_inputs("--out", [out], [Path(options.checkpoint)])
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold must lie in [0, 1], got {options.threshold}")
    model, spec = load_model(options.checkpoint, "cpu")
    most = len(model.priors) * model.num_classes
    if options.detections is not None and not 1 <= options.detections <= most:
        raise UsageError(
            f"--detections must lie in [1, {most}], the priors times the classes, got {options.detections}"
        )
    given: dict[str, Any] = {"score_threshold": options.threshold, "detections_per_image": options.detections}
    config = replace(model.detect_config, **{name: v for name, v in given.items() if v is not None})
    check_folder("the folder of --out", out.parent)
    from .. import export

    common: dict[str, Any] = dict(input=options.input, config=config, classes=spec.classes)
    if form == "pt2":
        export.to_pt2(model, out, **common)
    else:
        given = {} if options.opset is None else {"opset": options.opset}
        export.to_onnx(model, out, form=form, **given, **common)
    say(f"wrote {out}: {form}, {out.stat().st_size / 1e6:.1f} MB, any batch of {_size(model)} images")
    say(*export.remarks(form, config))


def _size(model: Any) -> str:
    height, width = model.image_size
    return f"{width}x{height}"
