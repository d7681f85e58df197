"""Faults of the device code of nms, seen by its emulated suite."""

from __future__ import annotations

from mutants.mutant import rows_of

NMS = rows_of(
    "nms",
    "tests/test_emulated_nms.py",
    (
        "clear: kept boxes of other bins remove nothing",
        "const bool removed = «nms_removed(active, args, first + i, panel.begin)»;",
        "false",
        "several",
    ),
    (
        "clear: the class of a kept box is not asked",
        "!args.classes || «args.classes[*j] == args.classes[rank]»",
        "true",
        "several",
    ),
    (
        "clear: a team without a box lists the last one again",
        "const bool mine = «active» && NmsTeam<kNmsClearLanes>::lane() == 0;",
        "true",
        "several",
    ),
    (
        "clear: the lists of two blocks lie on each other",
        "args.list_of(panel.parity)[«boxes.at + t»]",
        "t",
        "several",
    ),
    (
        "decide: the list goes on growing",
        "«counters.listed[1 - panel.parity] = 0;»",
        "",
        "several",
    ),
    (
        "odd boxes are not asked",
        "by_rank(valid && «j >= begin && j < end», j)",
        "false",
        "out_of_range",
    ),
    (
        "a search leaves out the lowest level",
        "«level >= lowest» && level <= highest",
        "level > lowest",
    ),
    (
        "the highest level in reach is left out",
        "level >= lowest && «level <= highest»",
        "level < highest",
        "adversarial or several",
    ),
    (
        "levels: the bits of a word before count from its own",
        "for (int w = 0; «w < t»; ++w) at += __popc",
        "w < t - 1",
        "adversarial",
    ),
    (
        "a cell is of the row before",
        "static_cast<float>(in_level) + «0.5f»",
        "0.0f",
        "first_cell",
    ),
    (
        "the second bin of a lane begins where the first does",
        "if (u > 0) first[u] = first[u - 1] + «bins[u - 1].size»;",
        "0",
        "several or adversarial",
    ),
    (
        "the slots of the last lane are not dealt",
        "int left = Team::from(end, «kLanes - 1»);\n  int first[kBins]",
        "kLanes - 2",
        "several",
    ),
    (
        "a list takes one more than it has",
        "if (open && «slot < kNmsList») list",
        "slot <= kNmsList",
        "list_holds",
    ),
    ("a list that was cut counts as whole", "found.more || «found.count > kNmsList»;", "false", "list_holds"),
    ("a later box counts as a suppressor", "j >= begin && «j < query.rank» &&", "true", "several"),
    ("a kept box is not filed", "if («args.plan.bins == 0» || args.homes[p] < 0) return;", "true", "several"),
    (
        "a box is kept while a suppressor is open",
        "if («!Team::any(open)») found.count = 0;",
        "true",
        "several or chains",
    ),
    (
        "a box that is left is not counted",
        "if («left» && NmsTeam",
        "false",
        "several or chains",
    ),
    (
        "resolve: a list that is not whole counts as such",
        "verdict.more = «found > kNmsList»;",
        "false",
        "list_holds",
    ),
    (
        "resolve: only the first of a list is looked at",
        "slot < «count» && !verdict.dead",
        "1",
        "several or chains",
    ),
    (
        "count: a level is read while it is set",
        "if (!(«load_relaxed(levels + level / 32)» & bit)) atomicOr",
        "levels[level / 32]",
        "several",
    ),
    ("gather: the class of the rank", "input.idxs[«i»] : 0;\n  constexpr int kAtOnce", "from", "several"),
    ("deal: bins of a block overlap", "end += «w < warp ? sums[w] : 0»;", "0", "several or shipped"),
    (
        "merge: the last tile ends as the others do",
        "return «(i < merge.n) & (other < item)»;",
        "other < item",
        "merges",
    ),
    (
        "gather: two lanes have the same tiles",
        "uint32_t tile = first + «lane * share»; tile < end",
        "lane / 2 * share",
        "merges",
    ),
    (
        "tile: a part is merged before it is sorted",
        "«__syncthreads();»\n  const auto size",
        "",
        "merges",
    ),
    ("merge: the last tile is not counted", "(lane + 1) * share), «tiles»)", "tiles - 1", "merges"),
    (
        "tile: equal keys in any order",
        "item = static_cast<Item>(key) << 32 | «static_cast<uint32_t>(i)»",
        "~static_cast<uint32_t>(i)",
        "merges",
    ),
    ("compact: more rows than asked for", "if (mine && «place < o.rows») o.keep", "true", "compact"),
    ("compact: counts beyond the rows", "written = «min(int64_t{kept.y}, o.rows)»;", "kept.y", "compact"),
    ("compact: totals are overwritten", "«__syncthreads();»  // before totals", "", "compact"),
    (
        "compact: states before the block's ranks",
        "kept.x += «w * 16 < begin» ? here",
        "w * 16 <= begin",
        "compact",
    ),
    ("> is >=", ": «value > threshold»;", "value >= threshold", "test_options"),
    (
        "the threshold is rounded to the nearest float",
        "rounded = «std::nextafter(rounded, T(-INFINITY))»;",
        "rounded",
        "division or options",
    ),
)
