"""Faults of what the MultiBox loss has as options: class weights, smoothed labels, losses of boxes, mining of
a whole batch."""

from __future__ import annotations

from mutants.mutant import rows_of

_TERMS = "tests/test_multibox_terms.py"
_EMULATED = "tests/test_emulated_multibox_terms.py"
_BOXES = "tests/test_multibox_iou.py"
_BATCH = "tests/test_mining_batch.py"
_EMULATED_BATCH = "tests/test_emulated_mining_batch.py"
_EMULATED_BOXES = "tests/test_emulated_multibox_iou.py"

LOSS_OPTIONS = [
    *rows_of(
        "loss_options",
        _TERMS,
        ("terms: the label takes all of its weight", "mul_rn(«kept», weight(label))", "T(1)", "hand"),
        ("terms: the spread loss of one class weight", "sub_rn(mul_rn(«total», log_sum)", "T(1)", "hand"),
        ("terms: the gradient forgets the spread targets", "probability), «weight(c)»)", "T(0)", "gradcheck"),
        (
            "terms: the gradient takes the weight of each class",
            "own = mul_rn(«label_weight(label)», cross_entropy_gradient",
            "mul_rn(kept, weight(c))",
            "gradcheck",
        ),
        (
            "terms: the key is always the loss",
            "return «rule.key == MiningKey::kBackground» && terms.any();",
            "false",
            "decides",
        ),
        (
            "terms: a mined row counts as its key",
            "sums->conf += «losses != nullptr» ? losses",
            "false",
            "torchs",
        ),
        ("terms: a mined positive is not weighted", "«!terms.any()») return plain;", "true", "options"),
        ("terms: losses of the first tile only", "count, «losses + begin»);", "losses", "reference"),
        (
            "terms: weights of another dtype",
            "return weights.to(«arithmetic_of(conf)»)",
            "weights.dtype",
            "options",
        ),
        (
            "terms: a negative weight is taken",
            "bad = ~(«weights.isfinite() & (weights >= 0)»)",
            "weights.isfinite()",
            "refused",
        ),
        (
            "terms: a smoothing of 1 or more is taken by the op",
            '«label_smoothing >= 0 && label_smoothing < 1», "label',
            "label_smoothing >= 0",
            "range",
        ),
    ),
    *rows_of(
        "loss_options",
        _EMULATED,
        ("card: the spread sum takes the first weight", "const T weight = terms.weight(«c»);", "0", "bits"),
        ("card: rows are ranked by their loss", "rank = «kept» ? both.plain", "false", "options"),
        (
            "card: mined rows count as their key",
            "if («losses != nullptr») {\n    add(",
            "false",
            "options",
        ),
        (
            "card: the gradient's sum of weights is of 32 classes",
            "«c < classes»; c += 32) total",
            "c < 32",
            "classes",
        ),
        (
            "card: smooth rows take the plain kernels",
            "return «inputs.targets.terms.any()» ||",
            "inputs.targets.terms.weights != nullptr",
            "bits",
        ),
    ),
    *rows_of(
        "loss_options",
        _BOXES,
        (
            "giou: the hull without its eps",
            "T hull = mul_rn(x.length, y.length), whole = «add_rn(hull, T(kIouLossEps))»",
            "hull",
            "empty",
        ),
        (
            "giou: the gradient of the hull is taken whole",
            "div_rn(«sub_rn(T(1), free)», whole)",
            "T(1)",
            "torchvisions",
        ),
        (
            "diou: centres at the first corners",
            "dx = «sub_rn(mul_rn(half, add_rn(a.z, a.x)), mul_rn(half, add_rn(b.z, b.x)))»",
            "sub_rn(a.x, b.x)",
            "hand",
        ),
        (
            "diou: the gradient forgets the diagonal",
            "by_corners(x, x.length, y, y.length), «step»",
            "T(0)",
            "gradcheck",
        ),
        (
            "ciou: alpha has a gradient",
            "mul_rn(«mul_rn(T(2), alpha)», mul_rn(kFactor, turn))",
            "mul_rn(T(4), alpha)",
            "gradcheck",
        ),
        ("ciou: shapes are not compared", "if («!complete») return loss;", "true", "hand"),
        (
            "a tie takes the whole gradient",
            "a > b ? T(1) : «a == b ? T(0.5) : T(0)»",
            "a == b ? T(1) : T(0)",
            "meet",
        ),
        (
            "boxes apart overlap",
            "if («x.length > T(0) && y.length > T(0)») {\n      common",
            "true",
            "torchvisions",
        ),
        (
            "box losses: variances of all priors",
            "divisors = «variances != nullptr» ? variances[prior]",
            "false",
            "variances",
        ),
        (
            "box losses: ready targets are taken by the op",
            "SSD_CHECK(«labels || !is_box_loss(loss)»",
            "true",
            "refused",
        ),
    ),
    *rows_of(
        "loss_options",
        _EMULATED_BOXES,
        ("atan: all turn by a quarter", "part = «large ? T(1) : T(0.5)»;", "T(1)", "atan"),
        ("atan: four terms less", "for (int k = «kTerms»; k > 0", "kTerms - 4", "atan"),
        (
            "card: the gradient stays by the corners",
            "loss.gradient = «decode_box_backward<Ops>(loss.gradient, loc, center, divisors, none)»;",
            "loss.gradient",
            "options",
        ),
        (
            "card: the gradient is not scaled",
            "gradient = {«factor * d.x», factor * d.y, factor * d.z, factor * d.w};\n  } else",
            "d.x",
            "options",
        ),
    ),
    *rows_of(
        "loss_options",
        _BATCH,
        (
            "batch: the cut of an image starts at the first row",
            "tie = «cut.tie - image * width»;",
            "cut.tie",
            "reference",
        ),
        (
            "batch: k of the first image",
            "for (const ImageSums& image : sums) «total.add(image);»",
            "if (&image == &sums[0]) total.add(image);",
            "reference",
        ),
        (
            "batch: the op ranks each image",
            "batch = whole ? 1 : keys.size(0), width = «whole ? keys.numel() : keys.size(1)»;",
            "keys.size(1)",
            "hand",
        ),
        ("batch: the scope is not passed", '"scope": «config.scope»,', '"image"', "hand"),
    ),
    *rows_of(
        "loss_options",
        _EMULATED_BATCH,
        (
            "batch: no fence before the ticket",
            "«__threadfence();»  // of every thread: each wrote",
            "",
            "dtypes or losses",
        ),
        (
            "batch: no fence after the ticket",
            "  __syncthreads();\n  «__threadfence();»\n  return shared_last;",
            "",
            "dtypes or losses",
        ),
        (
            "batch: digits of other keys count",
            "if (bucket.shift >= kBits || «(rest >> (bucket.shift % kBits)) == 0») {\n"
            "      atomicAdd(&shared.histogram[static_cast<unsigned>(key",
            "true",
            "dtypes",
        ),
        (
            "batch: the needed are not lessened",
            "search->bucket = {bucket.value | (static_cast<U>(found.bucket) << shift), shift, found.inside,\n"
            "                    bucket.needed - «found.before»};",
            "0",
            "dtypes",
        ),
        (
            "batch: the search ends a digit early",
            "return «bucket.shift == 0» || bucket.needed == 0",
            "bucket.shift <= kSelectBits",
            "last_bits",
        ),
        (
            "batch: ties of the first block of keys",
            "const int64_t begin = «block * kTieKeys», left",
            "0",
            "beyond",
        ),
        (
            "batch: ties of the blocks before count again",
            "«bucket.needed - before»,",
            "bucket.needed",
            "beyond",
        ),
        (
            "batch: the second piece starts again",
            "for (int64_t first = 0;; «first += kSelectBins») {",
            "first += 0",
            "needed",
        ),
        ("batch: excluded rows are selected", "mask[i] = «ordered[i] != kExcluded<U>» &&", "true", "rules"),
        (
            "batch: excluded rows count as candidates",
            "args.width - found - «search->excluded», args.width)",
            "0",
            "rules",
        ),
        ("batch: counters keep what they had", "search->histograms[digit][i] = «0»;", "1", "dtypes"),
        (
            "batch: candidates of the first image",
            "args.images, [&](int64_t image) { return args.sums[«image»].candidates; });",
            "0",
            "losses",
        ),
    ),
]
