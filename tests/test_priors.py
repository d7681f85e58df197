"""priors: every option and preset against the plain loops, the seed bit for bit, cache, graphs, errors."""

from __future__ import annotations

import pytest
import torch
from oracles.seed import DefaultBoxGenerator as SeedGenerator
from torch._subclasses.fake_tensor import FakeTensorMode

from ssd_cuda import PriorSpec, ops, reference
from ssd_cuda.nn import DefaultBoxGenerator
from ssd_cuda.ops._shared import SharedTensor

PRESETS = {
    "paper": 8732,
    "caffe": 8732,
    "paper512": 24564,
    "torchvision": 8732,
    "torchvision_ssdlite": 3234,
    "amdegroot": 8732,
    "amdegroot_coco": 8732,
    "lufficc": 8732,
    "lufficc512": 24564,
    "qfgaohao": 8732,
    "nvidia": 8732,
    "sgrvinod": 8732,
    "mmdet": 8732,
    "gluon": 8732,
    "retinaface": 16800,
    "ulfg": 4420,
    "tf": 1917,
    "seed": 8732,
}
SMALL = {"feature_maps": ((3, 5), 2), "sizes": (30, 60), "larger_sizes": (60, 111), "ratios": ((2,), (2, 3))}


def small(**changes) -> PriorSpec:
    return PriorSpec(**{**SMALL, "image_size": (200, 300), "steps": None, **changes})


def assert_is_the_reference(spec: PriorSpec, device: torch.device) -> None:
    """Within one rounding: the reference is exact, ours is rounded once (or after each float32 operation)."""
    exact = reference.priors.generate_priors(spec).to(device)
    result = ops.generate_priors(spec, device)
    assert result.dtype == torch.float32 and result.shape == (spec.num_priors, 4) == exact.shape
    operations = 4 if spec.arithmetic == "float32" else 1
    scale = float(exact.abs().max()) if spec.arithmetic == "float32" else 0.0
    atol = operations * 2**-24 * scale + 1e-12
    torch.testing.assert_close(result.double(), exact, rtol=2**-24 * 1.01, atol=atol)
    if spec.arithmetic == "double":
        wide = ops.generate_priors(spec, device, torch.float64)
        torch.testing.assert_close(wide, exact, rtol=1e-14, atol=1e-12 * (300 if spec.pixels else 1))


@pytest.mark.parametrize("name", PRESETS)
def test_presets(device, name):
    spec = PriorSpec.preset(name)
    assert spec.num_priors == PRESETS[name]
    assert_is_the_reference(spec, device)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"units": "fraction", "sizes": (0.2, 0.5), "larger_sizes": (0.5, 1.0)},
        {"ratios": ((2, 0.5), (3, 1, 0.333)), "ratio_order": "listed"},
        {"larger_position": "last"},
        {"larger_sizes": None},
        {"sizes": ((10, 20.5), (40, 50, 61.7)), "larger_sizes": ((20, 31), (50, 60, 70))},
        {"sizes": ((10, 20), (40,)), "larger_sizes": None, "ratios": ((), ())},
        {"steps": (70, (90.5, 140))},
        {"steps": (64, 128), "feature_maps": None},
        {"offset": 0.0},
        {"layout": "box_major"},
        {"integer_sizes": True, "sizes": (30.9, 60.9), "larger_sizes": (60.2, 111.7)},
        {"clip": "cxcywh", "sizes": (300, 400)},
        {"clip": "wh", "sizes": (300, 400)},
        {"clip": "corners", "sizes": (300, 400)},
        {"clip": "corners", "sizes": (300, 400), "format": "xyxy"},
        {"format": "xyxy"},
        {"format": "xyxy", "pixels": True},
        {"pixels": True},
        {"pixels": True, "arithmetic": "float32", "format": "xyxy"},
        {"boxes": (((0.1, 0.2), (0.3, 0.4)), ((0.5, 0.6),))},
        {"boxes": (tuple((0.01 * k, 0.5) for k in range(1, 70)), ()), "layout": "box_major"},
        {"feature_maps": (), "sizes": (), "larger_sizes": (), "ratios": ()},
    ],
    ids=lambda changes: ",".join(changes) or "defaults",
)
def test_every_option_is_the_reference(device, changes):
    assert_is_the_reference(small(**changes), device)


def test_lists_are_accepted_and_the_spec_stays_hashable():
    spec = PriorSpec(
        image_size=[300, 300], feature_maps=[38, [19, 19], 10, 5, 3, 1], steps=list(range(8, 14))
    )
    assert spec.feature_maps[:2] == ((38, 38), (19, 19)) and hash(spec) == hash(spec.replace())


# -- the seed


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {
            "image_size": 512,
            "feature_maps": [64, 32, 16],
            "aspect_ratios": [[1, 2], [2, 1 / 2], [1, 3, 1 / 3]],
        },
        {"feature_maps": [4, 2]},
    ],
    ids=str,
)
def test_the_seeds_class_bit_for_bit(device, arguments):
    ours, seed = DefaultBoxGenerator(**arguments), SeedGenerator(**arguments)
    assert torch.equal(ours.generate(device), seed.generate(device))
    assert torch.equal(ours(device), ours.generate(device))
    assert ours.scales == seed.scales and ours.image_size == seed.image_size
    assert list(ours.feature_maps) == list(seed.feature_maps) and ours.aspect_ratios == seed.aspect_ratios
    assert not list(ours.state_dict())


def test_the_preset_is_the_seeds_class(device):
    expected = SeedGenerator().generate(device)
    assert torch.equal(ops.generate_priors(PriorSpec.preset("seed"), device), expected)


# -- cache, threads, compile, graphs


def test_made_once_per_spec_device_and_dtype(device):
    spec = small()
    first = ops.generate_priors(spec, device)
    assert ops.generate_priors(small(), device) is first
    assert ops.generate_priors(spec, device, torch.float64) is not first
    fresh = DefaultBoxGenerator()
    assert fresh.generate(device) is not fresh.generate(device)


def test_what_is_made_under_a_fake_mode_is_not_kept():
    spec = small(offset=0.123)  # nobody else's
    for _ in range(2):
        with FakeTensorMode():
            assert type(ops.generate_priors(spec)) is not torch.Tensor
        found = ops.generate_priors(spec)
        assert type(found) is torch.Tensor and found is ops.generate_priors(spec)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.vmap])
def test_what_is_made_within_a_transform_is_not_kept(transform):
    """A transform wraps it: later calls would give a tensor without memory, which cannot be saved."""
    spec = small(offset=0.375)
    transform(lambda x: (x * ops.generate_priors(spec)).sum())(torch.ones(1))
    priors = ops.generate_priors(spec)
    assert priors.untyped_storage().nbytes() == priors.numel() * 4
    assert priors is ops.generate_priors(spec)


def test_made_under_inference_mode_still_serves_training(device):
    with torch.inference_mode():
        priors = ops.generate_priors(small(offset=0.25), device)
    loc = torch.zeros(len(priors), 4, device=device, requires_grad=True)
    ops.decode(loc, priors).sum().backward()
    assert loc.grad is not None


class FakeStream:
    """Notes what it is told to wait for."""

    def __init__(self):
        self.waited = []

    def wait_event(self, event):
        self.waited.append(event)


class FakePriors:
    device = torch.device("cuda", 0)

    def __init__(self):
        self.used_on = []

    def record_stream(self, stream):
        self.used_on.append(stream)


def test_another_stream_waits_for_the_one_that_fills_them(monkeypatch):
    first, other, filled = FakeStream(), FakeStream(), object()
    shared = SharedTensor(FakePriors(), first, filled)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for stream in (first, other):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device, stream=stream: stream)
        assert shared.for_current_stream() is shared.tensor
    assert first.waited == [] and other.waited == [filled]
    assert shared.tensor.used_on == [other]


def test_a_capture_does_not_wait_for_what_came_before_it(monkeypatch):
    first, capturing = FakeStream(), FakeStream()
    shared = SharedTensor(FakePriors(), first, object())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: capturing)
    assert shared.for_current_stream() is shared.tensor and capturing.waited == []


def test_on_a_card_another_stream_sees_them_filled(device):
    if device.type != "cuda":
        pytest.skip("CUDA streams")
    spec, side = small(offset=0.375), torch.cuda.Stream(device)
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        first = ops.generate_priors(spec, device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        later = ops.generate_priors(spec, device)
        copied = later.clone()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert later is first and torch.equal(copied.cpu(), ops.generate_priors(spec))


def test_compiles_without_a_break(device):
    spec = small(offset=0.75)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x):
        return x + ops.generate_priors(spec, x.device)

    x = torch.zeros(spec.num_priors, 4, device=device)
    assert torch.equal(step(x), ops.generate_priors(spec, device))


def test_opcheck(device):
    spec = PriorSpec(feature_maps=((2, 3),), sizes=(30,), larger_sizes=(60,), ratios=((2,),), steps=None)
    output = torch.empty(spec.num_priors, 4, device=device)
    torch.library.opcheck(torch.ops.ssd_cuda.fill_priors.default, (output,), ops.priors.op_options(spec))


def test_captures_in_a_cuda_graph(device):
    if device.type != "cuda":
        pytest.skip("CUDA graphs")
    spec = small(offset=0.125)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):
            priors = ops.generate_priors(spec, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph.replay()
    assert torch.equal(priors, ops.generate_priors(spec, device))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: PriorSpec.preset("yolo"), ValueError, "preset must be one of amdegroot, .*got 'yolo'"),
        (lambda: PriorSpec.preset("paper", scale=1), TypeError, "PriorSpec has no option 'scale'; it has"),
        (lambda: small(steps=(8,)), ValueError, r"steps must have one entry per feature map \(2\), got 1"),
        (
            lambda: small(ratios=((2,),)),
            ValueError,
            r"ratios must have one entry per feature map \(2\), got 1",
        ),
        (lambda: small(sizes=(30, -1)), ValueError, "sizes must hold positive numbers.*-1"),
        (
            lambda: small(larger_sizes=((1, 2), 3)),
            ValueError,
            r"larger_sizes\[0\] must have 1 entries like sizes\[0\]",
        ),
        (
            lambda: small(feature_maps=(0, 2)),
            ValueError,
            "feature_maps must hold one positive number or .* pair",
        ),
        (lambda: small(feature_maps=(1.5, 2)), TypeError, "feature_maps must hold integers, got"),
        (lambda: small(feature_maps=None), ValueError, "steps must be given where feature_maps is None"),
        (
            lambda: small(clip="xywh"),
            ValueError,
            "clip must be one of 'none', 'cxcywh', 'wh', 'corners', got 'xywh'",
        ),
        (lambda: small(offset="half"), TypeError, "offset must be a number, got str"),
        (
            lambda: small(variances=(0.1, 0.2)),
            ValueError,
            r"variances must be 4 positive numbers, got \(0.1, 0.2\)",
        ),
        (lambda: ops.generate_priors([1]), TypeError, "spec must be a PriorSpec, got list"),
        (
            lambda: ops.generate_priors(small(), "cpu", torch.half),
            TypeError,
            "dtype must be float32 or float64, got float16",
        ),
        (lambda: DefaultBoxGenerator(feature_maps=[1]), ValueError, r"at least two entries, got \[1\]"),
        (
            lambda: DefaultBoxGenerator(aspect_ratios=[[1]]),
            ValueError,
            r"one list per feature map \(6\), got 1",
        ),
    ],
)
def test_errors_name_argument_expectation_finding(call, error, words):
    with pytest.raises(error, match=words):
        call()
