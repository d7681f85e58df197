"""The ops: validation, autograd and shapes over the kernels. One module per family."""

from .boxes import box_iou, decode, encode
from .ground_truth import GroundTruth

__all__ = ["GroundTruth", "box_iou", "decode", "encode"]
