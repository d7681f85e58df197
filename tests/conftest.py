"""Fixtures of every test: the device, seeds, and boxes as a detector sees them."""

from __future__ import annotations

import pytest
import torch
from fake_kernels import FakesCompared

import ssd_cuda


def pytest_collection_modifyitems(items):
    for item in items:
        if hasattr(item, "callspec") and item.callspec.params.get("device") == "cuda":
            item.add_marker("gpu")


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA card and a build with CUDA")
    config.addinivalue_line("markers", "slow: more than a few seconds")


def _cuda_problem() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA card"
    if not ssd_cuda.build_info()["cuda"]:
        return "a CPU-only build"
    return None


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> torch.device:
    """Both devices; the CUDA one skips where there is no card."""
    if request.param == "cuda" and _cuda_problem():
        pytest.skip(_cuda_problem())
    return torch.device(request.param)


def _compiled(call, inputs):
    """What dynamo believes of the ops is first compared with what they give."""
    with FakesCompared():
        call(inputs)
    torch._dynamo.reset()
    return torch.compile(call, backend="aot_eager")(inputs)


def _replayed(call, inputs):
    """As a captured graph: captured on zeros, replayed on ``inputs``."""
    static = {name: torch.zeros_like(tensor) for name, tensor in inputs.items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call(static)
    for name, tensor in static.items():
        tensor.copy_(inputs[name])
    graph.replay()
    torch.cuda.synchronize()
    return outputs


_LAUNCHES = {"eager": lambda call, inputs: call(inputs), "compile": _compiled, "graph": _replayed}


@pytest.fixture(params=_LAUNCHES)
def launch(request, device):
    """How an op is called: ``launch(call, inputs)``, ``inputs`` a dict of tensors. A graph needs a card."""
    if request.param == "graph" and device.type != "cuda":
        pytest.skip("a graph needs a card")
    return _LAUNCHES[request.param]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def voc(tmp_path):
    """A small Pascal VOC data set."""
    from layouts import write_voc  # needs pillow, which the tests of the ops do not

    return write_voc(tmp_path)


@pytest.fixture
def coco(tmp_path):
    """The same as COCO."""
    from layouts import write_coco

    return write_coco(tmp_path)


def random_boxes(n: int, *, size: float = 1.0, dtype=torch.float32, generator=None) -> torch.Tensor:
    """``[n, 4]`` x1, y1, x2, y2 with positive width and height inside a ``size`` square."""
    a, b = torch.rand(2, n, 2, dtype=torch.float64, generator=generator)
    low, high = torch.minimum(a, b), torch.maximum(a, b) + 1e-3
    return (torch.cat([low, high], -1) * size).to(dtype)


def random_priors(n: int, *, dtype=torch.float32, generator=None) -> torch.Tensor:
    """``[n, 4]`` cx, cy, w, h in the unit square."""
    values = torch.rand(n, 4, dtype=torch.float64, generator=generator)
    values[:, 2:] = 0.05 + 0.5 * values[:, 2:]
    return values.to(dtype)
