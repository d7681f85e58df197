"""Faults of the device code of detect, seen by its emulated suite."""

from __future__ import annotations

from mutants.mutant import rows_of

_TAKEN = ")) {\n      best = score, index = other;\n    }\n  }\n"

DETECT = rows_of(
    "detect",
    "tests/test_emulated_detect.py",
    (
        "slices from the 16th on are lost",
        "slice += «kImageThreads / 32», done",
        "slices",
        "more_slices",
    ),
    (
        "soft-NMS: ties within a warp",
        f"«(score == best && other < index)»{_TAKEN}  if (threadIdx",
        "false",
        "equal_logits",
    ),
    (
        "soft-NMS: ties between warps",
        f"«(score == best && other < index)»{_TAKEN}  __syncthreads();\n  return",
        "(score == best && other > index)",
        "equal_logits",
    ),
    (
        "thresholds by class: the second launch is the first again",
        "std::copy_n(from + «first», some.count",
        "0",
        "thresholds",
    ),
    (
        "thresholds by class: a list is taken for a column",
        "found = classes[«first_label + list»];",
        "list",
        "thresholds",
    ),
    (
        "thresholds by class: a candidate needs the least only",
        "s > «options.score_threshold_of(c)» &&",
        "options.score_threshold",
        "thresholds",
    ),
    (
        "thresholds by class: the kernel of one rule",
        "«options.rules_differ» ? image_kernel",
        "false",
        "thresholds",
    ),
    (
        "thresholds by class: soft-NMS drops at the least",
        "const T score_threshold = «options.score_threshold_of(label)»;",
        "options.score_threshold",
        "thresholds",
    ),
    (
        "thresholds by class: the bounds beside the threshold stay",
        "own.surely_above = «found.surely_above», own",
        "own.surely_above",
        "thresholds",
    ),
    ("the last bucket has no end", "[kSortKeys * kThreads] = «base + sum»;", "base", "last_bucket"),
    (
        "slices are copied although one dropped candidates",
        "return «bound == ~Key{0}» && places",
        "true",
        "overflow",
    ),
    (
        "slices are copied although they do not fit",
        "«places->first[kMostSlices] <= kImageCapacity»;",
        "true",
        "more_slices",
    ),
    (
        "a chunk meets the lists of the last",
        "if («table.chunk != nullptr && t < count») {",
        "false",
        "stay_where",
    ),
    ("kept boxes are not in the table", "if («table.kept != nullptr») {", "false", "presets or equal_logits"),
    ("an image stops after what is stored", "(!cut && («!stored» ||", "true", "overflow"),
    ("slices that dropped candidates set no bound", "bound = «worst[s] < bound» ?", "false", "overflow"),
    (
        "one candidate more than top_k",
        "if («rank >= options.top_k») atomicOr",
        "rank > options.top_k",
        "options",
    ),
    (
        "top_k is looked at one too late",
        "if («rank + t < options.top_k») c",
        "rank + t <= options.top_k",
        "options",
    ),
    (
        "some kept boxes suppress nothing",
        "k += «32 * parts») {",
        "32 * parts + 32",
        "equal_logits or stay_where",
    ),
    ("a chunk writes beyond the rows", "(chunk->kept, t) && «place < options.rows») {", "true", "options"),
    ("the first vector of an image is not read", "«low > 0» ? skew : kElements", "false", "begin_anywhere"),
    (
        "the last vector of an image is not read",
        "if («tail + lane < wanted») tile",
        "false",
        "begin_anywhere",
    ),
    (
        "a tile is read before it is there",
        "«wait_copies_but<1>();»",
        "wait_copies_but<2>();",
        "sizes or presets",
    ),
    (
        "a tile takes the place of one that is read",
        "«__syncwarp();»  // everyone has read the tile",
        "",
        "tiles",
    ),
    (
        "a tile is read before the other lanes' part is there",
        "«__syncwarp();»  // the tile is there",
        "",
        "tiles",
    ),
    (
        "rows after the first group of a tile are not tested",
        "row += «32 >> plan.shift»;",
        "plan.rows",
        "tiles",
    ),
    ("of two rows with candidates one is offered", "found = «left»;", "0", "presets or sizes"),
    ("a row that found no room begins again", "at.open &= «at.open - 1»;", "0", "overflow"),
    (
        "a second scan offers the first candidates again",
        "(«!range.after_any» || key > range",
        "true",
        "overflow",
    ),
    (
        "the screen is narrower than rounding",
        "(limit * sum) - «T(1e-3)»;",
        "T(-1e-3)",
        "thresholds or equal_logits",
    ),
    ("soft-NMS: a rank counts its own list", "if («l == list») continue;", "false", "options"),
    ("a pool counts places without a key", "state->count = «state->full»;", "state->count", "overflow"),
    ("a pool keeps the worst", "state->worst = keys[«keep - 1»];", "keep", "overflow"),
    ("bitonic: every run ascends", "(x > y) == «((a & run) == 0)»", "true", "crowd or options"),
    ("shared rows whatever the card", "return «rows < kSharedRows» ?", "false", "stay_where"),
    ("softmax: the background is no column", "own_background = «softmax» ?", "!softmax"),
    (
        "clip after is clip before",
        "return «options.clip == ClipKind::kAfter» ?",
        "options.clip == ClipKind::kBefore",
        "options",
    ),
)
