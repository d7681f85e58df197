"""The ops: validation, autograd and shapes over the kernels. One module per family."""

from .boxes import box_iou, decode, encode
from .detect import Detections, detect
from .diou_nms import diou_nms, diou_nms_padded
from .focal import focal_loss, focal_loss_on_targets
from .fusion import FusedBoxes, weighted_boxes_fusion
from .ground_truth import GroundTruth
from .landmarks import decode_landmarks
from .matching import BACKGROUND, IGNORED, match
from .matrix_nms import matrix_nms, matrix_nms_padded
from .mining import TopK, select_hard_negatives, top_k_threshold
from .multibox import MultiBoxLosses, multibox_loss, multibox_loss_on_targets, ssd_loss
from .nms import batched_nms, nms, nms_padded
from .nms_batch import nms_batch
from .priors import generate_priors, prior_variances
from .soft_nms import batched_soft_nms, soft_nms, soft_nms_padded

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "Detections",
    "FusedBoxes",
    "GroundTruth",
    "MultiBoxLosses",
    "TopK",
    "batched_nms",
    "batched_soft_nms",
    "box_iou",
    "decode",
    "decode_landmarks",
    "detect",
    "diou_nms",
    "diou_nms_padded",
    "encode",
    "focal_loss",
    "focal_loss_on_targets",
    "generate_priors",
    "match",
    "matrix_nms",
    "matrix_nms_padded",
    "multibox_loss",
    "multibox_loss_on_targets",
    "nms",
    "nms_batch",
    "nms_padded",
    "prior_variances",
    "select_hard_negatives",
    "soft_nms",
    "soft_nms_padded",
    "ssd_loss",
    "top_k_threshold",
    "weighted_boxes_fusion",
]
