"""The command line: ``ssd-cuda train | eval | detect | info | bench``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import __version__
from ._extension import build_info
from ._extras import require

if TYPE_CHECKING:
    from .engine.checkpoint import ModelSpec
    from .engine.train import TrainConfig, Trainer

__all__ = ["main", "run_safely"]


class UsageError(ValueError):
    """The command line asks for something that cannot be; one sentence."""


def run_safely(action: Callable[..., Any], *arguments: Any) -> int:
    """Call ``action``; what a user can mend becomes one sentence on stderr and the exit status 1."""
    warnings.showwarning = _show_warning
    try:
        action(*arguments)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return _complain(str(error) or type(error).__name__)
    except torch.cuda.OutOfMemoryError:
        return _complain("the card has too little memory for this batch; lower --batch-size")
    except RuntimeError as error:
        if not str(error).startswith("ssd_cuda"):  # not one of ours: a traceback tells more
            raise
        return _complain(str(error))
    except KeyboardInterrupt:
        print("\nssd-cuda: interrupted", file=sys.stderr)
        return 130
    return 0


def _complain(sentence: str) -> int:
    if "Original Traceback" in sentence:  # torch's report of a loading process; the cause is its last line
        sentence = sentence.strip().splitlines()[-1].partition(": ")[2]
    print(f"ssd-cuda: error: {' '.join(sentence.split())}", file=sys.stderr)
    return 1


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"ssd-cuda: warning: {message}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (2 for a command line that does not parse)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(given)
    if rest and options.command != "bench":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return run_safely(options.action, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssd-cuda", description="Train, evaluate and run single-shot detectors on fused kernels."
    )
    parser.add_argument("--version", action="version", version=f"ssd_cuda {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--data", default="shapes", help="a Pascal VOC or COCO folder, or 'shapes', built in (default)"
    )
    data.add_argument("--split", help="split of the data (default: what the folder names as one)")
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is a card)")
    run.add_argument("--batch-size", type=int, default=8, help="images at a time (default: %(default)s)")
    run.add_argument("--workers", type=int, default=1, help="data loading processes (default: %(default)s)")
    _add_train(commands, [data, run])

    evaluation = commands.add_parser("eval", parents=[data, run], help="average precision of a checkpoint")
    evaluation.add_argument("checkpoint", help="file that train wrote")
    evaluation.add_argument("--json", metavar="FILE", help="also write every number to FILE")
    evaluation.set_defaults(action=_eval)

    detect = commands.add_parser("detect", parents=[run], help="detections on images of your own")
    detect.add_argument("images", nargs="+", help="image files, or folders of them")
    detect.add_argument(
        "--checkpoint",
        "-c",
        default="runs/demo/checkpoint.pt",
        help="file that train wrote (default: %(default)s)",
    )
    detect.add_argument(
        "--out", "-o", default="runs/detect", help="folder, or with one image its file (default: %(default)s)"
    )
    detect.add_argument("--threshold", type=float, default=0.5, help="lowest score (default: %(default)s)")
    detect.add_argument("--json", metavar="FILE", help="also write the detections to FILE")
    detect.set_defaults(action=_detect)

    info = commands.add_parser("info", help="what was built, and what this machine runs")
    info.set_defaults(action=_info)
    bench = commands.add_parser(
        "bench", add_help=False, help="time the ops beside plain PyTorch and torchvision"
    )
    bench.set_defaults(action=_bench)
    return parser


def _add_train(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    train = commands.add_parser("train", parents=parents, help="train a detector; --resume goes on")
    train.add_argument("--out", default="runs/train", help="folder to write to (default: %(default)s)")
    train.add_argument("--model", default="ssd_small", help="ssd_small (default), ssd300_vgg16, ssd512_vgg16")
    train.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="image size (default: the model's, or 240 320)",
    )
    train.add_argument("--epochs", type=int, default=12, help="default: %(default)s")
    train.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    train.add_argument(
        "--augment", default="flip", choices=("none", "flip", "flips", "ssd"), help="default: %(default)s"
    )
    train.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    train.add_argument("--test-split", help="evaluated at the end (default: what the folder names as one)")
    train.add_argument("--no-eval", action="store_true", help="do not evaluate at the end")
    train.add_argument("--resume", metavar="CHECKPOINT", help="go on from there, with the same options")
    train.set_defaults(action=_train)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() and build_info()["cuda"] else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device must name a card of this machine ({torch.cuda.device_count()}), got {name!r}"
        )
    return device


def _check_counts(options: argparse.Namespace) -> None:
    for name, low in (("batch_size", 1), ("workers", 0)):
        if getattr(options, name) < low:
            raise UsageError(
                f"--{name.replace('_', '-')} must be at least {low}, got {getattr(options, name)}"
            )


def _progress() -> Callable[..., Any]:
    tqdm = require("tqdm", "a progress bar").tqdm
    return lambda items, **options: tqdm(items, disable=None, **{"leave": False, **options})


def _train(options: argparse.Namespace) -> None:
    from . import data
    from .engine.checkpoint import ModelSpec
    from .engine.train import TrainConfig, train
    from .models import MODELS

    _check_counts(options)
    device = _device(options.device)
    if options.model not in MODELS:
        raise UsageError(f"--model must be one of {', '.join(MODELS)}, got {options.model!r}")
    size = tuple(options.size) if options.size else (MODELS[options.model][1] or (240, 320))
    if min(size) < 1:
        raise UsageError(f"--size must be at least 1 pixel a side, got {size[0]} {size[1]}")
    config = TrainConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        augment=options.augment,
        seed=options.seed,
        workers=options.workers,
    )
    split = options.split or data.data_splits(options.data)[0]
    dataset = data.open_dataset(options.data, split)
    spec = ModelSpec(options.model, tuple(dataset.classes), size)
    progress = _progress()
    batches = data.BatchLoader(
        data.prepare(dataset, size, config.augment, progress=progress),
        config.batch_size,
        train=True,
        seed=config.seed,
        workers=config.workers,
        device=device,
    )
    checkpoint = Path(options.out) / "checkpoint.pt"
    print(
        f"training {spec.name} on {device}: {len(dataset)} images of {options.data} "
        f"({', '.join(dataset.classes)})"
    )
    trainer = train(
        batches,
        spec,
        config,
        checkpoint,
        resume=options.resume,
        device=device,
        progress=progress,
        on_epoch=lambda t, mean: print(f"epoch {t.epoch}/{config.epochs}  loss {mean:.3f}", flush=True),
    )
    _finish(options, trainer, checkpoint, config, spec)


def _finish(
    options: argparse.Namespace, trainer: Trainer, checkpoint: Path, config: TrainConfig, spec: ModelSpec
) -> None:
    from . import data
    from .engine.draw import save_loss_curve
    from .engine.evaluate import evaluate

    save_loss_curve(checkpoint.with_name("loss.png"), trainer.loss_rows())
    print(f"wrote {checkpoint} and loss.png beside it")
    if options.no_eval:
        return
    split = options.test_split or data.data_splits(options.data)[1]
    dataset = data.open_dataset(options.data, split, **_class_option(options.data, spec))
    _print_scores(
        evaluate(
            trainer.average,
            dataset,
            batch_size=config.batch_size,
            workers=config.workers,
            progress=_progress(),
        )
    )


def _class_option(path: str, spec: ModelSpec) -> dict[str, Any]:
    """A VOC folder's classes are what its annotations name: hold it to those of the model."""
    return {"classes": spec.classes} if (Path(path) / "ImageSets").is_dir() else {}


def _eval(options: argparse.Namespace) -> None:
    from . import data
    from .engine.checkpoint import load_model
    from .engine.evaluate import evaluate

    _check_counts(options)
    model, spec = load_model(options.checkpoint, _device(options.device))
    split = options.split or data.data_splits(options.data)[1]
    dataset = data.open_dataset(options.data, split, **_class_option(options.data, spec))
    if tuple(dataset.classes) != spec.classes:
        raise UsageError(
            f"--data must have the classes of the checkpoint, {', '.join(spec.classes)}, "
            f"got {', '.join(dataset.classes)}"
        )
    scores = evaluate(
        model, dataset, batch_size=options.batch_size, workers=options.workers, progress=_progress()
    )
    scores.pop("predictions")
    _print_scores(scores)
    if options.json:
        _write_json(options.json, scores)


def _print_scores(scores: dict[str, Any]) -> None:
    voc, coco = scores["voc"], scores["coco"]
    width = max(len(name) for name in [*voc["ap"], "class"])
    print(f"{'class':<{width}}  objects   AP50  mAP 50-95")
    for name, value in voc["ap"].items():
        print(f"{name:<{width}}  {voc['objects'][name]:>7}  {value:.3f}  {coco['ap'][name]:>9.3f}")
    print(
        f"{'mean':<{width}}  {sum(voc['objects'].values()):>7}  {scores['ap50']:.3f}  {scores['map']:>9.3f}"
    )


def _detect(options: argparse.Namespace) -> None:
    from .engine.checkpoint import load_model
    from .engine.files import image_files, picture_paths

    _check_counts(options)
    if not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold must lie in [0, 1], got {options.threshold}")
    files = image_files(options.images)
    pictures = picture_paths(files, Path(options.out))
    model, spec = load_model(options.checkpoint, _device(options.device))
    found: list[dict[str, Any]] = []
    starts = range(0, len(files), options.batch_size)
    for start in _progress()(starts, desc="detect"):
        batch = files[start : start + options.batch_size]
        found += _detect_batch(model, spec, batch, pictures, options.threshold)
    for row in found:
        print(f"{row['image']}: {len(row['detections'])} detections")
    print(f"wrote {len(files)} picture{'s' * (len(files) != 1)} to {options.out}")
    if options.json:
        _write_json(options.json, found)


def _detect_batch(
    model: Any, spec: ModelSpec, files: list[Path], pictures: dict[Path, Path], threshold: float
) -> list[dict[str, Any]]:
    """Detect on a few files, write their pictures, return what was found in pixels of each."""
    from .data import read_image
    from .engine.draw import draw_detections
    from .engine.evaluate import to_pixels

    resize = require("torchvision.transforms.v2.functional", "resizing images").resize
    images = [read_image(path).as_subclass(torch.Tensor) for path in files]
    batch = torch.stack([resize(image, list(model.image_size), antialias=True) for image in images])
    rows = []
    detections = model.detect(batch.to(model.priors.device)).to_list()
    for path, image, fractions in zip(files, images, detections, strict=True):
        result = to_pixels(fractions, (image.shape[1], image.shape[2]))
        picture = draw_detections(image, result, spec.classes, min_score=threshold)
        pictures[path].parent.mkdir(parents=True, exist_ok=True)
        picture.save(pictures[path])
        boxes, scores, labels = (result[key].tolist() for key in ("boxes", "scores", "labels"))
        chosen = [
            {"box": [round(v, 2) for v in box], "score": round(score, 4), "class": spec.classes[label - 1]}
            for box, score, label in zip(boxes, scores, labels, strict=True)
            if score >= threshold
        ]
        rows.append({"image": str(path), "detections": chosen})
    return rows


def _write_json(path: str, content: Any) -> None:
    from .engine.report import without_nan

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(without_nan(content), indent=2) + "\n")


def _info(_: argparse.Namespace) -> None:
    facts = build_info()
    gpus = [
        f"{gpu['name']} ({gpu['arch']}, {'served' if gpu['served'] else 'NOT served by this build'})"
        for gpu in facts["gpus"]
    ]
    rows = [
        ("ssd_cuda", __version__),
        ("extension", "loaded" if facts["available"] else f"not loaded: {facts['error']}"),
        ("torch", facts["torch"]),
        ("built with torch", facts["torch_built_with"] or "-"),
        ("CUDA of the build", facts["cuda"] or "none, CPU kernels only"),
        ("architectures", ", ".join(facts["cuda_archs"]) or "-"),
        ("compiler", facts["compiler"] or "-"),
        ("CPU instructions", facts["simd"] or "-"),
        ("CPU threads", str(torch.get_num_threads())),
        ("cards", "; ".join(gpus) or "none"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _bench(options: argparse.Namespace) -> None:
    root = Path(__file__).parents[1]
    if not (root / "benchmarks").is_dir():
        raise UsageError(
            f"bench needs the folder benchmarks of the source tree, which {root} does not hold; "
            "run it in a clone of the repository"
        )
    sys.path.insert(0, str(root))
    if status := importlib.import_module("benchmarks.__main__").main(options.rest):
        raise SystemExit(status)
