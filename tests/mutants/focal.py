"""Faults of the focal family: its formula, the CPU's chunks, the card's kernels."""

from __future__ import annotations

from mutants.mutant import Mutant, rows_of

_OPS = "tests/test_focal.py"
_FORWARD = "tests/test_focal_gradients.py"

FOCAL = [
    *rows_of(
        "focal",
        "tests/test_emulated_focal.py",
        (
            "sigmoid: a hopeless logit has an easy one's loss",
            "below ? «Ops::add(log_sum, -z)» : log_sum;",
            "log_sum",
            "options",
        ),
        ("sigmoid: p and 1 - p change places", "q = below ? «share» : rest;", "rest", "options"),
        ("sigmoid: the power takes the wrong logarithm", "-Ops::add(«z», log_sum)", "V{}", "options"),
        (
            "sigmoid: the slope forgets gamma",
            "Ops::mul(«Ops::mul(V{} + term.gamma, p)», loss), q)",
            "p",
            "options",
        ),
        ("softmax: the factor forgets 1", "Ops::mul(V{} + term.gamma, p), ratio), «one»)", "V{}", "options"),
        ("softmax: 0 / 0", "const V ratio = «q > V{}» ?", "q >= V{}", "certain"),
        (
            "a chunk begins a number late",
            "first = chunk * kFocalChunk + «threadIdx.x % 32»",
            "threadIdx.x % 32 + 1",
            "options",
        ),
        ("the walk does not wrap", "if («inner >= length») inner -= length", "inner > length", "options"),
        (
            "ignored numbers count",
            "T loss = own == kIgnoredColumn ? T(0) : T(NAN);\n    if («own >= kNoColumn»)",
            "true",
            "options",
        ),
        ("an ignored row of softmax counts", "args.parts[place] = «ignored» ? 0.0", "false", "options"),
        (
            "an ignored row of softmax has a gradient",
            "stats[2 * all + place] = «ignored» ? T(0)",
            "false",
            "options",
        ),
        ("an image's scale is the first's", "const T scale = args.scales[«image»], factor", "0", "options"),
        (
            "candidates are no part of what is selected",
            "sums.negatives = «block_reduce(candidates, counts, add)»;",
            "0",
            "options",
        ),
        (
            "total: the sums are not fenced before the arrival",
            "«__threadfence();»  // what this image has, before the arrival\n    last =",
            "",
            "batches",
        ),
        (
            "total: no fence after the arrival",
            "«__threadfence();»  // what the others have, after theirs\n  }\n  __syncthreads();\n"
            "  if (last && threadIdx.x < 32) {",
            "",
            "batches",
        ),
    ),
    *(
        Mutant("focal", f"gradients of the forward: {what}", old, new, f"{_FORWARD} -k '{only}'")
        for what, old, new, only in (
            ("without the scale", "load_pack<V>(factors + i) * «(V{} + scale)»", "one", "bits"),
            ("a row of a nan", "return «own == V{}» ? V{} : (plain", "own != own", "ignored"),
            ("only the background is a label", "«!plain» && r < there", "false", "bits"),
            ("other labels are the background", "«plain» && c == background", "true", "bits"),
            ("the last square is the first", "first = «std::min(c, classes - N)»", "0", "sizes"),
            ("rows side by side: the next image's", "«gradients + begin + i»", "gradients + i", "sizes"),
            ("sigmoid: labels without the scale", "x, begin, end, «scale», slopes)", "T(1)", "bits"),
            (
                "an image without a scale has some",
                "keeps = gradients != nullptr && «scale != T(0)»;\n      const T* x",
                "true",
                "scale",
            ),
            (
                "softmax: an image without a scale has some",
                "keeps = gradients != nullptr && «scale != T(0)»;\n    if (keeps)",
                "true",
                "scale",
            ),
            ("twice the same", "ctx.gradients or (None, None), «[]»", "ctx.gradients", "second"),
            ("for any factor", "readable(factor) and «factor.item() == 1»", "True", "factors"),
            (
                "without a graph too",
                "wants = «conf.requires_grad and torch.is_grad_enabled()»",
                "True",
                "who",
            ),
        )
    ),
    *(
        Mutant("focal", f"cpu: {what}", old, new, f"{_OPS} -k '{only}'")
        for what, old, new, only in (
            (
                "what rounding took from 1 + e is lost",
                "Ops::add(log_normal_by<Ops>(sum), «Ops::mul(lost, share)»)",
                "V{}",
                "easy",
            ),
            (
                "the label of a row that a chunk cuts",
                "place = run.first + («own - run.column»);",
                "own",
                "references or sizes",
            ),
            (
                "ignored rows keep their losses",
                "losses[j] = column == kIgnoredColumn ? «T(0)» : T(NAN);",
                "losses[j]",
                "references",
            ),
            (
                "numbers past the end are added",
                "for (int64_t i = count; i < end; ++i) losses[i] = «0»;",
                "1",
                "sizes",
            ),
            (
                "rows side by side: a class late",
                "if («own == run.column» || own < kNoColumn)",
                "own == run.column + 1",
                "references",
            ),
            (
                "a positive goes down",
                "to[j] = «-SigmoidFocal<Ops, T, T>(term, x[j]).slope(term, term.alpha_positive) * factor»;",
                "SigmoidFocal<Ops, T, T>(term, x[j]).slope(term, term.alpha_positive) * factor",
                "references",
            ),
            (
                "rows that do not count have a gradient",
                "if («factor == T(0)») std::fill",
                "false",
                "bad_numbers",
            ),
        )
    ),
]
