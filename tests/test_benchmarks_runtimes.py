"""The table of runtimes: all find the same before the clock starts, and one that does not is named."""

from __future__ import annotations

import onnx_cases as cases
import pytest

pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
from benchmarks import runtimes


def test_a_model_is_measured_in_three_ways():
    """With priors in pixels, which the boxes of a file are not."""
    found = runtimes.measure(cases.model((96, 128)), cases.images(1, (96, 128)), calls=2)
    assert found["detections"] > 3 and all(found[k] > 0 for k in (runtimes.OURS, runtimes.RAW, runtimes.NMS))
    lines = runtimes.table({"one": found, "two": found}).splitlines()
    assert len(lines) == 5 and lines[0] == "| images a CPU second | one | two |"


def test_another_answer_is_refused():
    model, image = cases.model(), cases.images(1)

    def ours():
        found = model.detect(image)
        return found.labels[0], found.scores[0], found.boxes[0].detach()

    def moved():
        labels, scores, boxes = ours()
        return labels, scores, boxes + 0.01

    def fewer():
        labels, scores, boxes = ours()
        return labels[:-1].clone().fill_(0), scores[:-1], boxes[:-1]

    assert runtimes.check({runtimes.OURS: ours, runtimes.NMS: ours}) > 3
    for other, sentence in ((moved, "finds others than"), (fewer, "finds 0, ")):
        with pytest.raises(AssertionError, match=sentence):
            runtimes.check({runtimes.OURS: ours, runtimes.NMS: other})
