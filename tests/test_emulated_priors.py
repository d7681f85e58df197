"""The priors kernel's device code on the CPU: every option, against the reference and the CPU op's bits."""

from __future__ import annotations

import pytest
import torch
from emulator.harness import fuzz_examples, kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_cuda import PriorSpec, ops, reference
from ssd_cuda.ops.priors import op_options


def generate(spec: PriorSpec, dtype=torch.float32) -> torch.Tensor:
    options = op_options(spec)
    arithmetic = "single" if options["single"] else "double"
    name = f"fill_{arithmetic}_{'f32' if dtype == torch.float32 else 'f64'}"
    return getattr(kernels("priors"), name)(spec.num_priors, options)


def check(spec: PriorSpec) -> None:
    for dtype in (torch.float32, torch.float64):
        result = generate(spec, dtype)
        assert torch.equal(result, ops.generate_priors(spec, "cpu", dtype))
        exact = reference.priors.generate_priors(spec)
        rough = dtype == torch.float32 or spec.arithmetic == "float32"
        scale = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
        tolerance = 2**-22 if rough else 2**-50
        torch.testing.assert_close(result.double(), exact, rtol=tolerance, atol=tolerance * scale)


def small(**changes) -> PriorSpec:
    spec = {
        "feature_maps": ((3, 5), 2),
        "sizes": (30, 60),
        "larger_sizes": (60, 111),
        "ratios": ((2,), (2, 3)),
    }
    return PriorSpec(**{**spec, "image_size": (200, 300), "steps": None, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"offset": 0.0},
        {"layout": "box_major"},
        {"format": "xyxy"},
        {"format": "xyxy", "pixels": True, "arithmetic": "float32"},
        {"pixels": True},
        {"clip": "cxcywh", "sizes": (300, 400)},
        {"clip": "wh", "sizes": (300, 400)},
        {"clip": "corners", "sizes": (300, 400)},
        {"clip": "corners", "sizes": (300, 400), "format": "xyxy"},
        {"feature_maps": (16, (16, 17))},  # a block is 256 threads
        {"feature_maps": (1, (1, 3))},
        {"feature_maps": (), "sizes": (), "larger_sizes": (), "ratios": ()},
    ],
    ids=lambda changes: ",".join(changes) or "defaults",
)
def test_every_option(changes):
    check(small(**changes))


@pytest.mark.parametrize("count", [0, 31, 32, 33, 70])
@pytest.mark.parametrize("layout", ["cell_major", "box_major"])
def test_more_boxes_than_a_launch_takes(count, layout):
    many = tuple((0.01 * k, 0.5) for k in range(1, count + 1))
    check(small(boxes=(many, ((0.5, 0.6),)), layout=layout))


def test_the_paper():
    check(PriorSpec.preset("paper"))


@settings(max_examples=fuzz_examples(), deadline=None)
@given(
    maps=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=2),
    sizes=st.lists(st.integers(5, 400), min_size=3, max_size=3),
    options=st.fixed_dictionaries(
        {
            "offset": st.sampled_from([0.0, 0.5]),
            "layout": st.sampled_from(["cell_major", "box_major"]),
            "clip": st.sampled_from(["none", "cxcywh", "wh", "corners"]),
            "format": st.sampled_from(["cxcywh", "xyxy"]),
            "pixels": st.booleans(),
            "arithmetic": st.sampled_from(["double", "float32"]),
        }
    ),
)
def test_fuzz_priors(maps, sizes, options):
    check(small(feature_maps=tuple(maps), sizes=sizes[:2], larger_sizes=sizes[1:], **options))
