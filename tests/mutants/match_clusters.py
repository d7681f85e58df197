"""Faults of matching in clusters, seen by its emulated suite."""

from __future__ import annotations

from mutants.mutant import rows_of

MATCH_CLUSTERS = rows_of(
    "matching",
    "tests/test_emulated_matching_clusters.py",
    (
        "clusters: the keys of the first block alone",
        "block = «static_cast<unsigned>(thread_)»",
        "0u",
        "priors",
    ),
    (
        "clusters: keys are read before all have looked",
        "«cluster_arrive_own();\n    cluster_wait();»\n    constexpr int kLanes",
        "__syncthreads();",
        "options",
    ),
    (
        "clusters: a block ends while others read its keys",
        "if (kKeeps && range_.count > 0) «cluster_wait();»",
        "",
        "options",
    ),
    (
        "clusters: the second look begins anew",
        "chunk_.keys[1][truth] = «best»;",
        "TopKey::Bits{0}",
        "options",
    ),
    ("clusters: no second look", "if («bound > T(0)» && !(bound <", "false", "largest_bound"),
    (
        "clusters: the second look compares with another truth",
        "reached = «chunk_.reached[truth]»;",
        "chunk_.reached[0]",
        "largest_bound",
    ),
    (
        "clusters: of groups of bound 0 the farthest",
        ": «~static_cast<uint32_t>(slot)»;",
        "static_cast<uint32_t>(slot) + 1",
        "touch_nothing",
    ),
    (
        "clusters: a truth that overlaps nothing has no best",
        "if («near == 0») return 0;",
        "true",
        "touch_nothing",
    ),
    ("clusters: a code is a place in the chunk", "TopKey::of(ordered, «base_ + truth»,", "truth", "chunks"),
    ("clusters: a claim is of a place in the chunk", "claim_prior(«base_ + truth»,", "truth", "chunks"),
    (
        "clusters: lists grow from chunk to chunk",
        "if («thread_ < 2») chunk_",
        "thread_ < 2 && base == 0",
        "chunks",
    ),
    ("clusters: a chunk comes before the last is done", "«__syncthreads();»  // no warp looks", "", "chunks"),
    ("clusters: a prior without a match is renamed", "relabels() && «code >= 0» &&", "true", "options"),
    (
        "clusters: the last claim to arrive wins",
        "«atomicMax(&table_.claims[place], truth);»",
        "atomicExch(&table_.claims[place], truth);",
        "chunks",
    ),
    ("clusters: every block claims the prior", "|| «(group & mask) != rank_») return", "false", "options"),
    ("clusters: truths are read while they are taken", "«__syncthreads();»\n    find_bounds", "", "options"),
    (
        "clusters: lists before the bounds are there",
        "find_bounds();\n    «__syncthreads();»",
        "",
        "ssd or largest_bound",
    ),
    ("clusters: a list is read while it is made", "«__syncthreads();»\n    }\n    look_at(0)", "", "options"),
    (
        "clusters: reached is read while it is set",
        "«__syncthreads();»\n      list_second",
        "",
        "ssd or largest_bound",
    ),
    (
        "clusters: the second list is read while it is made",
        "«__syncthreads();»\n      look_at(1)",
        "",
        "ssd or largest_bound",
    ),
    (
        "clusters: the best truths of a group are lost where the next begins",
        "«keep_best(slot, best);»\n        slot",
        "",
        "options",
    ),
    ("clusters: they go to the next group", "«best = 0;»\n        first", "", "options"),
    ("clusters: and those of the last", "«keep_best(slot, best);»\n  }", "", "options"),
    ("clusters: a run of the list lacks its end", "? «begin + each» : pairs", "begin + each - 1", "options"),
    ("clusters: a thread changes its truth", "«threads *= 2;»", "threads += 32;", "edges or chunks"),
    ("clusters: one round of keys", "«base < count_ * kLanes»;", "base == 0", "chunks"),
    ("clusters: codes are written before the claims", "«__syncthreads();»\n    write_codes", "", "options"),
    (
        "clusters: priors of the first image serve all",
        "priors_(«args.image_priors(image_)»)",
        "args.priors",
        "edges",
    ),
    (
        "clusters: an overlap that is the threshold is not enough",
        "real && !(«overlap < least_»))",
        "overlap <= least_",
        "options or fuzz",
    ),
    ("clusters: groups of the last team alone", "if («base > 0») load_group", "false", "more_groups"),
    (
        "clusters: of 8 in two waves",
        "if (few && most > 2 && «problem.batch > running»)",
        "false",
        "who_is",
    ),
    (
        "clusters: of 4 for many truths",
        "const bool few = «problem.rows <= kFewTruths * problem.batch»;",
        "true",
        "who_is",
    ),
    ("clusters: on a part of a card without room", "if («running > 0») return wide;", "true", "who_is"),
    (
        "clusters: on a card without",
        "if («!has_clusters(reinterpret_cast<const void*>(kernel))») return",
        "false",
        "cannot",
    ),
)
