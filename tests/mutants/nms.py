"""Faults of the device code of nms, seen by its emulated suite."""

from __future__ import annotations

from mutants.mutant import rows_of

NMS = rows_of(
    "nms",
    "tests/test_emulated_nms.py",
    (
        "clear: kept boxes of earlier panels remove nothing",
        "if («removed») {\n    args.set_state(p, NmsState::kRemoved);\n  } else if (!query.odd)",
        "false",
        "several",
    ),
    (
        "clear: the class of a kept box is not asked",
        "!args.classes || «args.classes[*j] == cls»",
        "true",
        "several",
    ),
    (
        "odd boxes of other panels are listed",
        "by_rank(valid && «j >= begin && j < end», j)",
        "true",
        "adversarial",
    ),
    (
        "a search leaves out the levels but its own",
        "next = «nms_next_level(levels, next, last)»;\n    if",
        "last + 1",
    ),
    (
        "the highest level in reach is left out",
        "level = after + 1; level «<=» last",
        "<",
        "adversarial or several",
    ),
    (
        "the slots of the last lane are not dealt",
        "left = Team::from(end, «kLanes - 1»);",
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
    (
        "a box of an earlier panel counts as a suppressor",
        "valid && «j >= begin» && j < query.rank",
        "true",
        "several",
    ),
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
        "the last block reads before the others have written",
        "«__threadfence();»  // what the others wrote, after theirs",
        "",
        "several",
    ),
    (
        "the last block arrives before it has written",
        "«__threadfence();»  // what this block wrote",
        "",
        "several",
    ),
    (
        "count: a level is read while it is set",
        "if (!(«load_relaxed(levels + level / 32)» & bit)) atomicOr",
        "levels[level / 32]",
        "several",
    ),
    ("gather: the class of the rank", "args.classes ? input.idxs[«i»] : 0;\n  args.order", "p", "several"),
    ("deal: bins of a block overlap", "end += «w < warp ? sums[w] : 0»;", "0", "several or shipped"),
    (
        "merge: the last tile ends as the others do",
        "return «(i < merge.n) &» (other < item)",
        "",
        "merges",
    ),
    ("merge: tiles of the next group are counted", "min(first + merge.fan, «tiles»)", "tiles + 1", "merges"),
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
