"""The ops: validation, autograd and shapes over the kernels. One module per family."""

from .boxes import box_iou, decode, encode
from .ground_truth import GroundTruth
from .mining import TopK, select_hard_negatives, top_k_threshold

__all__ = [
    "GroundTruth",
    "TopK",
    "box_iou",
    "decode",
    "encode",
    "select_hard_negatives",
    "top_k_threshold",
]
