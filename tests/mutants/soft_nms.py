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
            "return «score <= score_threshold»;",
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
        ("choose: the chosen box stays", "«p == chosen» || rest != score", "false", "odd"),
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
]
