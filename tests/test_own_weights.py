"""What this package has written itself comes back as the same model: priors, rules, classes and all."""

from __future__ import annotations

import re

import pytest
import torch
from layouts import write_checkpoint

from ssd_cuda import cli, models
from ssd_cuda.engine.checkpoint import CheckpointError, ModelSpec, load_model, save_model
from ssd_cuda.models.own_boxes import box_options

VGG300 = ("ssd300_vgg16", "ssd300_vgg16_amdegroot", "ssd300_vgg16_torchvision", "ssd300_vgg16_lufficc")
VGG512 = ("ssd512_vgg16", "ssd512_vgg16_lufficc")
SIZES = {"ssd_small": (64, 96), "ulfg_slim": (48, 64), "ulfg_rfb": (48, 64), "retinaface_mobilenet": (32, 64)}
NAMES = tuple(name for name in models.MODELS if name != "caffe")


def saved(folder, name, classes=("cat", "dog"), options=""):
    torch.manual_seed(0)
    spec = ModelSpec(name, classes, models.MODELS[name][1] or SIZES[name], options)
    model = spec.build().eval()
    save_model(folder / "model.pt", spec, model.state_dict())
    return model, spec


def assert_same(found, model):
    assert torch.equal(found.priors, model.priors) and found.image_size == model.image_size
    assert found.detect_config == model.detect_config and found.loss_config == model.loss_config
    assert torch.equal(found.mean, model.mean) and torch.equal(found.std, model.std)
    own, theirs = model.state_dict(), found.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)


@pytest.mark.parametrize("name", [*VGG300, "ssd512_vgg16_lufficc", "mb1_ssd", "ulfg_rfb", "ssd_small"])
def test_a_file_of_ours_comes_back_as_it_is(tmp_path, name):
    model, _ = saved(tmp_path, name)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    for weights in (tmp_path / "model.pt", content):
        found = models.import_weights(weights)
        assert (found.name, found.classes, found.options) == (name, ("cat", "dog"), "")
        assert found.source == f"a checkpoint of this package: {name}" and not found.model.training
        assert_same(found.model, model)
    assert content["spec"]["name"] == name  # what was given is left as it was


def test_boxes_that_were_fitted_come_too(tmp_path):
    options = box_options([[(0.1, 0.2)] * 4] * 4)
    model, _ = saved(tmp_path, "ssd_small", options=options)
    found = models.import_weights(tmp_path / "model.pt")
    assert found.options == options
    assert_same(found.model, model)


def test_a_checkpoint_of_a_run_gives_its_average(tmp_path):
    path = write_checkpoint(tmp_path / "run.pt")
    model, spec = load_model(path)
    found = models.import_weights(path)
    assert (found.name, found.classes) == (spec.name, spec.classes)
    assert_same(found.model, model)


def test_the_command_writes_the_same_model_again(tmp_path, capsys):
    model, _ = saved(tmp_path, "ssd300_vgg16_torchvision")
    again = str(tmp_path / "again.pt")
    line = ["import", str(tmp_path / "model.pt"), "-o", again]
    assert cli.main(line) == 0
    assert "a checkpoint of this package: ssd300_vgg16_torchvision" in capsys.readouterr().out
    found, spec = load_model(again)
    assert (spec.name, spec.classes) == ("ssd300_vgg16_torchvision", ("cat", "dog"))
    assert_same(found, model)
    assert cli.main([*line, "--classes", "one,two"]) == 0
    assert load_model(again)[1].classes == ("one", "two")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--classes", "a"], "classes must name the 2 classes of the weights, got 1"),
        (["--size", "64", "64"], "image_size of .*model.pt must be \\(48, 64\\), got \\(64, 64\\)"),
        (["--model", "ulfg_rfb"], "model of .*model.pt must be ulfg_slim, got ulfg_rfb"),
        (["--mean", "1", "2", "3"], "mean is for a .caffemodel, got .*model.pt"),
        (["--scale", "0"], "scale is for a .caffemodel, got .*model.pt"),
        (["--model", "ulfg"], "model must be one of .*, got 'ulfg'"),
    ],
)
def test_options_beside_a_file_of_ours_are_never_ignored(tmp_path, capsys, option, sentence):
    saved(tmp_path, "ulfg_slim")
    line = ["import", str(tmp_path / "model.pt"), "-o", str(tmp_path / "again.pt")]
    assert cli.main([*line, "--size", "48", "64", "--model", "ulfg_slim"]) == 0
    (tmp_path / "again.pt").unlink()
    capsys.readouterr()
    assert cli.main([*line, *option]) == 1
    assert re.search(f"error: {sentence}", capsys.readouterr().err)
    assert not (tmp_path / "again.pt").exists()


def test_files_of_ours_that_are_damaged_are_not_guessed_at(tmp_path):
    saved(tmp_path, "ssd300_vgg16_lufficc")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    for change, sentence in (
        (
            {"format": "ssd_cuda model 9"},
            "must be a checkpoint of ssd_cuda, got the format 'ssd_cuda model 9'",
        ),
        ({"spec": None}, "must have a spec of name, classes, image_size"),
        ({"weights": {}}, "must hold the weights of 2 classes and the background, got 0 rows"),
    ):
        for function in (models.load, lambda content: models.ssd300_vgg16(weights=content)):
            with pytest.raises(CheckpointError, match=sentence):
                function({**content, **change})
    del content["spec"]
    with pytest.raises(CheckpointError, match="weights must hold spec, weights, got no spec"):
        models.load(content)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_is_of_one_model_or_needs_its_name(name):
    """All are loaded on no memory: what is asked is which model it is."""
    several = next((group for group in (VGG300, VGG512) if name in group), (name,))
    size = models.MODELS[name][1] or SIZES[name]
    with torch.device("meta"):
        state = models.build_model(name, 4, size).state_dict()
    if len(several) == 1:
        assert models.own.own_model(state, None, size) == (name, 4, size)
    else:
        with pytest.raises(ValueError, match=f"must be one of {', '.join(several)}, whose .*, got none"):
            models.own.own_model(state, None, None)
    assert models.own.own_model(state, name, size) == (name, 4, size)


@pytest.mark.parametrize("name", VGG300)
def test_a_name_makes_a_state_dict_that_model(name, tmp_path):
    model, _ = saved(tmp_path, name)
    found = models.import_weights({"state_dict": model.state_dict()}, model=name)
    assert (found.name, found.classes) == (name, ("class 1", "class 2"))
    assert found.source == f"this package's {name}"
    assert_same(found.model, model)


def test_the_command_takes_a_name(tmp_path, capsys):
    model, _ = saved(tmp_path, "ssd300_vgg16_lufficc")
    torch.save(model.state_dict(), tmp_path / "state.pth")
    line = ["import", str(tmp_path / "state.pth"), "-o", str(tmp_path / "again.pt")]
    assert cli.main(line) == 1
    assert f"model (--model) must be one of {', '.join(VGG300)}" in capsys.readouterr().err
    assert cli.main([*line, "--model", "ssd300_vgg16_lufficc"]) == 0
    assert_same(load_model(tmp_path / "again.pt")[0], model)


def test_a_state_dict_that_no_model_has_is_one_sentence():
    state = models.ulfg_slim(image_size=(48, 64)).state_dict()
    odd = {**state, "backbone.base.0.0.weight": torch.ones(3, 3, 3, 3)}
    bias = "heads.0.conf_conv.2.bias"
    for weights, options, sentence in (
        (odd, {}, "must fit one of its models, got none: name"),
        (
            odd,
            {"model": "ulfg_slim"},
            "must fit the network of this package's ulfg_slim, got others: .*base.0",
        ),
        (state, {"model": "caffe"}, "model must be another than caffe"),
        (state, {"model": "ssd321"}, "must fit the network of this package's ssd321|must have logits"),
        ({**state, bias: torch.ones(7)}, {}, "must have logits of 3 boxes a cell .*, got 7"),
        ({"heads.0.conf_conv.bias": torch.ones(4)}, {}, "must have logits of 0 boxes"),
        (models.ssd_small(3, (64, 64)).state_dict(), {}, r"image_size \(--size\) must be given .*ssd_small"),
    ):
        with pytest.raises(ValueError, match=sentence):
            models.load(weights, **options)
    foreign = {"vgg.0.weight": torch.ones(64, 3, 3, 3), "conf.0.bias": torch.ones(84)}
    with pytest.raises(
        ValueError, match=r"model of weights of amdegroot.* must be ssd300_vgg16_amdegroot, got "
    ):
        models.load(foreign, model="ssd300_vgg16")


@pytest.mark.parametrize("name", VGG300)
def test_ssd300_takes_the_rules_of_a_checkpoint(tmp_path, name):
    model, _ = saved(tmp_path, name)
    found = models.ssd300_vgg16(3, weights=tmp_path / "model.pt")
    assert_same(found, model)
    assert found.training
    with pytest.raises(ValueError, match=r"num_classes must be that of the weights \(3\), got 21"):
        models.ssd300_vgg16(21, weights=tmp_path / "model.pt")


def test_ssd300_refuses_a_checkpoint_of_another_model(tmp_path):
    saved(tmp_path, "ulfg_slim")
    with pytest.raises(ValueError, match="must be of an SSD300 with VGG-16, got a checkpoint of ulfg_slim"):
        models.ssd300_vgg16(weights=tmp_path / "model.pt")
