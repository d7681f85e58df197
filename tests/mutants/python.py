"""Faults of the Python layer."""

from __future__ import annotations

from mutants.mutant import Mutant

PYTHON = [
    Mutant(
        "python",
        "boxes: priors of another batch start again",
        "priors.dim() > 2 and «priors.shape != rows.shape»:",
        "False",
        "tests/test_boxes.py -k errors",
    ),
    Mutant(
        "python",
        "matching: float64 priors are rounded",
        "torch.float64 in «(gt.boxes.dtype, priors.dtype)» else",
        "(gt.boxes.dtype,)",
        "tests/test_matching.py -k below_float32",
    ),
    Mutant(
        "python",
        "matching: priors of another batch",
        'check_tensor("priors", priors, («batch», "P", 4), FLOATING)',
        '"B"',
        "tests/test_matching.py -k errors",
    ),
    Mutant(
        "python",
        "detect: a background class at the end has a label",
        'max(first, num_classes - «int(config.background == "last")»)',
        "0",
        "tests/test_detect.py -k options",
    ),
    Mutant(
        "python",
        "detect: rows of one class",
        "if config.top_k is None else config.top_k) * «labels»",
        "1",
        "tests/test_detect.py -k options",
    ),
    Mutant(
        "python",
        "detect: extra columns of padding",
        "torch.where(«index >= 0», rows",
        "index >= -1",
        "tests/test_detect.py -k extra",
    ),
    Mutant(
        "python",
        "detect: logits of another dtype than loc",
        "«torch.float64 in (loc.dtype, conf.dtype)» else torch.float32",
        "False",
        "tests/test_detect.py tests/test_detect_torch.py",
    ),
    Mutant(
        "python",
        "multibox: codes of another batch",
        'check_tensor("codes", codes, («batch», width)',
        '"B"',
        "tests/test_multibox.py tests/test_multibox_contract.py -k errors",
    ),
    Mutant(
        "python",
        "multibox: the config's variances where the caller gives some",
        "None if «variances is None» else variances.to(wide)",
        "True",
        "tests/test_multibox.py",
    ),
    Mutant(
        "python",
        "multibox: a process without images divides by 0",
        "return losses\n    return _over_processes("
        "losses, «config.clamp_normalizer or batch == 0», process_group)\n\n\ndef _over",
        "config.clamp_normalizer",
        "tests/test_multibox.py tests/test_multibox_contract.py",
    ),
    Mutant(
        "python",
        "multibox: the shape of the ground truth is not looked at",
        "if «gt.batch_size != batch»:",
        "False",
        "tests/test_multibox.py tests/test_multibox_contract.py -k errors",
    ),
    *(
        Mutant("python", f"nms_batch: {what}", old, new, "tests/test_nms_batch.py")
        for what, old, new in (
            (
                "images share their classes",
                "image if flat is None else «_ranks(flat) * images + image»",
                "_ranks(flat)",
            ),
            ("padding removes boxes", "groups = «torch.where(real, groups, -1)»", "groups"),
            ("padding is kept", "found = «found & real[box]»", "found"),
            ("counts are not cut at the rows", "counts = «starts.diff().clamp(max=rows)»", "starts.diff()"),
        )
    ),
]
