"""Faults of an index that needs more than 32 bits."""

from __future__ import annotations

from mutants.mutant import Mutant

_PLACE = "«static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x»;\n"
_NARROW = "blockIdx.x * blockDim.x + threadIdx.x"

WIDE = [
    Mutant(family, f"32 bits: {what}", old, new, f"tests/test_emulated_wide.py -k '{only}'")
    for family, what, old, new, only in (
        ("boxes", "a pair", f"int64_t pair = {_PLACE}", _NARROW, "iou"),
        ("boxes", "a row", f"int64_t row = {_PLACE}  if (row >= rows)", _NARROW, "decode"),
        ("priors", "a prior", f"int64_t i = {_PLACE}  if (i >= cells", _NARROW, "priors"),
        (
            "matching",
            "a code",
            "const int64_t row = «b * args.num_priors + p»;",
            "static_cast<uint32_t>(b * args.num_priors + p)",
            "match and none",
        ),
        (
            "matching",
            "clusters: a code",
            "codes = args_.codes + «image_ * args_.num_priors»;",
            "static_cast<int32_t>(image_ * args_.num_priors)",
            "match and none",
        ),
        (
            "mining",
            "a key",
            "first = «row * args.width»;\n  const StoredKeys",
            "static_cast<int32_t>(row * args.width)",
            "top_k",
        ),
        (
            "mining",
            "a mask",
            "«uint64_t{blockIdx.x} * static_cast<unsigned>(args.width)»;",
            "static_cast<uint64_t>(blockIdx.x * static_cast<unsigned>(args.width))",
            "hard",
        ),
        (
            "multibox",
            "an image",
            "S* at(int64_t image, int64_t p) const {\n    return data + «image * image_stride» +",
            "static_cast<uint32_t>(image * image_stride)",
            "multibox",
        ),
        (
            "multibox",
            "a class",
            "tile[row * pitch + c] = source[«c * view.class_stride» + row];",
            "static_cast<uint32_t>(c * view.class_stride)",
            "multibox",
        ),
        (
            "detect",
            "an image",
            "«image * image_stride» + prior * row_stride;",
            "static_cast<uint32_t>(image * image_stride)",
            "detect",
        ),
    )
]
