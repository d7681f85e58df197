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
        "losses, «config.clamp_normalizer or images == 0», process_group)",
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
    *(
        Mutant("python", f"fake: {what}", old, new, "tests/test_fake_kernels.py")
        for what, old, new in (
            ("codes are int64", "priors.shape[-2], dtype=«torch.int32»)", "torch.int64"),
            ("an image more", "new_empty(«offsets.shape[0] - 1», priors", "offsets.shape[0]"),
            (
                "keys of double are float32",
                "wide, key = «(torch.float64, torch.int64) if conf.dtype == torch.float64 else "
                "(torch.float32, torch.int32)»",
                "(torch.float64 if conf.dtype == torch.float64 else torch.float32, torch.int32)",
            ),
            ("cuts lie the other way", "conf.new_empty(«(batch, 2)», dtype", "(2, batch)"),
            ("no zeros", "«_empty_rows(conf) if with_zeros else conf.new_empty(0)»", "conf.new_empty(0)"),
            (
                "d_loc is contiguous",
                "return «_empty_rows(loc)», _empty_rows(conf)",
                "loc.new_empty(loc.shape)",
            ),
            (
                "d_conf is contiguous",
                "return _empty_rows(loc), «_empty_rows(conf)»",
                "conf.new_empty(conf.shape)",
            ),
            (
                "focal_loss: gradients are contiguous",
                "tuple(«_empty_rows(rows)» for rows",
                "rows.new_empty(rows.shape)",
            ),
            (
                "focal_loss: no statistics",
                'conf.new_empty(«(3, batch, width) if form == "softmax" else (0,)», dtype',
                "(0,)",
            ),
            (
                "half sums",
                "keys.new_empty(batch, dtype=«wide»),\n        keys.new_empty(batch, width",
                "keys.dtype",
            ),
            (
                "a mask lies as the positives do",
                "«torch.empty_like(positive, memory_format=torch.contiguous_format)»",
                "torch.empty_like(positive)",
            ),
            (
                "overlaps lie the other way",
                "«boxes1.new_empty(boxes1.shape[0], boxes2.shape[0])»",
                "boxes1.new_empty(boxes2.shape[0], boxes1.shape[0])",
            ),
            (
                "boxes lie as the codes do",
                "(rows, *_, **__):\n    return "
                "«torch.empty_like(rows, memory_format=torch.contiguous_format)»\n\n\n"
                '@register_fake("box_encode_backward")',
                "torch.empty_like(rows)",
            ),
            (
                "a gradient of codes lies as they do",
                "(grad, rows, *_, **__):\n    return "
                "«torch.empty_like(rows, memory_format=torch.contiguous_format)»",
                "torch.empty_like(rows)",
            ),
            ("kept boxes are int32", "boxes.new_empty(count, dtype=«torch.int64»)", "torch.int32"),
            (
                "a count is a row",
                "new_empty(max_output, dtype=torch.int64), boxes.new_empty(«()», dtype",
                "1",
            ),
            (
                "detected boxes are of the logits' dtype",
                "new_empty(batch, rows, 4, dtype=«priors.dtype»)",
                "conf.dtype",
            ),
            (
                "kept scores are float32",
                "«boxes.new_empty(max_output)»,",
                "boxes.new_empty(max_output).float()",
            ),
        )
    ),
    Mutant(
        "python",
        "compat.tensorrt: logits are compared with the threshold itself",
        "taken = values >= _least(score_threshold, «bool(score_activation)»)",
        "False",
        "tests/test_tensorrt_signature.py",
    ),
    Mutant(
        "python",
        "compat.tensorrt: a box of each class is that of its place",
        'place = «torch.div(index, classes, rounding_mode="floor") if boxes.dim() == 3 else index»',
        'torch.div(index, classes, rounding_mode="floor")',
        "tests/test_tensorrt_signature.py",
    ),
    Mutant(
        "python",
        "compat.openvino: the sigma of the other formula",
        'method="gaussian", sigma=«2 * sigma», score_threshold',
        "sigma",
        "tests/test_openvino_signature.py -k documented",
    ),
    Mutant(
        "python",
        "compat.openvino: the number of boxes of a class is not cut",
        "order = order[«rank < most»]",
        "rank >= 0",
        "tests/test_openvino_signature.py -k documented",
    ),
    Mutant(
        "python",
        "focal: a label without a class where there is no background column",
        'return «-1 if config.background == "none" else 0»',
        "0",
        "tests/test_focal.py -k errors",
    ),
    Mutant(
        "python",
        "detect: a threshold is held to float32",
        "return [«finite(value, _LARGEST)»]",
        "finite(value)",
        "tests/test_detect_thresholds.py -k infinite_threshold",
    ),
]
