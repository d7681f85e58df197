"""Faults of what the MultiBox loss has as options: class weights and smoothed labels."""

from __future__ import annotations

from mutants.mutant import rows_of

_TERMS = "tests/test_multibox_terms.py"
_EMULATED = "tests/test_emulated_multibox_terms.py"

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
            "return weights.to(«torch.float64 if conf.dtype == torch.float64 else torch.float32»)",
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
            "«losses != nullptr» ? losses[p] : key_value<T>(key)",
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
            "return «inputs.targets.terms.any()»;",
            "inputs.targets.terms.weights != nullptr",
            "bits",
        ),
    ),
]
