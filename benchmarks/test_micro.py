"""The micro-benchmarks under pytest-benchmark: ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

import pytest
import torch

from .__main__ import FAMILIES, cases

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
ALL = [case for case in cases(FAMILIES) if not case.sweep]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.family}: {case.name}")
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
