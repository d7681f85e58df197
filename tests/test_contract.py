"""What every path promises: the same bits every time, no wait for the card, life inside a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from workloads import WORKLOADS, make

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
each = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@each
def test_the_same_bits_every_time(device, workload):
    inputs = make(workload, device)
    first = workload.call(inputs)
    assert all(same(first, workload.call(inputs)) for _ in range(5))


@each
def test_the_same_bits_for_any_number_of_threads(workload):
    inputs = make(workload, torch.device("cpu"))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(workload.call(inputs))
    finally:
        torch.set_num_threads(before)
    assert same(results[0], results[1]) and same(results[0], results[2])


@CUDA
@pytest.mark.gpu
@each
def test_no_wait_for_the_card(workload):
    inputs = make(workload, torch.device("cuda"))
    workload.call(inputs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        workload.call(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@CUDA
@pytest.mark.gpu
@each
def test_a_graph_replays_on_new_inputs(workload):
    device = torch.device("cuda")
    static = make(workload, device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            workload.call(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = workload.call(static)
    for seed in (1, 2, 3):
        other = make(workload, device, seed)
        expected = workload.call(other)
        for name, tensor in static.items():
            tensor.copy_(other[name])
        graph.replay()
        torch.cuda.synchronize()
        assert same(outputs, expected)


@CUDA
@pytest.mark.gpu
@each
def test_the_card_agrees_with_the_cpu(workload):
    on_card = workload.call(make(workload, torch.device("cuda")))
    on_cpu = workload.call(make(workload, torch.device("cpu")))
    for card, cpu in zip(on_card, on_cpu, strict=True):
        if card.is_floating_point():
            torch.testing.assert_close(card.cpu(), cpu, rtol=2e-5, atol=2e-5)
        else:
            assert torch.equal(card.cpu(), cpu)
