"""From a path to batches: recognise a data set, keep it in memory, collate it."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .._extras import require
from .._names import name_list
from ..ops.ground_truth import GroundTruth
from .coco import CocoDataset
from .dataset import DetectionDataset, RecordDataset, lies_outside
from .files import DataError, visible
from .sampling import SeededDataset, Share, StepSampler
from .shapes import ShapesDataset
from .transforms import CROPS, Transform, make_transform
from .voc import VocDataset, voc_splits
from .workers import begin_worker, held_in_children

Sample = tuple[Tensor, dict[str, Any]]

_EXPECTED = (
    "the word 'shapes', a Pascal VOC folder (ImageSets/Main, JPEGImages, Annotations) or a COCO folder "
    "(annotations/instances_<split>.json, or Roboflow's <split>/_annotations.coco.json)"
)
_ROBOFLOW = "_annotations.coco.json"


def _coco_files(root: Path) -> dict[str, Path]:
    """The annotation file of each split; ``instances_<split>.json`` goes before ``<split>.json``."""
    files = {path.parent.name: path for path in visible(root.glob(f"*/{_ROBOFLOW}"))}
    named = visible((root / "annotations").glob("*.json"))
    for path in sorted(named, key=lambda path: path.name.startswith("instances_")):
        files[path.stem.removeprefix("instances_")] = path
    return files


def _coco_images(root: Path, split: str, file: Path) -> list[Path]:
    """The folders that exist of those that a ``file_name`` may start from."""
    named = [root / split, root / "images" / split, root / "images", file.parent, root]
    folders = [folder for folder in dict.fromkeys(named) if folder.is_dir()]
    return [file.parent, *folders] if file.name == _ROBOFLOW else folders


def data_splits(path: str | Path) -> tuple[str, str]:
    """The names of the split to train on and of the split to test on, as far as the layout tells.

    VOC: ``trainval`` and ``test``, or else ``train`` and ``val``; COCO: the annotation files, or Roboflow's
    folders, whose names start with ``train`` and with ``test`` or else ``val``.

    Example:
        >>> data.data_splits("shapes")
        ('train', 'test')
    """
    found = _usual_splits(path)
    if found[0] and found[1]:
        return found[0], found[1]
    raise _missing_split(path, "a split to train on and one to test on (trainval and test, or train and val)")


def data_split(path: str | Path, role: Literal["train", "test"], advice: str = "") -> str:
    """The one of :func:`data_splits` that is to be trained on (``"train"``) or tested on, where the other is
    not needed: a folder may lack it.

    Args:
        advice: what the error ends in where the folder holds other splits.

    Example:
        >>> data.loading.data_split("shapes", "test")
        'test'
    """
    found = _usual_splits(path)[role == "test"]
    if found is not None:
        return found
    usual = "train on (trainval or train)" if role == "train" else "test on (test or val)"
    raise _missing_split(path, f"a split to {usual}", advice)


def _usual_splits(path: str | Path) -> tuple[str | None, str | None]:
    """A pair where there is one, so that what is trained on does not depend on whether it is tested."""
    if str(path) == "shapes":
        return "train", "test"
    names = _split_names(Path(path))
    if not is_voc_folder(path):
        train = next((name for name in names if name.startswith("train")), None)
        return train, next((name for name in names if name.startswith(("val", "test"))), None)
    for pair in (("trainval", "test"), ("train", "test"), ("train", "val")):
        if all(name in names for name in pair):
            return pair
    train = next((name for name in ("trainval", "train") if name in names), None)
    # Beside trainval, val is a part of it.
    return train, next((name for name in ("test", "val") if name in names and train is None), None)


def _split_names(root: Path) -> list[str]:
    return voc_splits(root) if is_voc_folder(root) else sorted(_coco_files(root))


def _missing_split(path: str | Path, what: str, advice: str = "") -> DataError:
    names = _split_names(Path(path))
    if names:
        return DataError(f"{path} must hold {what}, got {name_list(names)}{advice}")
    return DataError(f"{path} must be {_EXPECTED}, got {_contents(Path(path))}")


def _contents(root: Path) -> str:
    if not root.exists():
        return "a path that does not exist"
    if not root.is_dir():
        return "a file"
    names = sorted(child.name for child in root.iterdir())
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"a folder with {shown}" if names else "an empty folder"


def is_voc_folder(path: str | Path) -> bool:
    """Whether :func:`open_dataset` takes a path for a Pascal VOC folder."""
    return any((Path(path) / part).is_dir() for part in ("ImageSets", "Annotations"))


def open_dataset(path: str | Path, split: str, **options: Any) -> DetectionDataset:
    """The data set at ``path``, whichever layout it has.

    Args:
        path: ``"shapes"`` (built in), a Pascal VOC folder or a COCO folder:
            ``annotations/instances_<split>.json``, with ``file_name`` from ``<split>``, ``images/<split>``,
            ``images``, the json's folder or ``path``; or Roboflow's ``<split>/_annotations.coco.json``.
        split: see :func:`data_splits` for the usual ones of a path.
        options: passed on to :class:`ShapesDataset`, :class:`VocDataset` or :class:`CocoDataset`.

    Raises:
        DataError: nothing of the kind is there; the message says what was expected and found.

    Example:
        >>> data.open_dataset("shapes", "test", length=3).classes
        ('circle', 'square', 'triangle', 'star', 'cross')
    """
    if str(path) == "shapes":
        return ShapesDataset(split, **options)
    root = Path(path)
    if is_voc_folder(root):
        return VocDataset(root, split, **options)
    files = _coco_files(root)
    if files or (root / "annotations").is_dir():
        if split not in files:
            places = [str(f.relative_to(root)).removeprefix("annotations/") for f in files.values()]
            found = name_list(places) or "none"
            expected = root / "annotations" / f"instances_{split}.json"
            raise DataError(f"split {split!r} needs {expected}, which does not exist; files there: {found}")
        file = files[split]
        return CocoDataset(file, _coco_images(root, split, file), root=root, **options)
    raise DataError(f"{path} must be {_EXPECTED}, got {_contents(root)}")


def warn_if_empty(dataset: DetectionDataset, what: str) -> None:
    """Warn if no image of a data set that is to be trained on has an object, crowds and boxes outside
    of their image aside."""
    if isinstance(dataset, RecordDataset) and all(
        (record.crowd | lies_outside(record.boxes, record.size)).all() for record in dataset.records
    ):
        warnings.warn(f"{what} has no objects: the model will learn nothing but background", stacklevel=2)


class TransformedDataset(Dataset):
    """``dataset`` with every sample passed through ``transform``."""

    def __init__(self, dataset: Dataset, transform: Transform) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        image, target = self.dataset[index]
        return self.transform(image, target)


class ResizedDataset(DetectionDataset):
    """``dataset`` with its images at one ``size`` (height, width), and targets in pixels of these."""

    def __init__(self, dataset: DetectionDataset, size: tuple[int, int]) -> None:
        self.dataset, self.classes = dataset, dataset.classes
        self._resize = make_transform("none", size)

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> Tensor:
        return self[index][0]

    def target(self, index: int) -> dict[str, Any]:
        return self[index][1]

    def __getitem__(self, index: int) -> Sample:
        image, target = self._resize(*self.dataset[index])
        # One order of memory, as in a cache: a mean over pixels may round otherwise in another.
        tv_tensors = require("torchvision.tv_tensors", "a detection dataset")
        return tv_tensors.Image(image.contiguous(), device=image.device), target


class CachedDataset(DetectionDataset):
    """A ``ResizedDataset`` that is read once and kept in memory as one uint8 tensor.

    Args:
        dataset: what to read.
        size: (height, width) of the kept images.
        threads: that decode.
        progress: called as ``progress(iterator, total=n)``, like ``tqdm``; or None.

    Its targets are in pixels of the kept images; those of the stored ones are ``.dataset.target(i)``.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        size: tuple[int, int],
        *,
        threads: int = 2,
        progress: Callable[..., Any] | None = None,
    ) -> None:
        self.dataset, self.classes = dataset, dataset.classes
        resized = ResizedDataset(dataset, size)
        self.images = torch.empty((len(dataset), 3, *size), dtype=torch.uint8, device="cpu")  # [N, 3, H, W]
        self.targets: list[dict[str, Any]] = []

        def read(index: int) -> dict[str, Any]:
            self.images[index], target = resized[index]
            return target

        with ThreadPoolExecutor(threads) as pool:
            results = pool.map(read, range(len(dataset)))
            try:
                self.targets.extend(results if progress is None else progress(results, total=len(dataset)))
            finally:  # map does so where it is interrupted itself; Ctrl-C may come to the bar as well
                pool.shutdown(wait=False, cancel_futures=True)

    def __len__(self) -> int:
        return len(self.targets)

    def image(self, index: int) -> Tensor:
        tv_tensors = require("torchvision.tv_tensors", "a detection dataset")
        return tv_tensors.Image(self.images[index].clone(), device="cpu")

    def target(self, index: int) -> dict[str, Any]:
        return dict(self.targets[index])


def prepare(
    dataset: DetectionDataset,
    size: tuple[int, int],
    preset: str = "none",
    *,
    cache: bool | None = None,
    cache_limit: int = 1 << 30,
    progress: Callable[..., Any] | None = None,
) -> Dataset:
    """``dataset`` at ``size`` with the augmentation of ``preset``, in memory where that is sensible.

    With a preset that crops, images are brought to twice ``size`` first, because crops enlarge a part of
    them; in memory or not, so that a sample does not depend on how many images fit.

    Args:
        cache: None: in memory if it takes at most ``cache_limit`` bytes. False where it augments itself.
        progress: see :class:`CachedDataset`.

    Example:
        >>> dataset = data.open_dataset("shapes", "train", length=4)
        >>> image, target = data.prepare(dataset, (64, 64), "flip")[0]
        >>> image.shape
        torch.Size([3, 64, 64])
    """
    kept = (2 * size[0], 2 * size[1]) if preset in CROPS else size
    if cache is None:
        cache = len(dataset) * 3 * kept[0] * kept[1] <= cache_limit
    resized = CachedDataset(dataset, kept, progress=progress) if cache else ResizedDataset(dataset, kept)
    return TransformedDataset(resized, make_transform(preset, None if kept == size else size))


def collate(samples: Sequence[Sample]) -> tuple[Tensor, GroundTruth]:
    """A batch: float32 images ``[B, 3, H, W]`` in [0, 1], and their :class:`~ssd_cuda.ops.GroundTruth`.

    Boxes are divided by the width and height of the image, so that they live in [0, 1] like normalised
    priors. Crowd regions are left out; difficult objects are trained on, as in the original SSD.

    Example:
        >>> dataset = data.prepare(data.open_dataset("shapes", "train", length=2), (64, 64))
        >>> images, gt = data.collate([dataset[0], dataset[1]])
        >>> images.shape, gt.batch_size
        (torch.Size([2, 3, 64, 64]), 2)
    """
    images, gt = _collate_bytes(samples)
    return images.float().div_(255), gt


def _collate_bytes(samples: Sequence[Sample]) -> tuple[Tensor, GroundTruth]:
    """:func:`collate` before the images become floats: a quarter of the bytes to hand over."""
    shapes = {tuple(image.shape) for image, _ in samples}
    if len(shapes) != 1:
        raise ValueError(f"the images of a batch must have one shape, got {sorted(shapes)}; resize them")
    images = torch.stack([image.as_subclass(Tensor) for image, _ in samples])
    height, width = images.shape[2:]
    scale = torch.tensor([width, height, width, height], dtype=torch.float32, device="cpu")
    boxes, labels = [], []
    for _, target in samples:
        keep = ~target["crowd"]
        boxes.append(target["boxes"].as_subclass(Tensor)[keep] / scale)
        labels.append(target["labels"][keep])
    return images, GroundTruth.from_list(boxes, labels)


class BatchLoader:
    """Iterates over batches ``(images, GroundTruth)`` of :func:`collate`, on a device.

    Args:
        dataset: of :func:`prepare`, or any whose images have one size.
        batch_size: images of a batch.
        train: shuffle, and leave out the last, smaller batch (unless it is the only one).
        seed: of the order and, where ``train``, of the augmentation; see :meth:`set_epoch`.
        workers: processes that load ahead. With 0 the samples are made in this process, by as many
            threads as torch has, which costs more than it gains while another process wants the cores.
        device: where the batches go; images travel as bytes, from page-locked memory to a card.
        share: where ``train``: of several processes or parts, what this one loads; ``batch_size`` is
            then that of all of them. None: everything.

    Attributes:
        steps: steps of a pass; with several parts, each has as many batches.
        parts: batches of a step.

    Raises:
        ValueError: a batch size that cannot be shared evenly.

    Example:
        >>> dataset = data.prepare(data.open_dataset("shapes", "train", length=4), (64, 64))
        >>> [images.shape for images, gt in data.BatchLoader(dataset, 2, train=True, workers=0)]
        [torch.Size([2, 3, 64, 64]), torch.Size([2, 3, 64, 64])]
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        workers: int = 1,
        device: torch.device | str = "cpu",
        share: Share | None = None,
    ) -> None:
        self.seed, self.device = seed, torch.device(device)
        self._generator = torch.Generator().manual_seed(seed)
        images = len(dataset)  # type: ignore[arg-type]
        self.parts = share.parts if share else 1
        self._sampler = StepSampler(images, batch_size, self._generator, seed, share or Share())
        self.steps = self._sampler.steps if train else -(-images // batch_size)
        forks = workers > 0 and sys.platform == "linux"
        which: dict[str, Any] = {"batch_sampler": self._sampler} if train else {"batch_size": batch_size}
        self._loader: DataLoader = DataLoader(
            SeededDataset(dataset) if train else dataset,
            **which,
            num_workers=workers,
            worker_init_fn=begin_worker,
            collate_fn=_collate_bytes,
            generator=self._generator,
            pin_memory=self.device.type == "cuda",
            # A forked worker starts at once and shares the memory of a cached data set, so each pass
            # forks anew. Elsewhere a worker has to import torch first and is kept.
            multiprocessing_context="fork" if forks else None,
            persistent_workers=workers > 0 and not forks,
        )

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Give the next pass the order and augmentation of that epoch, without its first ``skip`` steps."""
        self._generator.manual_seed(self.seed + 1_000_003 * epoch)
        self._sampler.epoch, self._sampler.first = epoch, skip

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, GroundTruth]]:
        with held_in_children(), torch.device("cpu"):
            batches = iter(self._loader)  # which starts the workers
        while True:
            with torch.device("cpu"):  # of what torch makes by itself; not of what is done with a batch
                batch = next(batches, None)
            if batch is None:
                return
            images, gt = batch
            images = images.to(self.device, non_blocking=True).float().div_(255)
            gt = gt.to(self.device, non_blocking=True)
            # On a CPU these may still be a worker's, of which each tensor that is kept holds a file open.
            yield images, copy.deepcopy(gt) if self.device.type == "cpu" else gt
