"""Faults of weighted boxes fusion: its rule, the CPU's clusters, the card's kernels."""

from __future__ import annotations

from mutants.mutant import Mutant, rows_of

FUSION = [
    *rows_of(
        "fusion",
        "tests/test_emulated_fusion.py",
        ("a box is not weighted in its cluster", "add_rn(total, «mul_rn(own, own_score)»);", "own", "rules"),
        ("the best score is the last", "best = «own_score > best» ? own_score", "true", "rules"),
        ("corners stay the wrong way round", "if («box.z < box.x») swap", "false", "rules or padding"),
        ("what is below the threshold takes part", "if («!(score >= skip)») return", "false", "rules"),
        (
            "absent models count twice",
            "add_rn(cluster.weight, «sub_rn(total, present)»)",
            "total",
            "rules",
        ),
        ("more boxes than models are not cut", "if (overflow || «cluster.boxes <= models»)", "true", "rules"),
        (
            "a label begins at another's place",
            "sum += __syncthreads_count(j < n && «keys[j] != 0 && labels[j] < label»);",
            "labels[j] < label && keys[j] != 0 && j > 3",
            "sizes",
        ),
        ("equal scores: the later first", "rank += key > own || (key == own && «j < m»);", "j > m", "equal"),
        (
            "equal overlaps: the later cluster",
            "(other == overlap && «other_at < at»)",
            "other_at > at",
            "equal or more_clusters",
        ),
        (
            "a cluster is not seen by all",
            "count += k < 0;\n    «__syncthreads();»  // the cluster",
            "",
            "rules",
        ),
        (
            "models that do not lie side by side count twice",
            "if (leader[members[m]] != first || «model == last») continue;",
            "false",
            "rules",
        ),
        (
            "boxes beyond the result have a row",
            "args.row[base + i] = «row < args.to.rows» ? static_cast<int32_t>(row) : -1",
            "true",
            "few_rows",
        ),
        ("place: equal scores share a row", "(key == own && «begin + t < i»)", "begin + t <= i", "rules"),
        ("follow: the leader of another image", "args.row[«i - i % args.in.n» + leader]", "0", "rules"),
    ),
    *(
        Mutant("fusion", f"cpu: {what}", old, new, f"tests/test_fusion.py -k '{only}'")
        for what, old, new, only in (
            (
                "equal overlaps: the later cluster",
                "if («overlap[lane] > best») best = overlap",
                "overlap[lane] >= best",
                "equal",
            ),
            ("the clusters of the last label", "«fused_.clear();»\n        begin", "", "references"),
            ("the fused box stays the first", "«fused_.put(k, cluster.box);»", "", "references"),
            (
                "a model counts as often as its boxes",
                "if (k < 0 || «last[k] == model») continue;",
                "false",
                "references",
            ),
        )
    ),
]
