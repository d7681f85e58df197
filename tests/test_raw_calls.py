"""Ops called directly, as exported programs call them: bad input raises one sentence, nothing dies.

Good calls are recorded from the wrappers; then one to three arguments are replaced by unfitting ones. A
process of its own makes the calls, and tells each before it makes it, so that the one that kills it is known.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_options import CALLS, recorded

HERE = Path(__file__).parent
COUNT = int(os.environ.get("SSD_RAW_CALLS", "250"))  # an op: more than 3,000 together


def tensors_like(t):
    """Tensors that do not fit where t does, or only just."""
    if t is None:
        return [torch.zeros(1, 4), torch.zeros(0), torch.zeros(3, dtype=torch.int64)]
    same = t.detach()
    found = [same[None], same.flatten(), torch.zeros((), dtype=t.dtype)]
    found += [same.to(d) for d in (torch.float64, torch.float16, torch.int64, torch.int32, torch.bool)]
    found += [torch.cat([same, same]) if t.dim() else same[None], torch.zeros(0, dtype=t.dtype)]
    found += [same.expand(3, *t.shape), same.to_sparse() if t.dim() else same, same.to("meta")]
    if t.dim():
        found += [same[:0], same[:-1], same.transpose(0, -1), same[..., :0], same[..., :-1]]
        found += [torch.zeros(*t.shape, 1, dtype=t.dtype), same.contiguous().flip(0)]
    if t.dtype == torch.int64 or t.dtype == torch.int32:
        found += [same * 0 - 5, same * 0 + 2**31 - 1, same * 0 + 10**9]
    elif t.dtype.is_floating_point:
        found += [same * float("nan"), same * 0 + float("inf"), -same, same * 1e30]
    return found


def values_like(value):
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [-1, 0, 1, 2, 7, -(2**63), -(2**31)]
    if isinstance(value, float):
        return [0.0, -1.0, 1e308, float("nan"), float("inf"), -float("inf")]
    if isinstance(value, str):
        return ["", "no such word", "none", "softmax"]
    return [[], value[:-1], [*value, 1], [-1] * len(value), [0] * len(value), [2**40] * len(value)]


def make_calls() -> None:
    """COUNT calls of each op; a line for each, before it and after it."""
    for name in CALLS:
        generator = random.Random(name)
        op, tensors, options = recorded(name)
        for i in range(COUNT):
            arguments, named = list(tensors), dict(options)
            for _ in range(generator.choice((1, 1, 1, 2, 3))):
                place = generator.randrange(len(arguments) + len(named))
                if place < len(arguments):
                    arguments[place] = generator.choice(tensors_like(tensors[place]))
                else:
                    key = list(named)[place - len(arguments)]
                    named[key] = generator.choice(values_like(options[key]))
            told = [(str(a.dtype), list(a.shape)) if isinstance(a, torch.Tensor) else a for a in arguments]
            print("call", name, i, told, named, flush=True)
            try:
                op(*arguments, **named)
            except RuntimeError as error:
                print("refused", name, str(error).splitlines()[0], flush=True)
    print("alive")


def test_no_call_kills_the_process():
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    code = "import test_raw_calls; test_raw_calls.make_calls()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1] == "alive", (
        f"{done.returncode}: {lines[-1:]} {done.stderr[-800:]}"
    )
    for name in CALLS:
        refused = [line for line in lines if line.startswith(f"refused {name} ")]
        assert COUNT / 8 < len(refused) < COUNT, name


SENTENCES = [
    ("box_encode", {1: torch.zeros(0, 4)}, {}, "priors must have 3 rows or a divisor of it, got 0"),
    ("nms", {2: torch.zeros(3, dtype=torch.int32)}, {}, "idxs must be int64, got int32"),
    ("detect", {1: torch.zeros(1, 3, 2, dtype=torch.float64)}, {}, "loc must be float64, got float32"),
    ("detect", {}, {"last_label": 9}, "last_label must be at most the number of classes, 2, got 9"),
    ("detect", {}, {"first_label": -1}, "first_label must lie in [0, last_label], got -1 and 2"),
    (
        "detect",
        {},
        {"score_threshold": []},
        "score_threshold must hold 1 number or one for each of 2 classes, got 0",
    ),
    (
        "detect",
        {},
        {"iou_threshold": [0.5] * 3},
        "iou_threshold must hold 1 number or one for each of 2 classes, got 3",
    ),
    (
        "detect",
        {},
        {"iou_threshold": [0.5] * 2, "class_agnostic": True},
        "iou_threshold must be one number when class_agnostic, got 2",
    ),
    (
        "detect",
        {},
        {"score_threshold": [0.5] * 2, "class_agnostic": True, "soft_sigma": 0.5},
        "score_threshold must be one number for soft-NMS when class_agnostic, got 2",
    ),
    ("detect", {2: torch.zeros(2, 4)}, {}, "priors must have shape [3, 4] or [1, 3, 4], got [2, 4]"),
    (
        "match",
        {1: torch.zeros(0, dtype=torch.int32)},
        {},
        "offsets must hold one number more than there are images, got none",
    ),
    ("top_k_threshold", {0: torch.zeros(3)}, {}, "keys must have shape [*, *], got [3]"),
    ("fill_priors", {}, {"divisors": [1.0]}, "grid must hold 3 numbers a level and divisors 2, got 3 and 1"),
    ("soft_nms", {1: torch.zeros(3).double()}, {}, "scores must be float32, got float64"),
    ("diou_nms", {2: torch.zeros(2).long()}, {}, "idxs must have shape [3], got [2]"),
    ("matrix_nms", {}, {"sigma": -1.0}, "sigma must be above 0, got -1"),
    ("soft_nms", {}, {"soft_sigma": 0.0}, "soft_sigma must be above 0, got 0"),
    ("soft_nms", {}, {"score_threshold": -0.5}, "score_threshold must be at least 0, got -0.5"),
    ("nms_padded", {}, {"max_output": -1}, "max_output must be at least 0, got -1"),
]


@pytest.mark.parametrize("name, tensors, options, sentence", SENTENCES)
def test_the_sentence_names_argument_expectation_and_finding(name, tensors, options, sentence):
    op, arguments, named = recorded(name)
    arguments = [tensors.get(i, argument) for i, argument in enumerate(arguments)]
    with pytest.raises(RuntimeError) as told:
        op(*arguments, **{**named, **options})
    assert str(told.value).splitlines()[0] == sentence
