"""The micro-benchmarks under pytest-benchmark: ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

import pytest
import torch

from .__main__ import FAMILIES, cases

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
OPS = [family for family in FAMILIES if family != "end_to_end"]  # a whole step is no micro-benchmark
ALL = [
    (case, device) for device in DEVICES for case in cases(OPS, quick=True, device=device) if not case.late
]


@pytest.mark.parametrize("case, device", ALL, ids=[f"{c.family}: {c.name}, {device}" for c, device in ALL])
def test_case(benchmark, case, device):
    contest = case.make(torch.device(device))
    if contest.check:
        contest.check()

    def run():
        contest.ours()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = case.family
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
