"""Evaluation: detections of a whole data set in its own pixels, and their average precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from .._names import counted, name_list
from ..config import DetectConfig
from ..data import BatchLoader, DetectionDataset, prepare
from .metrics import Rule, coco_map, coco_modules, voc_ap
from .processes import ALONE, Processes

if TYPE_CHECKING:
    from ..models import SSD
    from ..ops import GroundTruth

__all__ = ["evaluate", "predict", "to_pixels"]


def to_pixels(detections: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """The detections of an image of ``size`` (height, width), from fractions of it to pixels, on the CPU.

    Example:
        >>> found = {"boxes": torch.tensor([[0.0, 0.0, 0.5, 1.0]]), "scores": torch.ones(1)}
        >>> to_pixels(found, (100, 200))["boxes"]
        tensor([[  0.,   0., 100., 100.]])
    """
    height, width = size
    moved = {key: value.cpu() for key, value in detections.items()}
    scale = torch.tensor([width, height], dtype=torch.float32, device="cpu")
    moved["boxes"] = moved["boxes"] * scale.repeat(2)
    if "extra" in moved:  # landmarks: x and y in turn
        moved["extra"] = moved["extra"] * scale.repeat(moved["extra"].shape[-1] // 2)
    return moved


def predict(
    model: SSD,
    dataset: DetectionDataset,
    *,
    batch_size: int = 8,
    config: DetectConfig | None = None,
    workers: int = 1,
    progress: Callable[..., Any] | None = None,
    processes: Processes = ALONE,
) -> list[dict[str, Tensor]]:
    """Detections per image: ``boxes`` [n, 4] in pixels of the stored image, ``scores`` [n], ``labels`` [n].

    Args:
        model: looked at in ``eval()`` mode, and left in its own.
        dataset: at its own image sizes; images are resized to the model's.
        batch_size: images at a time.
        config: rule of the post-process; None: the model's.
        workers: data loading processes.
        progress: ``tqdm`` or the like, or None.
        processes: that share the images; each calls this function and gets all detections.

    Example:
        >>> model = models.ssd_small(num_classes=6, image_size=(64, 64)).eval()
        >>> found = predict(model, data.open_dataset("shapes", "test", length=2), workers=0)
        >>> len(found), sorted(found[0])
        (2, ['boxes', 'labels', 'scores'])
    """
    return _run(model, dataset, batch_size, config, workers, progress, processes, losses=False)[0]


@contextlib.contextmanager
def _in_eval_mode(model: SSD) -> Iterator[None]:
    """In training, batch norms would take the images' own statistics, and those into the model."""
    before = [(module, module.training) for module in model.modules()]
    for module, _ in before:
        module.training = False
    try:
        yield
    finally:
        for module, training in before:  # frozen ones have a mode of their own
            module.training = training


def _run(
    model: SSD,
    dataset: DetectionDataset,
    batch_size: int,
    config: DetectConfig | None,
    workers: int,
    progress: Callable[..., Any] | None,
    processes: Processes,
    *,
    losses: bool,
) -> tuple[list[dict[str, Tensor]], list[float]]:
    """Detections of every image, and the (localization, classification) loss of all of them together."""
    # Batch norms have seen other images in every process; the first one's go into the checkpoint.
    processes.copy_from_first(list(model.buffers()))
    mine = range(processes.rank, len(dataset), processes.count)
    resized = Subset(prepare(dataset, model.image_size, cache=False), mine)
    batches: Any = BatchLoader(resized, batch_size, train=False, workers=workers, device=model.priors.device)
    if progress is not None:
        batches = progress(batches, desc="detect", leave=False)
    found: list[dict[str, Tensor]] = []
    sums = torch.zeros(3, dtype=torch.float64, device=model.priors.device)
    with _in_eval_mode(model), torch.no_grad():
        for images, gt in batches:
            if losses:
                loc, conf = model(images)
                sums += _loss_sums(model, loc, conf, gt)
                detected = model.detections_of(loc, conf, config)
            else:
                detected = model.detect(images, config)
            for detections in detected.to_list():
                found.append(to_pixels(detections, dataset.target(mine[len(found)])["size"]))
    shares = processes.gather(found)
    merged = [shares[i % processes.count][i // processes.count] for i in range(len(dataset))]
    localization, classification, divisor = processes.sum(sums).tolist()
    return merged, [localization / max(1.0, divisor), classification / max(1.0, divisor)]


def _loss_sums(model: SSD, loc: Tensor, conf: Tensor, gt: GroundTruth) -> Tensor:
    """[3]: both losses before they are divided, and the divisor: positives, or images where those divide."""
    losses = model.loss_of(loc, conf, gt)
    count = losses.num_positives.double()
    if model.loss_config.normalizer != "batch":
        count = torch.full_like(count, gt.batch_size)
    mass = count.clamp(min=1)
    return torch.stack([losses.localization.double() * mass, losses.classification.double() * mass, count])


def evaluate(
    model: SSD,
    dataset: DetectionDataset,
    *,
    batch_size: int = 8,
    workers: int = 1,
    rule: Rule = "area",
    progress: Callable[..., Any] | None = None,
    processes: Processes = ALONE,
    losses: bool = False,
) -> dict[str, Any]:
    """``ap50`` (VOC), ``map`` (COCO), and all numbers behind them.

    Args:
        rule: see :func:`~ssd_cuda.engine.metrics.voc_ap`; the others as for :func:`predict`.
        losses: also give ``loss``, the (localization, classification) loss over all images together.

    Returns:
        ``ap50``, ``map``; ``voc`` and ``coco``: the results of :func:`~ssd_cuda.engine.metrics.voc_ap` and
        :func:`~ssd_cuda.engine.metrics.coco_map`; ``predictions``: those of :func:`predict`.

    Raises:
        ValueError: a model with another number of classes than the data set has.
        ImportError: no pycocotools.

    Example:
        >>> model = models.ssd_small(num_classes=6, image_size=(64, 64)).eval()
        >>> sorted(evaluate(model, data.open_dataset("shapes", "test", length=2), workers=0))
        ['ap50', 'coco', 'map', 'predictions', 'voc']
    """
    if model.num_classes != dataset.num_classes:
        raise ValueError(
            f"the data set must have the {counted(model.num_classes - 1, 'class')} of the model, "
            f"got {len(dataset.classes)}: {name_list(dataset.classes)}"
        )
    coco_modules()
    predictions, loss = _run(model, dataset, batch_size, None, workers, progress, processes, losses=losses)
    targets = [dataset.target(index) for index in range(len(dataset))]
    voc = voc_ap(predictions, targets, dataset.classes, rule=rule)
    coco = coco_map(predictions, targets, dataset.classes)
    scores = {"ap50": voc["map"], "map": coco["map"], "voc": voc, "coco": coco, "predictions": predictions}
    return {**scores, "loss": loss} if losses else scores
