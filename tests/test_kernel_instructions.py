"""What nvcc makes of the arithmetic, read from its PTX: roundings that are promised to be separate are.

The host compiles every formula without contraction, and the emulated suite with it: only here is it seen
that the device branches of host_device.h keep a product and a sum apart. A product without a rounding mode
may become part of a fused operation, in nvcc or later in ptxas; ``mul.rn.f32`` may not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import kernel_table

ROOT = Path(__file__).parents[1]
# Fused operations of exp_reduced and log_reduced in exp_math.h, all of them written.
EXP, LOG = 9, 11
TAKES_LOG = {"coder_kernel<float, 0>"}
TAKES_BOTH = {"focal_sigmoid_kernel", "focal_softmax_kernel", "focal_slope_kernel"}
ADDS_EXPS = {"focal_softmax_kernel": 5}  # into a sum, one more each: a row's by four and by one
LOG2_E, LOG_FIRST = "0f3FB8AA3B", "0f3D9021BB"  # a constant of each exp and of each log

# Kernels that may have products of any rounding, and why no promise depends on it.
FREE_PRODUCTS = {
    "coder_kernel<float, 2>": "gradients: products and quotients, no sum of a product",
    "coder_kernel<float, 3>": "gradients: products, no sum of a product",
    "claim_kernel<double>": "overlap_bound: an upper bound with a slack of 2^-16",
    "pair_kernel": "overlap_bound: an upper bound with a slack of 2^-16",
    "match_kernel": "overlap_bound: an upper bound with a slack of 2^-16",
    "cluster_match_kernel": "overlap_bound: an upper bound with a slack of 2^-16",
    "keys_beside_match_kernel": "as keys_kernel",
    "keys_kernel": "smooth L1, whose products with 0.5 are exact; log and exp in one kernel",
    "backward_kernel": "gradients; log and exp in one kernel",
    "focal_rows_kernel": "smooth L1, as in keys_kernel",
    "focal_loc_kernel": "gradients; log in a kernel of products",
    "scan_kernel": "the screen's bound, wider than any rounding",
    "image_kernel": "the screen's bound, wider than any rounding",
    "soft_nms_kernel": "the screen's bound, wider than any rounding",
}
# Approximations that may appear, and why.
APPROXIMATE = {
    r"rcp\.approx\.ftz\.f64": "the first guess of a float64 division, which is exact in the end",
    r"lg2\.approx(\.ftz)?\.f32": "log_near: the screen's bound",
}


def entries(ptx: str) -> dict[str, str]:
    """The text of each kernel by its readable name."""
    found = {}
    for text in re.split(r"\.entry ", ptx)[1:]:
        found[kernel_table.readable(re.match(r"\w+", text).group())] = text
    return found


def is_exact(name: str) -> bool:
    free = any(name == known or name.split("<")[0] == known for known in FREE_PRODUCTS)
    return "double" not in name and not free


def without_exact(text: str) -> str:
    """Without the products with a power of two, which no rounding changes."""

    def rest(product: re.Match[str]) -> str:
        return product.group() if int(product.group(1), 16) & 0x7FFFFF else ""

    return re.sub(r"\bmul\.f32\s+[^;]*, 0f([0-9A-F]{8});", rest, text)


def uses(constant: str, text: str) -> int:
    """How many fused operations take the constant, themselves or from a register that holds it."""
    holders = [constant, *re.findall(rf"mov\.[bf]32\s+(%\w+), {constant};", text)]
    return sum(len(re.findall(rf"fma\.rn\.f32[^;]*{re.escape(h)}\b", text)) for h in holders)


def free_products(name: str, text: str) -> dict[str, int]:
    """Products, and fused operations nobody wrote, that a kernel of separate roundings must not have."""
    text = without_exact(text)
    count = Counter(re.findall(r"\b((?:mul|fma\.rn|mad)(?:\.\w+)*\.f32)\b", text))
    fused = count["fma.rn.f32"]
    if name.split("<")[0] in TAKES_BOTH:
        written = EXP * uses(LOG2_E, text) + LOG * uses(LOG_FIRST, text)
        as_written = fused == written + ADDS_EXPS.get(name.split("<")[0], 0)
    else:
        as_written = fused % (LOG if name in TAKES_LOG else EXP) == 0
    if as_written:
        del count["fma.rn.f32"]
    del count["mul.rn.f32"]
    return dict(count)


class Kernels(dict[str, str]):
    """PTX by the name of the kernel, of one architecture."""

    arch: int


@pytest.fixture(scope="module", params=kernel_table.COMPILED_IN_TESTS)
def kernels(request) -> Kernels:
    if not kernel_table.find_nvcc():
        pytest.skip("no nvcc on PATH nor in CUDA_HOME")
    found = Kernels()
    found.arch = int(request.param.removeprefix("sm_"))
    for family in kernel_table.families():
        found.update(entries(kernel_table.ptx(family, request.param)))
    return found


GLOBAL = re.compile(r"\b(?:ld|st|atom|red|cp\.async)\.(?!param|shared|local|const)[\w.:]+")


# What these touch before they wait the emulator checks (test_keys_beside_matching).
BEGINS_BESIDE = {"keys_beside_match_kernel"}
LETS_IN_LATE = {"cluster_match_kernel"}


def test_every_kernel_waits_for_the_one_before_it(kernels):
    """Before its first access to global memory, from sm_90 on; after_previous_kernel() has why. The next
    kernel is let in before that, but by one that it may begin beside."""
    for name, text in kernels.items():
        waits = text.find("griddepcontrol.wait")
        assert (waits >= 0) == (kernels.arch >= 90), name
        first, plain = GLOBAL.search(text), name.split("<")[0]
        assert first is None or (waits < first.start()) == (plain not in BEGINS_BESIDE or waits < 0), name
        late = text.find("griddepcontrol.launch_dependents") > waits
        assert late == (plain in LETS_IN_LATE and waits >= 0), name


def test_the_kernels_that_run_side_by_side_are_there(kernels):
    assert {*BEGINS_BESIDE, *LETS_IN_LATE} <= {name.split("<")[0] for name in kernels}


def test_products_are_rounded_before_they_are_added(kernels):
    bad = {name: free_products(name, text) for name, text in kernels.items() if is_exact(name)}
    assert not {name: found for name, found in bad.items() if found}


def test_the_exact_kernels_are_looked_at(kernels):
    exact = {name.split("<")[0] for name in kernels if is_exact(name)}
    wanted = {"iou_kernel", "coder_kernel", "group_kernel", "priors_kernel", "rank_kernel"}
    assert wanted | {"nms_clear_kernel", "nms_decide_kernel"} <= exact
    assert any("mul.rn.f32" in text for name, text in kernels.items() if name.startswith("iou_kernel"))


def test_every_reason_names_a_kernel(kernels):
    names = {*kernels, *(name.split("<")[0] for name in kernels)}
    assert {*FREE_PRODUCTS, *TAKES_LOG, *TAKES_BOTH} <= names


def test_no_approximation_without_a_reason(kernels):
    for name, text in kernels.items():
        found = set(re.findall(r"\b[a-z][\w.]*\.(?:approx|ftz|full)[\w.]*", text))
        strange = [op for op in found if not any(re.fullmatch(known, op) for known in APPROXIMATE)]
        assert not strange, name


# Arithmetic of doubles, and conversions of 64 bits, which are as slow.
WIDE = re.compile(r"\b\w[\w.]*\.f64\b|\bcvt(?:\.\w+)*\.(?:[su]64\.f32|f32\.[su]64)\b")


def test_nms_of_floats_reckons_in_floats(kernels):
    """Most cards have a sixty-fourth of the units for doubles, and every search reckons its cells."""
    nms = {name: text for name, text in kernels.items() if name.startswith("nms_")}
    wide = {name for name, text in nms.items() if WIDE.search(text)}
    assert {name for name in nms if "float" in name} > {
        "nms_clear_kernel<8, float>",
        "nms_sweep_kernel<float>",
    }
    assert "nms_clear_kernel<8, double>" in wide
    assert not {name for name in wide if "double" not in name}


def test_both_ways_to_the_greatest_of_a_warp(kernels):
    """Before sm_80 there is no redux: lanes are joined by shuffles."""
    fast = any(
        "redux.sync.max" in text for name, text in kernels.items() if name.startswith("match_kernel<float")
    )
    assert fast == (kernels.arch >= 80)


KERNEL = """
#include "math/box_math.h"
__global__ void iou_kernel(const ssd_cuda::Vec4<float>* a, float* to) {
  *to = ssd_cuda::iou(a[0], ssd_cuda::box_area(a[0]), a[1], ssd_cuda::box_area(a[1]), 0.0f);
}
"""


@pytest.mark.parametrize("product", ["__fmul_rn(a, b)", "a * b"])
def test_a_product_that_may_fuse_is_found(product, tmp_path):
    """The formulas with the intrinsic as they are, and with a plain product in its place."""
    nvcc = kernel_table.find_nvcc()
    if not nvcc:
        pytest.skip("no nvcc on PATH nor in CUDA_HOME")
    shutil.copytree(ROOT / "csrc" / "common" / "math", tmp_path / "math")
    formulas = tmp_path / "math" / "host_device.h"
    text = formulas.read_text()
    assert text.count("return __fmul_rn(a, b);") == 1
    formulas.write_text(text.replace("return __fmul_rn(a, b);", f"return {product};"))
    (tmp_path / "kernel.cu").write_text(KERNEL)
    command = [nvcc, "-ptx", "-std=c++20", "-arch=sm_80", "-I", str(tmp_path), "-I", str(ROOT / "csrc")]
    subprocess.run([*command, "kernel.cu", "-o", "kernel.ptx"], cwd=tmp_path, check=True)
    ((name, kernel),) = entries((tmp_path / "kernel.ptx").read_text()).items()
    assert is_exact(name)
    assert bool(free_products(name, kernel)) == (product == "a * b")
