"""``accelerate``: torchvision's SSD models with the fused core inside.

The model stays the same object with the same modules, parameters and buffers; only its class changes, to one
that derives from the old class and brings its own ``forward``. What changes in that forward:

* the priors are generated once per (feature sizes, image size, device) instead of on every call;
* matching, the loss and the post-process are one op each: no IoU matrix, no wait for the card;
* evaluation reads the card once, to cut the padded detections into torchvision's list of dicts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import ops
from ..config import DetectConfig, MultiBoxConfig, check_integer, check_range, to_number
from ..config.checks import is_positive
from ..ops._box_format import to_corners
from ..ops._shared import SharedTensor, is_tracing
from ..ops.ground_truth import check_valid

_MOST_SIZES = 16  # of images whose priors are kept
_SHAPES = "_ssd_cuda_prior_shapes"  # those of the generator when they were made
_CACHE = "_ssd_cuda_priors"  # in __dict__, not a buffer: the state dict stays torchvision's
# Made here, since a forward that torch.export traces cannot look presets up, only replace options.
_LOSS = MultiBoxConfig.preset("torchvision")
_DETECT = DetectConfig.preset("torchvision")

Model = TypeVar("Model", bound=nn.Module)


def _torchvision_ssd() -> Any:
    try:
        from torchvision.models.detection import ssd
    except ImportError as error:
        raise RuntimeError("accelerate needs torchvision: pip install torchvision") from error
    return ssd


def accelerate(model: Model) -> Model:
    """Put the fused core into a torchvision SSD; returns the same object.

    Works for every ``torchvision.models.detection.ssd.SSD``: ``ssd300_vgg16``,
    ``ssdlite320_mobilenet_v3_large`` and models with custom heads and anchor generators. Training returns
    the same loss dict (``bbox_regression``, ``classification``), evaluation the same list of dicts.
    :func:`restore` undoes it. Calling it twice changes nothing. Wrap, compile or export it afterwards;
    ``torch.jit.script`` needs :func:`restore` first. Targets may be ``tv_tensors.BoundingBoxes`` in XYWH or
    CXCYWH, which are converted.

    Four things differ from torchvision, all on purpose: equal scores and equal losses are ordered by lowest
    index (there the order is unspecified); detections are the true per-class NMS in every dtype (there
    coordinate offsets blur it in half precision); detections carry no gradient; and on CUDA a degenerate
    target box is not looked for, since that waits for the card once per image: it matches nothing instead
    of raising. On the CPU one that is not finite raises too.

    Raises:
        TypeError: ``model`` is not a torchvision SSD, or replaces a part that the fused core stands for.
        ValueError: a threshold, ratio or number of it that means nothing, such as a negative one.

    Example:
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
        >>> model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
        >>> ssd_cuda.accelerate(model) is model
        True
    """
    if isinstance(model, _FusedForward):
        return model
    check_supported(model)
    loss_config(model), detect_config(model)  # an attribute that says nothing is told of now
    model.__class__ = _fused_class(type(model))  # type: ignore[arg-type]  # classes hash
    return model


def restore(model: Model) -> Model:
    """Undo :func:`accelerate`; returns the same object. A model that is not accelerated stays as it is.

    Raises:
        TypeError: the accelerated model is wrapped, or its class has been replaced since, as FSDP does.

    Example:
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
        >>> model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
        >>> type(ssd_cuda.restore(ssd_cuda.accelerate(model))).__name__
        'SSD'
    """
    kind: Any = type(model)
    if isinstance(getattr(model, "module", None) or getattr(model, "_orig_mod", None), _FusedForward):
        raise TypeError(f"model must be the accelerated model itself, got {kind.__name__}, which wraps it")
    if not isinstance(model, _FusedForward):
        return model
    if "_plain_class" not in vars(kind):  # fully_shard and others derive a class too, which would be lost
        raise TypeError(f"model must be as accelerate left it, got {kind.__name__}, made of it since")
    for name in (_CACHE, _SHAPES):
        model.__dict__.pop(name, None)
    model.__class__ = kind._plain_class
    return model


def _is_scripted(model: Any) -> bool:
    return isinstance(model, torch.jit.ScriptModule)


def check_supported(model: Any) -> None:
    """Raise ``TypeError`` unless ``model`` is a torchvision SSD, accelerated or one that could be."""
    if isinstance(model, _FusedForward):
        return
    ssd = _torchvision_ssd()
    if not isinstance(model, ssd.SSD):
        hint = "; accelerate the model itself, before it is wrapped, compiled or scripted"
        if not (hasattr(model, "module") or hasattr(model, "_orig_mod") or _is_scripted(model)):
            hint = ""
        raise TypeError(
            f"model must be a torchvision.models.detection.ssd.SSD, got {type(model).__name__}{hint}"
        )
    for name in ("forward", "compute_loss", "postprocess_detections", "eager_outputs"):
        if getattr(type(model), name) is not getattr(ssd.SSD, name) or name in vars(model):
            raise TypeError(
                f"model must use torchvision's own {name}, for which the fused core stands, got another"
            )
    kind = type(model.proposal_matcher).__name__
    if kind != "SSDMatcher":
        raise TypeError(f"model.proposal_matcher must be torchvision's SSDMatcher, got {kind}")
    if type(model.box_coder).__name__ != "BoxCoder":
        raise TypeError(
            f"model.box_coder must be torchvision's BoxCoder, got {type(model.box_coder).__name__}"
        )


@functools.cache
def _fused_class(plain: type) -> type:
    body = {"_plain_class": plain, "__module__": __name__, "__doc__": plain.__doc__}
    return type("Fused" + plain.__name__, (_FusedForward, plain), body)


def _rebuild(plain: type) -> nn.Module:
    fused: Any = _fused_class(plain)
    return fused.__new__(fused)


def _checked_targets(targets: Any) -> list[dict[str, Tensor]]:
    """What torchvision asserts before its transform, with AssertionError as there; boxes as corners."""
    if targets is None:
        raise AssertionError("targets must be given in training mode, got None")
    checked = []
    for index, target in enumerate(targets):
        boxes = target["boxes"]
        if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
            found = list(boxes.shape) if isinstance(boxes, Tensor) else type(boxes).__name__
            raise AssertionError(f"boxes of target {index} must be a tensor of shape [N, 4], got {found}")
        checked.append({**target, "boxes": to_corners(f"boxes of target {index}", boxes)})
    return checked


def _check_boxes(targets: Sequence[dict[str, Tensor]]) -> None:
    """Degenerate boxes raise where looking at them costs nothing: on the CPU, all at once."""
    boxes = [target["boxes"] for target in targets]
    if all(b.is_cpu for b in boxes) and not torch.compiler.is_compiling():
        check_valid(boxes, AssertionError, "remove it")


def _generator_key(generator: Any) -> tuple | None:
    """What the priors of a DefaultBoxGenerator depend on; None for a generator that we do not know."""
    if type(generator) is not _torchvision_ssd().DefaultBoxGenerator:
        return None
    steps = None if generator.steps is None else tuple(generator.steps)
    ratios = tuple(tuple(ratio) for ratio in generator.aspect_ratios)
    return ratios, tuple(generator.scales), steps, generator.clip


def _pixel_priors(model: Any, images: Any, features: Sequence[Tensor]) -> Tensor:
    """``[P, 4]`` x1, y1, x2, y2 in pixels, from the model's own generator, asked once."""
    key = _generator_key(model.anchor_generator)

    def generate() -> Tensor:
        one = type(images)(images.tensors[:1], images.image_sizes[:1])
        priors = model.anchor_generator(one, [f[:1] for f in features])[0]
        return priors if priors.dtype == torch.float64 else priors.float()

    is_compiling = torch.compiler.is_compiling()
    if key is None or (is_tracing() and not is_compiling):  # under a mode nothing is kept, nor trusted
        return generate()
    sizes = tuple(tuple(f.shape[-2:]) for f in features)
    first = features[0]
    key = (*key, sizes, tuple(images.tensors.shape[-2:]), first.device, first.dtype)
    if not is_compiling:  # a traced program reads no numbers
        _forget_other_shapes(model)
    cache = model.__dict__.setdefault(_CACHE, {})
    found = cache.get(key)
    if found is None:
        if is_compiling:
            return generate()
        found = cache[key] = SharedTensor.made_by(generate)
        while len(cache) > _MOST_SIZES:  # the oldest first: a transform of many sizes must not fill a card
            cache.pop(next(iter(cache)), None)
    return found.for_current_stream()


def _forget_other_shapes(model: Any) -> None:
    """Drop the priors of a generator whose widths and heights, which it only made of scales and ratios, have
    been changed since."""
    shapes = [pairs.tolist() for pairs in model.anchor_generator._wh_pairs]
    if model.__dict__.get(_SHAPES) != shapes:
        model.__dict__.pop(_CACHE, None)
        model.__dict__[_SHAPES] = shapes


def priors_of(model: Any, images: Tensor) -> Tensor:
    """``[P, 4]``: the priors of a torchvision SSD for normalised images ``[B, 3, H, W]``, in pixels."""
    from torchvision.models.detection.image_list import ImageList

    features = model.backbone(images)
    features = [features] if isinstance(features, Tensor) else list(features.values())
    listed = ImageList(images, [tuple(images.shape[-2:])] * len(images))
    return _pixel_priors(model, listed, features).clone()


def _number(name: str, value: Any, low: float, high: float = math.inf, *, finite: bool = True) -> float:
    """An attribute of the model as a number; raise, by the name that its owner knows, if it means nothing."""
    value = to_number(value)
    check_range(f"model.{name}", value, low, high, finite=finite)
    return float(value)


def _count(name: str, value: Any) -> int:
    """A number of rows. torchvision takes 0; of one below it makes a slice, without the last rows."""
    value = to_number(value)
    check_integer(f"model.{name}", value, 0)
    return int(value)


def _variances(model: Any) -> tuple[float, ...]:
    weights = tuple(map(to_number, model.box_coder.weights))
    if len(weights) != 4 or not all(map(is_positive, weights)):
        raise ValueError(f"model.box_coder.weights must be four positive numbers, got {weights}")
    return tuple(1.0 / weight for weight in weights)


def loss_config(model: Any) -> MultiBoxConfig:
    """The loss of a torchvision SSD, with its own threshold, ratio and weights."""
    matcher = model.proposal_matcher  # in which an IoU has to reach both thresholds, which are one at first
    low = _number("proposal_matcher.low_threshold", matcher.low_threshold, 0.0, 1.0)
    high = _number("proposal_matcher.high_threshold", matcher.high_threshold, 0.0, 1.0)
    match = replace(_LOSS.match, iou_threshold=max(low, high), degenerate="ignore")
    mining = replace(_LOSS.mining, ratio=_number("neg_to_pos_ratio", model.neg_to_pos_ratio, 0.0))
    return replace(_LOSS, match=match, mining=mining, variances=_variances(model))


def detect_config(model: Any) -> DetectConfig:
    """The post-process of a torchvision SSD, but for the sizes of the images, which it clips boxes to."""
    limit = _number("box_coder.bbox_xform_clip", model.box_coder.bbox_xform_clip, 0.0, finite=False)
    threshold = _number("score_thresh", model.score_thresh, -math.inf, finite=False)
    top_k = _count("topk_candidates", model.topk_candidates)
    most = model.detections_per_img  # None: all, as a slice has it
    most = None if most is None else _count("detections_per_img", most)
    if top_k == 0 or most == 0:  # no detection of torchvision, no option of ours
        threshold = 1.0  # which no probability passes
    return replace(
        _DETECT,
        score_threshold=threshold,
        top_k=max(1, top_k),
        iou_threshold=min(1.0, _number("nms_thresh", model.nms_thresh, 0.0, finite=False)),  # the largest IoU
        detections_per_image=None if most is None else max(1, most),
        variances=_variances(model),
        max_log_scale=limit if math.isfinite(limit) else None,
    )


def _without_spare_rows(config: DetectConfig, num_priors: int, labels: int) -> DetectConfig:
    """The same rule; numbers that stand for all of them ask for no memory beyond what there can be."""
    top_k, most = config.top_k, config.detections_per_image
    if top_k is not None and top_k >= num_priors:
        top_k = None
    if most is not None and most >= (num_priors if top_k is None else top_k) * labels:
        most = None
    return replace(config, top_k=top_k, detections_per_image=most)


def _clip_sizes(image_sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """``[B, 2]`` width, height of each image of a batch, on the device of ``like``, without a wait for it."""
    sides = [[width, height] for height, width in image_sizes]
    sizes = torch.tensor(sides, dtype=torch.float32, device="cpu")
    if like.is_cuda and not torch.compiler.is_compiling():
        sizes = sizes.pin_memory()
    return sizes.to(like.device, non_blocking=True)


class _FusedForward(nn.Module):
    """The forward of an accelerated SSD; mixed in before the model's own class."""

    _plain_class: type
    transform: Any
    backbone: Any
    head: Any

    def forward(self, images, targets=None):
        if self.training or targets is not None:
            targets = _checked_targets(targets)
        original_sizes = [tuple(image.shape[-2:]) for image in images]
        images, targets = self.transform(images, targets)
        if targets is not None:
            _check_boxes(targets)
        features = self.backbone(images.tensors)
        features = [features] if isinstance(features, Tensor) else list(features.values())
        outputs = self.head(features)
        priors = _pixel_priors(self, images, features)
        if self.training:
            return _losses(self, outputs, targets, priors)
        loc, conf = outputs["bbox_regression"].detach(), outputs["cls_logits"].detach()
        config = _without_spare_rows(detect_config(self), conf.shape[1], conf.shape[2] - 1)
        clip_sizes = _clip_sizes(images.image_sizes, priors)
        found = ops.detect(loc, conf, priors, config, clip_sizes=clip_sizes)
        return self.transform.postprocess(found.to_list(), images.image_sizes, original_sizes)

    def __prepare_scriptable__(self):
        raise TypeError("model is accelerated, which torch.jit.script cannot take: call restore(model) first")

    def __reduce_ex__(self, protocol):
        state = self.__getstate__()  # of torch, which leaves out what compile() made, or the model's own
        if isinstance(state, dict):
            state = {name: v for name, v in state.items() if name not in (_CACHE, _SHAPES)}
        return _rebuild, (type(self)._plain_class,), state


def _losses(model, outputs, targets, priors) -> dict[str, Tensor]:
    truth = ops.GroundTruth.from_dicts(targets, degenerate="keep", device=priors.device)
    loc, conf = outputs["bbox_regression"], outputs["cls_logits"]
    losses = ops.multibox_loss(loc, conf, truth, priors, loss_config(model))
    return {"bbox_regression": losses.localization, "classification": losses.classification}
