"""Detection data: Pascal VOC folders, COCO json, built-in shapes, augmentation, batches."""

from .coco import CocoDataset
from .dataset import DetectionDataset
from .files import DataError
from .images import read_image
from .loading import (
    BatchLoader,
    CachedDataset,
    TransformedDataset,
    collate,
    data_splits,
    open_dataset,
    prepare,
)
from .pairs import PairsDataset, ground_truth_of
from .shapes import ShapesDataset
from .transforms import make_transform
from .voc import VocDataset

__all__ = [
    "BatchLoader",
    "CachedDataset",
    "CocoDataset",
    "DataError",
    "DetectionDataset",
    "PairsDataset",
    "ShapesDataset",
    "TransformedDataset",
    "VocDataset",
    "collate",
    "data_splits",
    "ground_truth_of",
    "make_transform",
    "open_dataset",
    "prepare",
    "read_image",
]
