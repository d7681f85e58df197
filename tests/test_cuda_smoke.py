"""One small call of every path on a card: for compute-sanitizer, which slows kernels a hundredfold."""

from __future__ import annotations

import pytest
import torch
from workloads import WORKLOADS, make

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_runs(workload):
    outputs = workload.call(make(workload, torch.device("cuda")))
    torch.cuda.synchronize()
    assert all(t.device.type == "cuda" for t in outputs)
