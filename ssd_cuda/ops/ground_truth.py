"""The ragged target of a batch: what every matching and loss op takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..config import check_choice, check_list
from ._box_format import check_corners, to_corners
from ._layout import check_dense
from ._pytrees import register_record

Degenerate = Literal["error", "keep"]
_SIGNED = (torch.int64, torch.int32, torch.int16, torch.int8)
_INTEGERS = (*_SIGNED, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def _check_float_boxes(name: str, boxes: Tensor) -> None:
    if not isinstance(boxes, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(boxes).__name__}")
    if not boxes.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {boxes.dtype}")
    check_dense(name, boxes)
    check_corners(name, boxes)


def _check_integers(name: str, values: Tensor) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(values).__name__}")
    if values.dtype not in _INTEGERS:
        raise TypeError(f"{name} must be an integer tensor, got {values.dtype}")
    check_dense(name, values)


def _check_one_device(**tensors: Tensor) -> None:
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != reference.device:
            raise ValueError(f"{name} must be on {reference.device} like {first}, got {tensor.device}")


def check_valid(boxes: Sequence[Tensor], error: type[Exception], remedy: str) -> None:
    """Raise for the first box that is not finite or has no area. Reads the values: one sync in all."""
    if not boxes:
        return
    flat = torch.cat(list(boxes))
    bad = ~(torch.isfinite(flat).all(1) & (flat[:, 2] > flat[:, 0]) & (flat[:, 3] > flat[:, 1]))
    if not bad.any():
        return
    index = int(bad.nonzero()[0, 0])
    box = [round(value, 6) for value in flat[index].tolist()]
    for image, rows in enumerate(boxes):
        if index < len(rows):
            raise error(
                f"boxes must be finite with x1 < x2 and y1 < y2, got {box} as box {index} of image {image}; "
                + remedy
            )
        index -= len(rows)


def readable(tensor: Tensor) -> bool:
    """Whether its values can be read without a wait: in eager mode on the CPU. A subclass may hold none, and
    a tensor within vmap those of every call."""
    if torch.compiler.is_compiling() or type(tensor) is not Tensor:
        return False
    functorch = torch._C._functorch  # the older vmap is that of torch.autograd.grad(is_grads_batched=True)
    if functorch.is_functorch_wrapped_tensor(tensor) or functorch.is_legacy_batchedtensor(tensor):
        return False
    return tensor.is_cpu


def check_offsets(gt: GroundTruth) -> None:
    """Raise for offsets that do not cut the rows of ``boxes`` into images. Reads them: one sync on CUDA."""
    offsets = gt.offsets.tolist()
    if offsets[0] != 0:
        raise ValueError(f"offsets must start at 0, got {offsets[0]}")
    for image, (low, high) in enumerate(pairwise(offsets)):
        if high < low:
            raise ValueError(f"offsets must not descend, got {high} after {low} at image {image}")
    if offsets[-1] > len(gt.boxes):
        raise ValueError(
            f"offsets must end at the number of boxes or before ({len(gt.boxes)}), got {offsets[-1]}"
        )


def _offsets_tensor(counts: Sequence[int], device: torch.device) -> Tensor:
    host = torch.zeros(len(counts) + 1, dtype=torch.int32, device="cpu")
    torch.cumsum(torch.tensor(counts, dtype=torch.int32, device="cpu"), 0, out=host[1:])
    if device.type == "cuda":  # pinned, so that the copy does not wait for the card
        return host.pin_memory().to(device, non_blocking=True)
    return host.to(device)


@register_record
@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Boxes and labels of a batch, image after image, without padding.

    Two are equal only if they are the same object, as modules are: tensors have no single answer. It is a
    pytree of its three tensors, so that ``torch.export`` takes it as an input.

    Attributes:
        boxes: ``[G, 4]`` float32 (or float64) x1, y1, x2, y2, in the units of the priors.
        labels: ``[G]`` int64. Background is not a label of a box; what 0 means is the loss's option.
        offsets: ``[B + 1]`` int32; image b owns rows ``offsets[b]:offsets[b + 1]``. Rows past
            ``offsets[B]`` are spare capacity and are never read.

    All three live on one device. Nothing in the ops needs their values on the host, so they may be
    static buffers that change between replays of a CUDA graph. On the CPU the offsets are looked at, here and
    by the ops: they start at 0, do not descend, and end at G or before.

    Example:
        >>> boxes = [torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.2, 0.3, 0.4, 0.9]]), torch.empty(0, 4)]
        >>> gt = ops.GroundTruth.from_list(boxes, [torch.tensor([3, 7]), torch.empty(0, dtype=torch.int64)])
        >>> gt.offsets, gt.batch_size  # two boxes, then an image without any
        (tensor([0, 2, 2], dtype=torch.int32), 2)
    """

    boxes: Tensor
    labels: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        _check_float_boxes("boxes", self.boxes)
        if self.boxes.dim() != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes must have shape [G, 4], got {list(self.boxes.shape)}")
        _check_integers("labels", self.labels)
        _check_integers("offsets", self.offsets)
        if self.labels.shape != self.boxes.shape[:1]:
            raise ValueError(
                f"labels must have shape [{self.boxes.shape[0]}] like boxes, got {list(self.labels.shape)}"
            )
        if self.offsets.dim() != 1 or self.offsets.shape[0] < 1:
            raise ValueError(f"offsets must have shape [B + 1], got {list(self.offsets.shape)}")
        if self.offsets.dtype != torch.int32:
            raise TypeError(f"offsets must be int32, got {self.offsets.dtype}")
        _check_one_device(boxes=self.boxes, labels=self.labels, offsets=self.offsets)
        if readable(self.offsets):
            check_offsets(self)

    @property
    def batch_size(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def device(self) -> torch.device:
        return self.boxes.device

    def to(
        self,
        target: torch.device | str | torch.dtype | None = None,
        non_blocking: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> GroundTruth:
        """The same targets on another device, or with boxes of another floating dtype; the labels and
        offsets stay integers. ``target`` is either of both, as in ``Tensor.to``.

        Raises:
            TypeError: a dtype that is not floating point.
        """
        if isinstance(target, torch.dtype):
            dtype = target
        elif target is not None:
            device = target
        if device is not None and not isinstance(device, (torch.device, str, int)):
            raise TypeError(f"device must be a torch.device or its name, got {type(device).__name__}")
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {type(dtype).__name__}")
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype must be floating point, since only boxes take it, got {dtype}")
        moved = (t.to(device, non_blocking=non_blocking) for t in (self.boxes, self.labels, self.offsets))
        boxes, labels, offsets = moved
        return GroundTruth(boxes if dtype is None else boxes.to(dtype), labels, offsets)

    def pin_memory(self) -> GroundTruth:
        """The same targets in page-locked memory, for copies that do not wait; ``DataLoader`` calls it."""
        return GroundTruth(self.boxes.pin_memory(), self.labels.pin_memory(), self.offsets.pin_memory())

    @staticmethod
    def from_list(
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        degenerate: Degenerate = "error",
        device: torch.device | str | None = None,
    ) -> GroundTruth:
        """From one ``[n_i, 4]`` box tensor and one ``[n_i]`` label tensor per image.

        An image without objects gives an empty tensor (``[0, 4]`` or ``[0]``).

        Args:
            boxes: per image, floating point, x1, y1, x2, y2. ``tv_tensors.BoundingBoxes`` in XYWH or CXCYWH
                are converted.
            labels: per image, integer.
            degenerate: ``"error"`` raises for a box that is not finite or has no area, naming image and
                box; on CUDA tensors that check waits for the card. ``"keep"`` does not look, nor does a
                program of ``torch.compile`` or ``torch.export``, which reads no values.
            device: of the result; None: that of the boxes.

        Raises:
            ValueError: lengths or shapes that disagree, a degenerate box.
            TypeError: boxes that are not floating point, labels that are not integers.
        """
        check_choice("degenerate", degenerate, ("error", "keep"))
        check_list("boxes", boxes, "with one tensor per image")
        check_list("labels", labels, "with one tensor per image")
        if len(boxes) != len(labels):
            raise ValueError(
                f"labels must have one entry per image like boxes ({len(boxes)}), got {len(labels)}"
            )
        rows, names = [], []
        boxes = [to_corners(f"boxes[{i}]", b) for i, b in enumerate(boxes)]
        for i, (b, n) in enumerate(zip(boxes, labels, strict=True)):
            _check_float_boxes(f"boxes[{i}]", b)
            if b.numel() == 0:
                b = b.reshape(0, 4)
            if b.dim() != 2 or b.shape[1] != 4:
                raise ValueError(f"boxes[{i}] must have shape [n, 4], got {list(b.shape)}")
            if not isinstance(n, Tensor) or n.numel():  # torch.tensor([]) is a float: no labels
                _check_integers(f"labels[{i}]", n)
            if n.shape != b.shape[:1]:
                raise ValueError(f"labels[{i}] must have shape [{b.shape[0]}], got {list(n.shape)}")
            _check_one_device(**{"boxes[0]": boxes[0], f"boxes[{i}]": b})
            _check_one_device(**{"labels[0]": labels[0], f"labels[{i}]": n})
            if type(b) is not Tensor:  # which torch.compile cannot trace for one that is
                b = b.as_subclass(Tensor)
            rows.append(b if b.dtype == torch.float64 else b.float())
            names.append(n.long())
        if degenerate == "error" and not torch.compiler.is_compiling():  # a traced program reads no numbers
            remedy = "remove it, or pass degenerate='keep' and match with degenerate='ignore'"
            check_valid(rows, ValueError, remedy)
        target = torch.device(device) if device is not None else (rows[0].device if rows else None)
        target = target or torch.device("cpu")
        flat = torch.cat(rows) if rows else torch.empty(0, 4, dtype=torch.float32, device=target)
        flat_labels = torch.cat(names) if names else torch.empty(0, dtype=torch.int64, device=target)
        offsets = _offsets_tensor([len(r) for r in rows], target)
        return GroundTruth(
            flat.detach().to(target, non_blocking=True), flat_labels.to(target, non_blocking=True), offsets
        )

    @staticmethod
    def from_dicts(
        targets: Sequence[Mapping[str, Tensor]],
        *,
        degenerate: Degenerate = "error",
        device: torch.device | str | None = None,
    ) -> GroundTruth:
        """From torchvision's list of dicts with ``boxes`` [n, 4] and ``labels`` [n].

        Example:
            >>> targets = [{"boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]]), "labels": torch.tensor([5])}]
            >>> ops.GroundTruth.from_dicts(targets).labels
            tensor([5])
        """
        check_list("targets", targets, "with one dict per image")
        for i, target in enumerate(targets):
            if not hasattr(target, "keys"):
                raise TypeError(f"targets[{i}] must be a dict, got {type(target).__name__}")
            for key in ("boxes", "labels"):
                if key not in target:
                    raise ValueError(f"targets[{i}] must have the key {key!r}, got {sorted(target)}")
        return GroundTruth.from_list(
            [t["boxes"] for t in targets],
            [t["labels"] for t in targets],
            degenerate=degenerate,
            device=device,
        )

    @staticmethod
    def from_padded(boxes: Tensor, labels: Tensor, counts: Tensor) -> GroundTruth:
        """From ``boxes`` [B, G, 4], ``labels`` [B, G] and ``counts`` [B]; no value is read on the host.

        Rows ``g >= counts[b]`` are padding. The result keeps room for ``B * G`` rows, so that the same
        call captures in a CUDA graph whatever the counts become; counts are cut at ``[0, G]``.

        Example:
            >>> boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0]]])
            >>> labels, counts = torch.tensor([[5, 0]]), torch.tensor([1])  # the second row is padding
            >>> ops.GroundTruth.from_padded(boxes, labels, counts).offsets
            tensor([0, 1], dtype=torch.int32)
        """
        _check_float_boxes("boxes", boxes)
        _check_integers("labels", labels)
        _check_integers("counts", counts)
        _check_one_device(boxes=boxes, labels=labels, counts=counts)
        if boxes.dim() != 3 or boxes.shape[2] != 4:
            raise ValueError(f"boxes must have shape [B, G, 4], got {list(boxes.shape)}")
        if labels.shape != boxes.shape[:2]:
            raise ValueError(f"labels must have shape {list(boxes.shape[:2])}, got {list(labels.shape)}")
        if counts.shape != boxes.shape[:1]:
            raise ValueError(f"counts must have shape [{boxes.shape[0]}], got {list(counts.shape)}")
        batch, width = labels.shape
        counts = counts.long().clamp(0, width)  # narrow ones may not hold the width, unsigned ones no clamp
        offsets = torch.zeros(batch + 1, dtype=torch.int32, device=boxes.device)
        offsets[1:] = counts.cumsum(0)
        row = torch.arange(batch * width, device=boxes.device, dtype=torch.int32)
        image = (torch.searchsorted(offsets, row, right=True) - 1).clamp(0, max(batch - 1, 0))
        source = image * width + (row - offsets[image]).clamp(0, max(width - 1, 0))
        dtype = torch.float64 if boxes.dtype == torch.float64 else torch.float32
        flat = boxes.reshape(-1, 4)[source].to(dtype)
        return GroundTruth(flat.detach(), labels.reshape(-1)[source].long(), offsets)
