"""Networks of other codebases: names and shapes of their weights, parameters, priors, a step of training.

What they compute is held in test_network_numbers.py.
"""

from __future__ import annotations

import json

import pytest
import torch

from ssd_cuda import DetectConfig, PriorSpec, cli, models, ops
from ssd_cuda.engine.checkpoint import load_model
from ssd_cuda.models.sources import SOURCES, recognise

# source -> classes, image size, parameters, priors, and of the codebase's own file: names to shapes, one a
# rule
NETWORKS = {
    "amdegroot": (21, (300, 300), 26_285_486, 8732, {
        "vgg.31.weight": (1024, 512, 3, 3), "L2Norm.weight": (512,), "extras.1.weight": (512, 256, 3, 3),
        "loc.5.bias": (16,), "conf.1.weight": (126, 1024, 3, 3)}),
    "torchvision": (21, (300, 300), 26_285_486, 8732, {
        "backbone.features.21.weight": (512, 512, 3, 3), "backbone.extra.0.7.1.weight": (1024, 512, 3, 3),
        "backbone.scale_weight": (512,), "backbone.extra.4.2.bias": (256,),
        "head.regression_head.module_list.0.weight": (16, 512, 3, 3)}),
    "lufficc300": (21, (300, 300), 26_285_486, 8732, {
        "backbone.l2_norm.weight": (512,), "backbone.extras.7.weight": (256, 128, 3, 3),
        "box_head.predictor.reg_headers.4.weight": (16, 256, 3, 3)}),
    "lufficc512": (21, (512, 512), 27_188_676, 24564, {
        "backbone.extras.9.weight": (256, 128, 4, 4), "box_head.predictor.cls_headers.6.bias": (84,)}),
    "lufficc_mobilenet": (21, (320, 320), 3_304_708, 3234, {
        "backbone.features.1.conv.0.0.weight": (32, 1, 3, 3), "backbone.features.1.conv.2.running_var": (16,),
        "backbone.features.17.conv.0.0.weight": (960, 160, 1, 1),
        "backbone.features.17.conv.3.weight": (320,),
        "backbone.extras.3.conv.1.0.weight": (64, 1, 3, 3), "backbone.features.18.1.bias": (1280,),
        "box_head.predictor.cls_headers.0.conv.3.bias": (126,),
        "box_head.predictor.reg_headers.5.bias": (24,)}),
    "ssdlite": (91, (320, 320), 3_440_060, 3234, {
        "backbone.features.0.13.0.weight": (672, 112, 1, 1),
        "backbone.features.1.0.2.fc1.weight": (168, 672, 1, 1),
        "backbone.features.1.1.block.2.fc2.bias": (480,), "backbone.extra.3.2.1.running_mean": (128,),
        "head.classification_head.module_list.5.1.weight": (546, 128, 1, 1)}),
    "nvidia": (81, (300, 300), 22_894_902, 8732, {
        "feature_extractor.feature_extractor.4.0.downsample.1.weight": (256,),
        "feature_extractor.feature_extractor.6.5.conv3.weight": (1024, 256, 1, 1),
        "additional_blocks.4.3.weight": (256, 128, 3, 3), "loc.3.weight": (24, 256, 3, 3),
        "conf.0.bias": (324,)}),
    "mb1_ssd": (21, (300, 300), 9_468_996, 3000, {
        "base_net.13.3.weight": (1024, 1024, 1, 1), "extras.0.2.weight": (512, 256, 3, 3),
        "classification_headers.5.weight": (126, 256, 3, 3), "regression_headers.0.bias": (24,)}),
    "mb1_ssd_lite": (21, (300, 300), 4_312_388, 3000, {
        "base_net.0.1.running_var": (32,), "extras.3.2.0.weight": (128, 1, 3, 3),
        "classification_headers.0.2.weight": (126, 512, 1, 1),
        "regression_headers.5.weight": (24, 256, 1, 1)}),
    "mb2_ssd_lite": (21, (300, 300), 3_388_228, 3000, {
        "base_net.1.conv.3.weight": (16, 32, 1, 1), "base_net.14.conv.0.weight": (576, 96, 1, 1),
        "extras.0.conv.6.weight": (512, 256, 1, 1), "classification_headers.0.1.running_mean": (576,),
        "regression_headers.4.3.bias": (24,)}),
    "vgg16_ssd": (21, (300, 300), 26_285_998, 8732, {
        "base_net.33.weight": (1024, 1024, 1, 1), "source_layer_add_ons.0.running_var": (512,),
        "extras.3.2.weight": (256, 128, 3, 3), "classification_headers.0.bias": (84,)}),
    "ulfg_slim": (2, (240, 320), 260_188, 4420, {
        "base_net.7.3.weight": (64, 64, 1, 1), "extras.0.2.2.weight": (256, 64, 1, 1),
        "classification_headers.0.2.bias": (6,), "regression_headers.3.weight": (12, 256, 3, 3)}),
    "ulfg_rfb": (2, (240, 320), 276_292, 4420, {
        "base_net.7.branch2.2.conv.weight": (16, 12, 3, 3), "base_net.7.ConvLinear.bn.bias": (64,),
        "base_net.7.shortcut.conv.weight": (64, 64, 1, 1), "base_net.12.4.weight": (256,)}),
    "retinaface": (2, (640, 640), 426_608, 16800, {
        "body.stage2.0.3.weight": (128, 64, 1, 1), "fpn.output3.0.weight": (64, 256, 1, 1),
        "fpn.merge2.1.bias": (64,), "ssh3.conv7x7_3.0.weight": (16, 16, 3, 3),
        "BboxHead.2.conv1x1.bias": (8,), "ClassHead.0.conv1x1.weight": (4, 64, 1, 1),
        "LandmarkHead.1.conv1x1.weight": (20, 64, 1, 1)}),
}  # fmt: skip


def built(source: str) -> tuple[models.SSD, dict]:
    """The network on no memory, and a state dict under the names of its codebase: ours, read backwards."""
    classes, size = NETWORKS[source][:2]
    with torch.device("meta"):
        model = models.build_model(SOURCES[source].model, classes, size)
    return model, NETWORKS[source][4]


def test_every_source_is_here():
    assert set(NETWORKS) == set(SOURCES)


@pytest.mark.parametrize("source", NETWORKS)
def test_names_shapes_and_counts(source):
    model, shapes = built(source)
    _classes, size, parameters, priors, _ = NETWORKS[source]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.priors) == priors and model.image_size == size
    own = model.state_dict()
    renamed = SOURCES[source].rename(
        {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    )
    assert len(renamed) == len(shapes)
    for name, value in renamed.items():
        assert name in own and own[name].shape == value.shape, name


@pytest.mark.parametrize("source", NETWORKS)
def test_signs_and_classes(source):
    """A file is taken for its own network, whatever the number of classes."""
    classes, size, *_ = NETWORKS[source]
    found = SOURCES[source]
    boxes = 6 if found.image_size == (320, 320) or found.model.startswith("mb") else 4
    boxes = {"ulfg_slim": 3, "ulfg_rfb": 3, "retinaface": 2}.get(source, boxes)
    state = {sign: torch.zeros(boxes * (classes + 4)) for sign in found.signs}
    assert recognise(state) == source
    count, own = found.facts(state)
    assert count == classes + 4 and own == size
    with pytest.raises(ValueError, match="must have logits of"):
        found.facts({sign: torch.zeros(boxes * 3 + 1) for sign in found.signs})


# The networks that are small enough to run: image size, and what goes out.
SMALL = {
    "mb1_ssd_lite": (300, 300), "mb2_ssd_lite": (300, 300), "ssdlite": (320, 320), "ulfg_rfb": (48, 64),
    "ulfg_slim": (48, 64), "retinaface": (64, 96),
}  # fmt: skip


@pytest.mark.parametrize("source", SMALL)
def test_a_step_and_detections(source):
    size = SMALL[source]
    torch.manual_seed(0)
    model = models.build_model(SOURCES[source].model, 3, size)
    gt = ops.GroundTruth.from_list([torch.tensor([[0.2, 0.2, 0.8, 0.9]])] * 2, [torch.tensor([1])] * 2)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    losses = model.loss(images, gt)
    total = losses.localization + losses.classification
    total.backward()
    assert torch.isfinite(total) and losses.num_positives > 0
    others = [n for n, p in model.named_parameters() if p.grad is None]
    assert all("point_conv" in name for name in others)  # landmarks have no target in this loss
    found = model.eval().detect(images, DetectConfig(detections_per_image=20, score_threshold=0.0))
    assert found.counts.tolist() == [20, 20] and torch.isfinite(found.boxes).all()


def test_a_round_trip_through_the_command_line(tmp_path, capsys):
    """A file as ULFG's training writes it, behind DataParallel's prefix: the same model comes back."""
    torch.manual_seed(0)
    model = models.ulfg_rfb(image_size=(48, 64)).eval()
    back = {"backbone.base": "base_net", "backbone.extras": "extras"}
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "heads":
            kind = {"conf_conv": "classification_headers", "loc_conv": "regression_headers"}[parts[2]]
            state[".".join(["module", kind, parts[1], *parts[3:]])] = value
        else:
            state[".".join(["module", back[".".join(parts[:2])], *parts[2:]])] = value
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "rfb.pth")
    line = ["import", str(tmp_path / "rfb.pth"), "-o", str(tmp_path / "out/model.pt"), "--size", "48", "64"]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "recognised ULFG: RFB" in said and "1 class, images of 64x48" in said
    again, spec = load_model(tmp_path / "out/model.pt")
    assert spec.classes == ("face",) and spec.name == "ulfg_rfb"
    images = torch.rand(1, 3, 48, 64)
    for ours, theirs in zip(model(images), again(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_safetensors_and_labels(tmp_path, capsys):
    safetensors = pytest.importorskip("safetensors.torch")
    model = models.ulfg_slim(num_classes=3, image_size=(48, 64))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    renamed = {n.replace("backbone.base", "base_net").replace("backbone.", ""): v for n, v in state.items()}
    for part, ours in (("classification_headers", "conf_conv"), ("regression_headers", "loc_conv")):
        for k in range(4):
            renamed = {n.replace(f"heads.{k}.{ours}", f"{part}.{k}"): v for n, v in renamed.items()}
    safetensors.save_file(renamed, tmp_path / "slim.safetensors")
    (tmp_path / "labels.txt").write_text("BACKGROUND\nbare\nmasked\n")
    line = ["import", str(tmp_path / "slim.safetensors"), "-o", str(tmp_path / "model.pt")]
    assert cli.main([*line, "--labels", str(tmp_path / "labels.txt")]) == 0
    assert load_model(tmp_path / "model.pt")[1].classes == ("bare", "masked")
    for content, classes in (
        ("cat\ndog, big\n", ("cat", "dog, big")),
        ("cat , dog\n", ("cat", "dog")),
        ("\ufeffBACKGROUND\r\ncat\r\n\r\ndog\r\n", ("cat", "dog")),  # as editors of Windows save it
        ("\ufeff__background__,cat,dog", ("cat", "dog")),
    ):
        (tmp_path / "labels.txt").write_bytes(content.encode("utf-8"))
        assert cli.main([*line, "--labels", str(tmp_path / "labels.txt")]) == 0
        assert load_model(tmp_path / "model.pt")[1].classes == classes
    (tmp_path / "labels.txt").write_text("\n")
    assert cli.main([*line, "--labels", str(tmp_path / "labels.txt")]) == 1
    assert "--labels must name the classes, got " in capsys.readouterr().err
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="must be of safetensors"):
        models.load(tmp_path / "broken.safetensors")


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"conv.weight": torch.ones(1)}, "must be of this package, .*lufficc.*, got names like conv.weight"),
        ({}, "got names like none"),
        ({"vgg.0.weight": torch.ones(1)}, "look like amdegroot/ssd.pytorch: SSD300, but conf.0.bias is"),
        ({"vgg.0.weight": torch.ones(1), "conf.0.bias": torch.ones(84)}, "must fit the network of amdegroot"),
    ],
)  # fmt: skip
def test_unknown_weights_are_one_sentence(state, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.load(state)


def test_a_file_of_something_else_is_one_sentence(tmp_path, capsys):
    torch.save([1, 2], tmp_path / "list.pth")
    assert cli.main(["import", str(tmp_path / "list.pth"), "-o", str(tmp_path / "model.pt")]) == 1
    assert "list.pth must hold a state dict, got list" in capsys.readouterr().err


def test_a_model_that_was_saved_is_where_training_goes_on(tmp_path, capsys):
    """train --weights takes what import wrote; a model of Caffe needs its description."""
    from ssd_cuda.engine.checkpoint import ModelSpec, save_model

    torch.manual_seed(0)
    model = models.ulfg_slim(num_classes=6, image_size=(48, 64))
    spec = ModelSpec("ulfg_slim", ("a", "b", "c", "d", "e"), (48, 64))
    save_model(tmp_path / "slim.pt", spec, model.state_dict())
    assert models.state_dicts.read_weights(tmp_path / "slim.pt").keys() == model.state_dict().keys()
    from ssd_cuda.engine.finetune import read_pretrained

    source = read_pretrained(tmp_path / "slim.pt")
    said = source.load_into(models.ulfg_slim(num_classes=3, image_size=(48, 64)), ("x", "y"))
    assert "new are the class heads (6 classes there, 3 here)" in said
    assert "new are" not in source.load_into(models.ulfg_slim(num_classes=6, image_size=(48, 64)))
    with pytest.raises(ValueError, match="as ssd-cuda import writes it, got none"):
        models.build_model("caffe", 2, (300, 300))


def test_sizes_that_do_not_fit(tmp_path, capsys):
    state = models.ssd300_vgg16(3).state_dict()
    with pytest.raises(ValueError, match=r"image_size of ssd300_vgg16 must be \(300, 300\), got \(64, 64\)"):
        models.load(state, model="ssd300_vgg16", image_size=(64, 64))
    with pytest.raises(ValueError, match="classes must name the 2 classes of the weights, got 1"):
        models.load(state, model="ssd300_vgg16", classes=["one"])
    torch.save(state, tmp_path / "w.pth")
    line = ["import", str(tmp_path / "w.pth"), "-o"]
    assert cli.main([*line, str(tmp_path / "w.pth")]) == 1
    assert "--out must leave its inputs as they are" in capsys.readouterr().err
    assert cli.main([*line, "x.pt", "--classes", "a", "--labels", "b"]) == 1
    assert "name the same thing" in capsys.readouterr().err


def test_landmarks_are_fractions_of_the_image():
    """One prior a head says five points at its centre, moved by code 1: a tenth of its size."""
    model = models.retinaface_mobilenet(image_size=(32, 64)).eval()
    for head in model.heads:
        for module in (head.loc_conv, head.conf_conv, head.point_conv):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    model.heads[2].conf_conv.bias.data[1] = 5.0  # the first prior of the last map: 256 pixels
    model.heads[2].point_conv.bias.data[:10] = torch.tensor([1.0, 0.0] * 5)
    config = DetectConfig(score_threshold=0.9, iou_threshold=1.0, detections_per_image=3)
    found = model.detect(torch.rand(1, 3, 32, 64), config)
    assert found.counts.tolist() == [2]  # two cells of 32 pixels
    centers = found.boxes[0, :2].unflatten(1, (2, 2)).mean(1)
    points = found.extra[0, :2].unflatten(1, (5, 2))
    torch.testing.assert_close(points[:, 0, 0], centers[:, 0] + 0.1 * 256 / 64)
    torch.testing.assert_close(points[:, 3, 1], centers[:, 1])
    assert not found.extra[0, 2].any()


def test_priors_follow_the_configuration_of_the_data():
    """81 classes are COCO's, for which lufficc and amdegroot have other sizes."""
    with torch.device("meta"):
        sizes = [
            models.build_model(name, classes, (side, side)).spec.sizes[0]
            for name, side in (("ssd300_vgg16_lufficc", 300), ("ssd512_vgg16_lufficc", 512),
                               ("ssd300_vgg16_amdegroot", 300))
            for classes in (21, 81)
        ]  # fmt: skip
    assert sizes == [(30,), (21,), (35.84,), (20.48,), (30,), (21,)]
    assert PriorSpec.preset("nvidia").layout == "box_major"


def test_the_list_of_models(capsys):
    assert cli.main(["models"]) == 0
    said = capsys.readouterr().out
    for name in models.MODELS:
        assert name in said
    assert "3,000" in said and "RetinaFace" in said.replace("Retinaface", "RetinaFace")
    assert json.dumps("caffemodel")[1:-1] in said
