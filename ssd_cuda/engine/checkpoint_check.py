"""Every part of a checkpoint, held against the model before anything uses it.

A file that unpickles safely may still hold anything. The fused optimizer, for one, writes as many numbers as
the weights have into whatever it is given, so a state of another size would be a write out of bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._names import counted
from .optimizer import make_optimizer
from .recipe import TrainConfig

if TYPE_CHECKING:
    from ..models import SSD

__all__ = ["CheckpointError", "check_state"]

# what each optimizer keeps of a weight, and the options of a group that must be those of the recipe
_MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
_OPTIONS = {
    "adamw": ("params", "betas", "eps", "weight_decay", "amsgrad", "maximize"),
    "sgd": ("params", "momentum", "dampening", "nesterov", "weight_decay", "maximize"),
}


class CheckpointError(ValueError):
    """A checkpoint that is missing or unusable; the message is one sentence that names it."""


def check_state(where: str, state: Mapping[str, Any], model: SSD) -> TrainConfig:
    """Raise unless ``state`` is what a run of ``model`` leaves behind.

    Args:
        where: the file, for messages.
        state: ``model``, ``average``, ``optimizer``, ``epoch``, ``step``, ``history`` and ``config``.
        model: whose weights they shall be.

    Returns:
        The recipe of the run.

    Raises:
        CheckpointError: names the part, what was expected and what was found.
    """
    config = _check_config(where, state["config"])
    _check_progress(where, state, config)
    own = model.state_dict()
    for part in ("model", "average"):
        check_weights(where, part, state[part], own)
    _check_optimizer(where, state["optimizer"], model, config, state["step"])
    return config


def _refuse(where: str, part: str, expected: str, found: object) -> CheckpointError:
    return CheckpointError(f"{where} must have {expected} in {part}, got {str(found)[:120]}")


def _check_config(where: str, found: Any) -> TrainConfig:
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise _refuse(where, "'config'", "the recipe as a dict", type(found).__name__)
    try:
        return TrainConfig(**found)
    except (TypeError, ValueError) as error:
        raise _refuse(where, "'config'", "a recipe of train", error) from error


def _check_progress(where: str, state: Mapping[str, Any], config: TrainConfig) -> None:
    epoch, step, history = state["epoch"], state["step"], state["history"]
    most = config.epochs if config.steps is None else config.steps
    if not _is_count(epoch) or epoch > most:
        raise _refuse(where, "'epoch'", f"a count of at most {counted(most, 'epoch')}", repr(epoch))
    if not _is_count(step) or step < epoch:
        raise _refuse(where, "'step'", f"a count of at least {counted(epoch, 'step')}", repr(step))
    if "steps_per_epoch" in state:
        each = state["steps_per_epoch"]
        if not _is_count(each) or not 0 <= step - epoch * each < max(each, 1):
            expected = f"what makes {counted(step, 'step')} in {counted(epoch, 'epoch')}"
            raise _refuse(where, "'steps_per_epoch'", expected, repr(each))
    if not isinstance(history, list) or len(history) != step:
        found = len(history) if isinstance(history, list) else type(history).__name__
        raise _refuse(where, "'history'", f"{step} pairs of losses, one a step,", found)
    for row in history:
        pair = isinstance(row, (list, tuple)) and len(row) == 2
        if not pair or not all(isinstance(v, float) and math.isfinite(v) for v in row):
            raise _refuse(where, "'history'", "two finite losses a step", repr(row))
    rates = state.get("rates", [0.0] * step)  # files of an earlier version have none
    if not isinstance(rates, list) or len(rates) != step:
        found = len(rates) if isinstance(rates, list) else type(rates).__name__
        raise _refuse(where, "'rates'", f"{step} learning rates, one a step,", found)
    for rate in rates:
        if not isinstance(rate, float) or not 0 <= rate < math.inf:
            raise _refuse(where, "'rates'", "finite rates of at least 0", repr(rate))
    _check_scores(where, state.get("scores", []), epoch, step)
    _check_scaler(where, state.get("scaler"), config)


def _check_scores(where: str, found: Any, epoch: int, step: int) -> None:
    keys = {"epoch", "step", "localization", "classification", "ap50", "map"}
    if not isinstance(found, list):
        raise _refuse(where, "'scores'", "a list of evaluations", type(found).__name__)
    for row in found:
        if not isinstance(row, dict) or set(row) != keys:
            raise _refuse(where, "'scores'", f"rows of {', '.join(sorted(keys))}", repr(row))
        if (
            not all(_is_count(row[key]) for key in ("epoch", "step"))
            or row["epoch"] > epoch
            or row["step"] > step
        ):
            raise _refuse(where, "'scores'", f"epochs and steps of the {step} that were done", repr(row))
        for key in ("localization", "classification", "ap50", "map"):
            known = isinstance(row[key], float) and math.isfinite(row[key])
            if not known and (row[key] is not None or key[0] in "lc"):
                raise _refuse(where, "'scores'", "finite numbers", repr(row))


def _check_scaler(where: str, found: Any, config: TrainConfig) -> None:
    """What GradScaler keeps; its factors are torch's own."""
    if found is None:
        return
    if config.amp != "fp16" or not isinstance(found, dict):
        raise _refuse(where, "'scaler'", "the scale of a run in fp16", repr(found))
    own = torch.amp.GradScaler("cpu").state_dict()
    for key, value in own.items():
        number = found.get(key)
        right = type(number) is type(value) and math.isfinite(number or 0) and (number or 0) >= 0
        if set(found) != set(own) or not right or (key.endswith(("factor", "interval")) and number != value):
            raise _refuse(where, "'scaler'", f"the parts of a GradScaler, such as {key} {value}", repr(found))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_weights(where: str, part: str, found: Any, own: Mapping[str, Tensor]) -> None:
    """Raise unless ``found`` are weights of the names, shapes and dtypes of ``own``, all finite."""
    if not isinstance(found, Mapping):
        raise _refuse(where, f"{part!r}", "the weights by name", type(found).__name__)
    missing, unknown = own.keys() - found.keys(), found.keys() - own.keys()
    if missing or unknown:
        odd = f"no {min(missing)}" if missing else f"{min(map(str, unknown))} too"
        raise _refuse(where, f"{part!r}", "the weights of its model", odd)
    for name, value in own.items():
        _check_like(where, f"{part!r} {name}", found[name], value)
        counts = name.endswith(("running_var", "num_batches_tracked"))
        if counts and (found[name] < 0).any():
            raise _refuse(where, f"{part!r} {name}", "no negative number", found[name].min().item())


def _check_like(where: str, part: str, found: Any, own: Tensor) -> None:
    """Raise unless ``found`` is a plain tensor of the shape and dtype of ``own``, all finite."""
    if not isinstance(found, Tensor):
        raise _refuse(where, part, "a tensor", type(found).__name__)
    if found.layout != torch.strided or found.is_meta or found.is_quantized:
        raise _refuse(where, part, "a plain tensor", f"one of {found.layout} on {found.device}")
    if found.shape != own.shape or found.dtype != own.dtype:
        expected = f"{own.dtype} of shape {list(own.shape)}"
        raise _refuse(where, part, expected, f"{found.dtype} of shape {list(found.shape)}")
    if found.is_floating_point() and not torch.isfinite(found).all():
        raise _refuse(where, part, "finite numbers", "one that is not")


def _check_optimizer(where: str, found: Any, model: SSD, config: TrainConfig, step: int) -> None:
    part = "'optimizer'"
    groups, state = (found.get(key) if isinstance(found, dict) else None for key in ("param_groups", "state"))
    if not isinstance(groups, list) or not isinstance(state, dict):
        raise _refuse(where, part, "a state and its param_groups", type(found).__name__)
    own = make_optimizer(model, config)
    wanted = own.state_dict()["param_groups"]
    if len(groups) != len(wanted) or not all(isinstance(group, dict) for group in groups):
        raise _refuse(where, part, f"{len(wanted)} param_groups", len(groups))
    for group, ours in zip(groups, wanted, strict=True):
        for key in _OPTIONS[config.optimizer]:
            if not _same(group.get(key), ours[key]):
                raise _refuse(where, part, f"{key} {ours[key]}", repr(group.get(key)))
    parameters = [p for group in own.param_groups for p in group["params"]]
    kept = step > 0 if config.optimizer == "adamw" else config.momentum > 0
    if set(state) != (set(range(len(parameters))) if kept else set()):
        raise _refuse(
            where,
            part,
            f"a state for each of {len(parameters)} weights after {counted(step, 'step')}",
            len(state),
        )
    for index, entry in state.items():
        _check_moments(where, f"{part} of weight {index}", entry, parameters[index], config, step)


def _same(found: Any, own: Any) -> bool:
    """Equal and of equal types: True is not 1, and a tensor is not a number."""
    if isinstance(own, (list, tuple)):
        same = isinstance(found, (list, tuple)) and len(found) == len(own)
        return same and all(map(_same, found, own))
    return type(found) in (type(own), *((int,) if isinstance(own, float) else ())) and bool(found == own)


def _check_moments(
    where: str, part: str, entry: Any, parameter: Tensor, config: TrainConfig, step: int
) -> None:
    moments = _MOMENTS[config.optimizer]
    counts = ("step",) if config.optimizer == "adamw" else ()
    if not isinstance(entry, dict) or set(entry) != {*counts, *moments}:
        found = sorted(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise _refuse(where, part, ", ".join(counts + moments), found)
    for name in counts:
        _check_like(where, part, entry[name], torch.zeros((), dtype=torch.float32))
        done, most = entry[name].item(), min(step, 1 << 24)  # where a float32 counts no further
        # GradScaler skips steps whose gradients were too large for fp16, which --extend may have left since.
        if not (done.is_integer() and 0 <= done <= most):
            raise _refuse(where, part, f"at most {counted(step, 'step')}", done)
    for name in moments:
        _check_like(where, f"{part}, {name}", entry[name], parameter)
        if name == "exp_avg_sq" and (entry[name] < 0).any():
            raise _refuse(where, f"{part}, {name}", "no negative number", entry[name].min().item())
