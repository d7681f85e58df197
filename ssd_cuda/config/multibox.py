"""The options of matching, mining and the MultiBox loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checks import BoxFormat, check_integer, check_range, check_variances
from .options import HasPresets, Options

__all__ = ["MatchConfig", "MiningConfig", "MultiBoxConfig"]


@dataclass(frozen=True)
class MatchConfig(Options):
    """How ground truths and priors find each other.

    Attributes:
        iou_threshold: a prior whose best IoU reaches this is matched to that ground truth.
        inclusive: True compares with ``>=`` (torchvision, amdegroot), False with ``>`` (NVIDIA, DALI).
        iou_eps: added to the union (1e-5 in lufficc and qfgaohao), 0 elsewhere.
        forced: what a ground truth is owed whatever its IoU. ``"argmax"``: its best prior, and where
            several share one the last wins; ``"bipartite"``: the greedy global assignment of caffe,
            which gives distinct priors; ``"none"``: nothing.
        forced_min_iou: a ground truth whose best IoU does not reach this (``"argmax"``: ``>=``;
            ``"bipartite"``: ``>``, caffe's strict test) is not forced. 0 with ``"argmax"`` forces all.
        relabel_unforced: with ``"argmax"``: a ground truth that is not forced still takes over its best
            prior where that prior is matched anyway (RetinaFace's loop runs over all of them).
        tie: ``"first"``: lowest prior, lowest ground truth (torch); ``"last"``: highest (DALI).
        candidate_max_iou: an unmatched prior whose best IoU is at least this is no candidate for
            mining: its code is IGNORED. None: every unmatched prior is background.
        degenerate: a ground truth that is not finite or has no positive width and height is matched
            like any other (``"keep"``) or matches nothing (``"ignore"``).
        prior_format: how the rows of ``priors`` are written.

    Example:
        >>> ssd_cuda.MatchConfig(iou_threshold=0.35, forced="bipartite").inclusive
        True
    """

    iou_threshold: float = 0.5
    inclusive: bool = True
    iou_eps: float = 0.0
    forced: Literal["none", "argmax", "bipartite"] = "argmax"
    forced_min_iou: float = 0.0
    relabel_unforced: bool = False
    tie: Literal["first", "last"] = "first"
    candidate_max_iou: float | None = None
    degenerate: Literal["keep", "ignore"] = "ignore"
    prior_format: BoxFormat = "cxcywh"

    def _check(self) -> None:
        check_range("iou_threshold", self.iou_threshold, 0.0, 1.0)
        check_range("iou_eps", self.iou_eps, 0.0)
        check_range("forced_min_iou", self.forced_min_iou, 0.0, 1.0)
        if self.candidate_max_iou is not None:
            check_range("candidate_max_iou", self.candidate_max_iou, 0.0, 1.0)


@dataclass(frozen=True)
class MiningConfig(Options):
    """Which negatives count: of an image or a batch the ``k`` hardest, ``(key descending, index ascending)``.

    ``k = max(min_negatives, round(ratio * positives))``, cut at the number of rows that ``cap`` names.

    Attributes:
        ratio: negatives per positive.
        rounding: ``"floor"`` is ``int(ratio * n)``, ``"ceil"`` is ``rank < ratio * n`` (torchvision).
        min_negatives: negatives an image gives even when it has no positive.
        cap: ``"all"`` cuts k at P, ``"all_but_one"`` at P - 1 (seed, amdegroot), ``"negatives"`` at the
            number of candidates.
        scope: what is ranked together. ``"image"``: each image gives k rows; ``"batch"``: one k follows from
            the positives of all images (of this process) and is taken wherever the hardest rows are, ties
            in the order of the images, then the priors; P is then all rows of the batch.
        key: hardness of a negative: its loss ``"ce"``, with class weights and smoothing as it counts, or
            ``"background"`` = -log p_background alone. Without weights and smoothing both are one
            number; with weights alone they differ by the factor of the background, so that a weight of 0
            leaves ``"ce"`` nothing to rank by but the index.
        positive_fill: key of a positive row: ``"zero"`` lets it be selected among zeros (the union with
            the positives makes that harmless), ``"-inf"`` ranks it behind every negative.
        count_positives_twice: torchvision's quirk: a positive that is selected as a negative is
            counted a second time (also the seed, among its zeros). Needs a cap other than ``"negatives"``.

    Example:
        >>> ssd_cuda.MiningConfig(ratio=7.0, min_negatives=10).cap
        'negatives'
    """

    ratio: float = 3.0
    rounding: Literal["floor", "ceil"] = "floor"
    min_negatives: int = 0
    cap: Literal["all", "all_but_one", "negatives"] = "negatives"
    key: Literal["ce", "background"] = "ce"
    scope: Literal["image", "batch"] = "image"
    positive_fill: Literal["zero", "-inf"] = "-inf"
    count_positives_twice: bool = False

    def _check(self) -> None:
        check_range("ratio", self.ratio, 0.0)
        check_integer("min_negatives", self.min_negatives, 0)


@dataclass(frozen=True)
class MultiBoxConfig(HasPresets, presets="MULTIBOX"):
    """The whole MultiBox loss: matching, coding, mining, both terms and their normaliser.

    Attributes:
        match: see :class:`MatchConfig`.
        mining: see :class:`MiningConfig`.
        variances: the two (centre, size) or four (x, y, w, h) divisors of the box code.
        loc_loss: of the code of a matched prior ``"smooth_l1"`` or ``"l1"``, summed over its numbers; or of
            the box that it decodes to ``"giou"``, ``"diou"`` or ``"ciou"``, one number a prior, as
            torchvision.ops' losses of the same names have it. The box is not clipped
            and its size not clamped; where the code is of no finite box, the loss is nan.
        beta: where smooth L1 turns from quadratic to linear.
        label_smoothing: e of torch's cross_entropy, at least 0 and below 1: the target of a row is 1 - e
            for its class and e / C spread over all C classes, each times its weight if there are
            ``class_weights``.
        loc_reduction: ``"sum"`` over the coordinates, or ``"mean4"``, their mean (sgrvinod).
        normalizer: ``"batch"``: positives of the batch; ``"per_image"``: positives of each image, images
            without any give 0, then the mean over the batch (NVIDIA); ``"selected"``: positives plus
            selected negatives (mxnet); ``"global"``: positives over all processes of a group (gluon;
            DistributedDataParallel averages gradients, so multiply the losses by the number of processes);
            ``"batch_min_one"``: the sum over the images of max(1, positives) (mmdet).
        clamp_normalizer: True divides by at least 1; False lets a batch without a positive give nan, as
            the codebases named in the presets do. A batch without images is 0 under every normaliser.
        loc_weight: factor of the localisation loss.
        background: index of the background class, ``"first"`` or ``"last"`` (mmdet).
        label_offset: added to every label before use (amdegroot's labels start at 0).
        ignore_label: priors matched to this label (as given, before the offset) are neither positive nor
            negative. None: no such label.
        ignored_key: what a prior that is neither positive nor negative is to the mining. ``"none"``: not
            ranked; ``"zero"``: ranked like a loss of 0 (seed: torch's cross entropy of an ignored class;
            RefineDet), so it may take a place among the zeros, and yet counts nowhere. Needs a cap other
            than ``"negatives"`` and ``positive_fill="zero"``.
        single_class: every positive prior has class 1, whatever its label (RetinaFace's -1).
        zero_label: what a matched label equal to the background (after the offset) is. ``"positive"``:
            counts as one everywhere; ``"localize"``: in the normaliser and the localisation loss only,
            and is mined as a negative (torchvision); ``"background"``: a negative like any other
            (codebases that test ``label > 0``).
        layout: of the logits, ``"bpc"`` = [B, P, C] and loc [B, P, 4], ``"bcp"`` = [B, C, P], [B, 4, P].

    Example:
        >>> from dataclasses import replace
        >>> config = ssd_cuda.MultiBoxConfig.preset("nvidia", loc_weight=2.0)
        >>> replace(config, mining=ssd_cuda.MiningConfig(ratio=5.0)).normalizer
        'per_image'
    """

    match: MatchConfig = MatchConfig()
    mining: MiningConfig = MiningConfig()
    variances: tuple[float, ...] = (0.1, 0.2)
    loc_loss: Literal["smooth_l1", "l1", "giou", "diou", "ciou"] = "smooth_l1"
    beta: float = 1.0
    label_smoothing: float = 0.0
    loc_reduction: Literal["sum", "mean4"] = "sum"
    normalizer: Literal["batch", "per_image", "selected", "global", "batch_min_one"] = "batch"
    clamp_normalizer: bool = True
    loc_weight: float = 1.0
    background: Literal["first", "last"] = "first"
    label_offset: int = 0
    ignore_label: int | None = None
    ignored_key: Literal["none", "zero"] = "none"
    single_class: bool = False
    zero_label: Literal["positive", "localize", "background"] = "background"
    layout: Literal["bpc", "bcp"] = "bpc"

    def _check(self) -> None:
        check_variances(self.variances)
        check_range("beta", self.beta, 0.0)
        check_range("loc_weight", self.loc_weight, 0.0)
        check_range("label_smoothing", self.label_smoothing, 0.0)
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing must be below 1, got {self.label_smoothing}")
        if self.mining.count_positives_twice and self.mining.cap == "negatives":
            raise ValueError("count_positives_twice needs cap='all' or 'all_but_one', got cap='negatives'")
        mining = self.mining
        if self.ignored_key == "zero" and (mining.cap == "negatives" or mining.positive_fill != "zero"):
            raise ValueError(
                "ignored_key='zero' needs cap='all' or 'all_but_one' and positive_fill='zero', got "
                f"cap={mining.cap!r} and positive_fill={mining.positive_fill!r}"
            )
        if self.loc_reduction != "sum" and self.loc_loss not in ("smooth_l1", "l1"):
            raise ValueError(
                f"loc_reduction must be 'sum' with a loss of boxes, which has no mean over coordinates, got "
                f"{self.loc_reduction!r} and loc_loss={self.loc_loss!r}"
            )
        if self.single_class and self.background != "first":
            raise ValueError(f"single_class needs background='first', got {self.background!r}")
