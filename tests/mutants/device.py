"""Faults of the device code, seen by the emulated suite."""

from __future__ import annotations

from mutants.detect import DETECT
from mutants.match_clusters import MATCH_CLUSTERS
from mutants.multibox import MULTIBOX
from mutants.mutant import rows_of as _of
from mutants.nms import NMS
from mutants.wide import WIDE

_MINING = _of(
    "mining",
    "tests/test_emulated_mining.py",
    (
        "static memory is not counted",
        "bytes <= «dynamic_shared_room(kSelectStatic)»",
        "dynamic_shared_room(0)",
        "just_fit",
    ),
    ("the prefix sum of a warp skips a lane", "if («lane >= step») scan.", "lane > step", "test_dtypes"),
    ("the bucket begins one too early", "if («before < k» && k", "before <= k", "test_dtypes"),
    (
        "the bucket is the last that begins before k or at it",
        "if («through < k») {",
        "through <= k",
        "test_dtypes",
    ),
    ("what is no key is counted", "histogram[«real ? bin : kSelectBins»]", "bin", "test_top_k"),
    (
        "the histogram is that of the digit before",
        "const unsigned digit = (1u << (bucket.shift - shift)) - 1;\n  «clear_histogram(shared);»",
        "",
        "just_fit_in",
    ),
    (
        "a digit is counted while others clear",
        "«__syncthreads();»\n  visit([&](U number)",
        "",
        "just_fit_in",
    ),
    (
        "a digit of other keys",
        "if («bucket.holds(number)») {",
        "true",
        "just_fit_in",
    ),
    (
        "a key more than there is room for is listed",
        "return «inside <= kListed» &&",
        "inside <= kListed + 1",
        "just_fit_in",
    ),
    ("keys of other buckets are listed", "if («bucket.holds(key)») *to++", "true", "just_fit_in"),
    (
        "keys of other buckets are listed one by one",
        "if («bucket.holds(key)») {\n        shared",
        "true",
        "just_fit_in",
    ),
    (
        "a thread makes room for one key of the list",
        "own += bucket.holds(key); });\n    if (own == 0) return;\n    Listed<U>* to = "
        "shared.list + atomicAdd(&shared.listed, «own»);",
        "1u",
        "",
    ),
    (
        "the list is read while it is written",
        "«__syncthreads();»\n  const unsigned place",
        "",
        "just_fit_in",
    ),
    (
        "the list is ranked by its first 32",
        "for (unsigned first = 0; first < «count»; first",
        "(count < 32 ? count : 32u)",
        "just_fit_in",
    ),
    (
        "the first 32 of the list are ranked",
        "if («place / 4 * 4 >= bucket.inside») return;",
        "place >= 32",
        "just_fit_in",
    ),
    (
        "what lies behind the list counts as better",
        "shared.list[threadIdx.x] = {«U{0}», ~U{0}};",
        "~U{0}",
        "just_fit_in",
    ),
    (
        "mask: the one after the last",
        "better < «bucket.needed» &&",
        "bucket.needed + 1",
        "test_hard_negatives",
    ),
    ("mask: excluded rows are listed", "&& «own.key != kExcluded<U>»;", "true", "as_far_as"),
    (
        "mask: keys beside the bucket",
        "mask[i] = «key > bucket.value»;",
        "key < bucket.value",
        "test_hard_negatives",
    ),
    (
        "ranks of a warp's keys run together",
        "byte = «lane / kRankLanes * 8»;",
        "lane / kRankLanes * 4",
        "just_fit_in",
    ),
    (
        "list: ties go to the highest index",
        "& («other.index < own.index»)",
        "other.index > own.index",
        "just_fit_in",
    ),
    ("list: the one after the last", "better == «bucket.needed - 1») shared", "bucket.needed", "just_fit_in"),
    ("keys beyond the row are read", "kCertain<kPerThread> || «i < last» ? i", "true", "test_dtypes"),
    (
        "positives beyond the row count",
        "counts.positives += «real ? at.positive : 0»;",
        "at.positive",
        "test_hard_negatives",
    ),
    ("rows beyond the end are excluded", "counts.excluded += «real ? 1 - may : 0»;", "1 - may", "as_far_as"),
    (
        "candidates are not asked",
        "is_limited() const { return «candidate != nullptr»; }",
        "false",
        "as_far_as",
    ),
    (
        "a positive that is no candidate is excluded",
        "return «candidate[i] | positive[i]»;",
        "candidate[i]",
        "as_far_as",
    ),
    (
        "least negatives beyond the limit",
        "static_cast<Int>(least_wanted) : «limit»;",
        "static_cast<Int>(least_wanted)",
        "as_far_as",
    ),
    (
        "ties go to the highest index",
        "fn(«last - static_cast<unsigned>(i)»)",
        "static_cast<unsigned>(i)",
        "dtypes",
    ),
    (
        "excluded rows can be selected",
        "if («cut.threshold == kExcluded<U>») return",
        "false",
        "as_far_as",
    ),
    ("count is not cut at the width", "k > args.width ? «args.width» : k;", "k", "test_top_k"),
    ("ceil is floor", "whole = «rule.round_up» ?", "false", "test_hard_negatives"),
    (
        "a reduction is read before it is whole",
        "scratch[threadIdx.x / 32] = value;\n  «__syncthreads();»\n"
        "  return warp_reduce(scratch[threadIdx.x % kSelectWarps], fn);",
        "",
        "test_dtypes",
    ),
    (
        "a reduction's scratch is written while it is read",
        "«__syncthreads();»\n  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;\n"
        "  __syncthreads();\n"
        "  return warp_reduce(scratch[threadIdx.x % kSelectWarps], fn);",
        "",
        "scratch_free",
    ),
)

_MATCHING = _of(
    "matching",
    "tests/test_emulated_matching.py",
    (
        "forced only above the least overlap",
        "|| «best >= forced_min»;",
        "best > forced_min",
        "is_the_least",
    ),
    ("the bound is below the overlap", "eps) * «kSlack» + kTiny", "(T(1) - T(1) / T(64))"),
    ("search: lanes leave a vote early", "i = lane; «i - lane < count»; i", "i < count", "block_edges"),
    (
        "search: the last of equal zeros",
        "p = args_.rule.tie_last ? «last» : begin;",
        "begin",
        "overlaps_no_prior",
    ),
    (
        "pairs: proposals are read while they are made",
        "propose(g);\n    }\n    «__syncthreads();»",
        "",
        "block_edges",
    ),
    ("pairs: the best is replaced while it is read", "«__syncwarp();»  // every lane has", "", "block_edges"),
    (
        "groups of the first image serve all",
        "? «args.image_groups(b)[group]»",
        "args.groups[group]",
        "block_edges",
    ),
    (
        "groups that are not there have the nearest prior",
        "if («first_ >= args_.num_priors») return;",
        "false",
        "bad",
    ),
    ("a truth that overlaps nothing has no best", "kKeeps && «bound == T(0)»)", "false", "touch_nothing"),
    (
        "of a group the farthest prior",
        "nearest =\n      tie_last ? «31 - __clz(static_cast<int>(holders))»",
        "0",
    ),
    ("the best is what the group before had", "    «top_ = 0;»\n    if (mine)", "", "tiles or many"),
    (
        "bounds are compared with the best of all truths",
        "load_relaxed(«args_.keys + row»)));\n",
        "args_.keys",
    ),
    (
        "parts of the truths: the last part decides",
        "&& «!args.rule.replaces(best, match.best)»)",
        "false",
        "many",
    ),
    ("parts of the truths: those of the first only", "w < «warp + parts»; ++w", "warp", "many"),
    ("a claim does not take away what was there", "«atomicMin(&codes[tops[g].prior], kBackground);»", ""),
    ("ties between truths", "|| «args_.rule.replaces(overlap, best)»)", "overlap >= best", "test_options"),
    (
        "the first truth wins a prior",
        "«atomicMax(&codes[tops[g].prior], static_cast<int32_t>(g));»",
        "atomicMin(&codes[tops[g].prior], static_cast<int32_t>(g));",
        "block_edges",
    ),
    ("NaN is no overlap", "return a > b || «(a != a && b == b)»;", "false"),
    ("ignored from above the limit on", "!(«best < candidate_max») ?", "best <= candidate_max"),
)

_BOXES = _of(
    "boxes",
    "tests/test_emulated_boxes.py",
    ("variances do not repeat", "coder.variance_of(«prior_row»)", "row", "repeat"),
    ("no gradient at the limit", "grad = «v > max_log» ? T{} : grad;", "v >= max_log", "clamp"),
    ("iou: rows of the other table", "boxes1[«pair / m»]", "pair / n", "iou"),
    ("decode: the centre moves by the height", "variance.x), «center.z»));", "center.w", "decode"),
    (
        "the union lacks a box",
        "plus(«sub_rn(add_rn(area_a, area_b), inter)», eps)",
        "sub_rn(area_a, inter)",
        "iou",
    ),
)

_PRIORS = _of(
    "priors",
    "tests/test_emulated_priors.py",
    ("more boxes than a launch: the first again", "(cell, «boxes.first + box», style", "box", "launch_takes"),
    ("box-major cells", "cell = style.box_major ? «i % cells»", "i / cells", "every_option"),
    (
        "one prior too many",
        "if («i >= cells * boxes.count») return;",
        "i > cells * boxes.count",
        "every_option",
    ),
)

DEVICE = [*MULTIBOX, *_MINING, *NMS, *DETECT, *_MATCHING, *MATCH_CLUSTERS, *_BOXES, *_PRIORS, *WIDE]
