"""Thresholds of ``ssd-cuda detect`` below those that the model's own post-process has."""

from __future__ import annotations

import json

import pytest
import torch

from ssd_cuda import DetectConfig, cli
from ssd_cuda.engine.checkpoint import ModelSpec
from ssd_cuda.engine.selection import Selection

pytest.importorskip("torchvision")
image = pytest.importorskip("PIL.Image")


def below(value):
    return torch.nextafter(torch.tensor(value), torch.tensor(-1.0)).item()


def test_the_lower_threshold_of_each_class_holds():
    chosen = Selection(("a", "b", "c"), 0.5, {"b": 0.1}, ["a", "b"])
    found = chosen.within(DetectConfig(score_threshold=0.3)).score_threshold
    assert found == (0.3, 0.3, below(0.1), 0.3)
    found = chosen.within(DetectConfig(score_threshold=(0.0, 0.9, 0.05, 0.2))).score_threshold
    assert found == (0.0, below(0.5), 0.05, 0.2)
    low = DetectConfig(score_threshold=-3e38)
    assert chosen.within(low) is low
    shared = DetectConfig(score_threshold=0.3, class_agnostic=True, soft_nms="linear")
    assert chosen.within(shared).score_threshold == below(0.1)
    assert Selection(("a",), 0.0).within(shared).score_threshold == 0.0


def test_written_scores_keep_their_order():
    """Those of a network that is sure lie close together: four digits made 1.0 of all, and of .49996 a .5."""
    scores = torch.tensor([0.99999, 0.9999, 0.99996, 0.49996])
    scores = torch.cat([scores, torch.nextafter(scores, torch.zeros(4))])
    found = {"boxes": torch.zeros(8, 4), "scores": scores, "labels": torch.ones(8, dtype=torch.int64)}
    written = [row["score"] for row in Selection(("a",), 0.1).rows(found)]
    assert torch.equal(torch.tensor(written), scores) and len(set(written)) == 8


def test_a_score_of_the_threshold_is_found():
    """The post-process takes what is above a threshold, a command line what is no lower."""
    model = ModelSpec("ssd_small", ("a",), (64, 64)).build().eval()
    loc, conf = (torch.zeros(1, len(model.priors), n) for n in (4, 2))
    conf[0, 7] = torch.tensor([0.0, 2.0])
    score = model.detections_of(loc, conf).scores[0, 0].item()
    chosen = Selection(("a",), score)
    config = chosen.within(DetectConfig(score_threshold=0.99))
    (found,) = model.detections_of(loc, conf, config).to_list()
    assert chosen.of(found)["scores"].tolist() == [score]


@pytest.fixture
def checkpoints(tmp_path):
    """One network twice, whose files ask for 0.9 and for 0.001."""
    caffe = pytest.importorskip("test_caffe_import")
    paths = []
    for threshold in ("0.9", "0.001"):
        text = caffe.NET.replace(
            "keep_top_k: 50 confidence_threshold: 0.2", f"confidence_threshold: {threshold}"
        )
        weights, path = caffe.write(tmp_path, text)[1], tmp_path / f"{threshold}.pt"
        assert cli.main(["import", str(weights), "-o", str(path), "--classes", "a,b"]) == 0
        paths.append(path)
    return paths


def rows(checkpoint, source, tmp_path, *thresholds):
    out = tmp_path / "rows.json"
    line = ["detect", source, "-c", checkpoint, "-o", tmp_path / "out", "--json", out, *thresholds]
    assert cli.main([*map(str, line), "--device", "cpu"]) == 0
    return [row["detections"] for row in json.loads(out.read_text())]


@pytest.mark.parametrize("thresholds", [["--threshold", 0.1], ["--class-threshold", "b=0.1"]])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_is_asked_for_holds_whatever_the_model_has(checkpoints, tmp_path, thresholds, kind):
    noise = torch.randint(0, 256, (24, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = tmp_path / "a.png"
    image.fromarray(noise.numpy()).save(source)
    if kind == "video":
        cv2, source = pytest.importorskip("cv2"), tmp_path / "a.avi"
        writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
        writer.write(noise.numpy())
        writer.release()
    high, low = (rows(checkpoint, source, tmp_path, *thresholds) for checkpoint in checkpoints)
    assert high == low
    assert len(high[0]) > 1 and min(found["score"] for found in high[0]) < 0.5
