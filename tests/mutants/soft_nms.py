"""Faults of the soft-NMS family: its formula, the CPU's list, the card's kernels."""

from __future__ import annotations

from mutants.mutant import Mutant, rows_of

_OPS = "tests/test_soft_nms.py"

SOFT_NMS = [
    *rows_of(
        "soft_nms",
        "tests/test_emulated_soft_nms.py",
        ("gaussian: not squared", "(div_rn(-«mul_rn(overlap, overlap)», V{}", "overlap", "rules"),
        (
            "linear: below the threshold too",
            "return «rule.passes(overlap)» ? rest",
            "(overlap > V{})",
            "rules",
        ),
        ("a NaN IoU lowers", "return «overlap == overlap» ? w : one;", "w != one", "odd"),
        ("an infinite score stays NaN", "const V rest = «score == score» ? V{}", "score != score", "odd"),
        (
            "what lies on the threshold stays",
            "return «score <= score_threshold»; }\n  SSD_HOST_DEVICE T area(Vec4<T> box) const",
            "score < score_threshold",
            "odd or rules",
        ),
        (
            "choose: ties to the higher index",
            "(other_key == key && «other_at < at»)",
            "other_at > at",
            "equal",
        ),
        ("choose: the first box of a class is not looked for", "j < self && «args.idxs[j] == own»", "false"),
        (
            "choose: a class begins one late",
            "sum += «args.idxs[j] < own»;",
            "args.idxs[j] <= own",
            "rules or classes",
        ),
        ("gather: places of a warp only", "before += «w < warp» ? shared.counts[w]", "false", "classes"),
        (
            "gather: counts are overwritten",
            "found += all;\n    «__syncthreads();»  // before counts",
            "",
            "classes",
        ),
        ("choose: one buffer", "shared.best[«row % 2»]", "0", "rules"),
        ("choose: the chosen box stays", "rest = «p == chosen» ? U(0)", "false", "odd"),
        ("place: equal keys share a row", "(key == own && «begin + j < i»)", "begin + j <= i", "equal"),
        ("place: more rows than asked for", "own != 0 && «row < args.rows»", "true", "equal"),
        ("place: the count is not cut", "total < args.rows ? total : «args.rows»", "total", "equal"),
        ("place: the tile is read before it is whole", "«__syncthreads();»\n    for (int j", "", "sizes"),
    ),
    *(
        Mutant("soft_nms", f"cpu: {what}", old, new, f"{_OPS} -k '{only}'")
        for what, old, new, only in (
            ("equal scores of lanes in any order", "score[lane] > top || «at[lane] < found»", "true", "ties"),
            ("NaN scores come late", "more ? «first[chosen + 1]» : next", "next", "odd"),
            ("the best is lost where ranks close", "if (i == best) «best = left;»", "", "long"),
            ("what is gone comes back", "score = «score == gone» ? gone : left;", "score != score", "odd"),
            (
                "more choices than asked for",
                "if («static_cast<int64_t>(all.size()) > most») all.resize",
                "false",
                "max_output",
            ),
        )
    ),
    *(
        Mutant("soft_nms", f"diou: {what}", old, new, "tests/test_diou_nms.py")
        for what, old, new in (
            ("the distance once", "mul_rn(V{} + «T(4)», c)", "T(1)"),
            ("the lesser box", "h = sub_rn(«max_number(a.w, b.w)», min", "min_number(a.w, b.w)"),
            ("no distance", "passes(«sub_rn(overlap, distance(kept, box))»)", "overlap"),
            ("cpu: only one vector is looked at", "i < «size_» && !removed", "min_of(size_, kPad)"),
        )
    ),
    *(
        Mutant("soft_nms", f"matrix: {what}", old, new, "tests/test_matrix_nms.py")
        for what, old, new in (
            ("nothing compensates", "sub_rn(«mul_rn(c, c)», mul_rn(overlap", "V{}"),
            ("an infinite score stays NaN", "|| score != score ? product : «T(0)»;", "product"),
            ("equal scores lower both", "tile.keys[k] == key && «begin + k < j»", "begin + k != j"),
            ("other classes count", "«tile.classes[k] != own»", "false"),
            ("the last tile is whole", "rest < kMatrixBlock ? «static_cast<int>(rest)» :", "kMatrixBlock"),
            (
                "cpu: a box meets itself",
                "overlap = «place < static_cast<LaneOf<decltype(place)>>(j)» ?",
                "place <= static_cast<LaneOf<decltype(place)>>(j)",
            ),
        )
    ),
]
