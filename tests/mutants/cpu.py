"""Faults of the CPU kernels."""

from __future__ import annotations

from mutants.mutant import Mutant

_REAL = "tests/test_real_sizes.py"

CPU = [
    Mutant(
        "cpu",
        "boxes: each grain of work starts at the first prior",
        "p = «row % coder.prior_rows», count = std::min",
        "(row - begin) % coder.prior_rows",
        f"{_REAL} -k encode",
    ),
    Mutant(
        "cpu",
        "boxes: a vector reads the gradient of the first rows",
        "upstream = load_boxes<N>(«grad + i»);",
        "grad",
        "tests/test_simd.py -k boxes",
    ),
    Mutant(
        "cpu",
        "boxes: the rows past whole vectors take the first variances",
        "coder.variance_of(«p + i»), coder.clamp",
        "p",
        "tests/test_boxes.py -k reference",
    ),
    Mutant(
        "cpu",
        "boxes: every 256 columns of box_iou are written over the first",
        "count, eps, «result + row * stride + j»);",
        "result + row * stride",
        f"{_REAL} -k iou",
    ),
    Mutant(
        "cpu",
        "boxes: the last columns of box_iou repeat the first ones of the tile",
        "left < N ? load_boxes<N>(«boxes + j», left)",
        "boxes",
        "tests/test_boxes.py -k iou",
    ),
    Mutant(
        "cpu",
        "detect: boxes decoded together all belong to the first image",
        "codes[i] = inputs.code(«image», prior);",
        "0",
        "tests/test_detect.py",
    ),
    Mutant(
        "cpu",
        "detect: the second 32 candidates are decoded as the first",
        "image_, «keys.data() + first», some, boxes);",
        "keys.data()",
        f"tests/test_detect.py {_REAL} -k detect",
    ),
    Mutant(
        "cpu",
        "detect: background counts where rows are passed over",
        "largest = max_of(capped<V>(x, «foreground_cap_», c), largest);",
        "columns_cap_",
        "tests/test_detect.py",
    ),
    Mutant(
        "cpu",
        "detect: the background is no part of the sum",
        "exp_negative_pack(capped<V>(x, «columns_cap_», c + u * kWidth)",
        "foreground_cap_",
        "tests/test_detect.py",
    ),
    Mutant(
        "cpu",
        "detect: what a slice left out is forgotten",
        "left_out |= «part.was_cut()»;",
        "false",
        "tests/test_detect.py -k cut_left",
    ),
    Mutant(
        "cpu",
        "detect: what the merge left out is forgotten",
        "return left_out || «merged.was_cut()»;",
        "false",
        f"tests/test_detect.py {_REAL} -k 'window or detect'",
    ),
    Mutant(
        "cpu",
        "detect: the screen has no slack",
        "sum * «T(1 - 1e-6)»;",
        "T(1 + 1e-6)",
        "tests/test_detect.py -k one_unit",
    ),
    Mutant(
        "cpu",
        "detect: a candidate comes twice",
        "if (after_any && !(«key > after»)) return;",
        "key >= after",
        "tests/test_detect.py -k window",
    ),
    Mutant(
        "cpu",
        "detect: the next window begins at the best",
        "next.after = «found.keys.back()»;",
        "found.keys.front()",
        "tests/test_detect.py -k window",
    ),
    Mutant(
        "cpu",
        "multibox: the last bytes of a gradient are not cleared",
        "std::memset(memory + i, 0, «bytes - i»);",
        "std::size_t{0}",
        f"{_REAL} -k last_byte",
    ),
    Mutant(
        "cpu",
        "multibox: ignored rows count",
        "if (row.kind == RowKind::kIgnored) «continue;»",
        "",
        "tests/test_multibox.py",
    ),
    Mutant(
        "cpu",
        "mining: the tie itself is left out",
        "clamp<int64_t>(«cut.tie + 1», 0, width)",
        "cut.tie",
        "tests/test_mining.py",
    ),
    Mutant(
        "cpu",
        "nms: boxes of odd sizes remove nothing",
        "if («odd_.size > 0» && any_removes",
        "false",
        "tests/test_nms.py",
    ),
    Mutant(
        "cpu",
        "nms: the grid does not know the first boxes",
        "for (int64_t kept : early_) «grid_.insert(kept, candidates_[kept]);»",
        "",
        "tests/test_nms.py",
    ),
    Mutant(
        "cpu",
        "nms: equal scores in the other order",
        "key < other.key : «index < other.index»;",
        "index > other.index",
        "tests/test_nms.py",
    ),
    Mutant(
        "cpu",
        "matching: a bad truth takes the short way",
        "safe = safe && «is_bounded_truth(box, area)»;",
        "true",
        "tests/test_matching.py",
    ),
    Mutant(
        "cpu",
        "matching: a bad prior takes the short way",
        "safe = safe && «a >= T(0)»;",
        "true",
        "tests/test_matching.py",
    ),
]
