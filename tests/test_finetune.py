"""Starting from other weights: what is taken, what stays new and is said, what is frozen, which rate
what has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")

from layouts import write_checkpoint

from ssd_cuda import models
from ssd_cuda.engine.checkpoint import ModelSpec
from ssd_cuda.engine.finetune import Pretrained, read_pretrained
from ssd_cuda.engine.optimizer import make_optimizer, parameter_groups, set_rate
from ssd_cuda.engine.train import TrainConfig, Trainer
from ssd_cuda.models.vgg_weights import from_classification
from ssd_cuda.ops import GroundTruth

SPEC = ModelSpec("ssd_small", ("cat", "dog"), (64, 64))
CONFIG = TrainConfig(batch_size=2, warmup_steps=0, workers=0)


def batch():
    gt = GroundTruth.from_list([torch.tensor([[0.2, 0.2, 0.7, 0.8]])] * 2, [torch.tensor([1])] * 2)
    return torch.rand(2, 3, 64, 64), gt


def trained(model, config, steps=2):
    trainer = Trainer(model, config, steps)
    trainer.run_epoch([batch() for _ in range(steps)])
    return trainer


def changed(model, before):
    """The names of what is no longer as it was."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# Heads


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("cat", "dog"), "70 of 70 tensors"),
        (("cat", "emu"), "new are the class heads (its classes are cat, dog)"),
        (("dog", "cat"), "new are the class heads (its classes are cat, dog)"),
        (("cell",), "new are the class heads (3 classes there, 2 here)"),
    ],
)
def test_class_heads_are_new_where_the_classes_differ(tmp_path, classes, said):
    source = read_pretrained(write_checkpoint(tmp_path / "x.pt"))
    model = replace(SPEC, classes=classes).build()
    before = copied(model)
    sentence = source.load_into(model, classes)
    assert sentence.startswith(f"weights of {tmp_path / 'x.pt'}: ") and sentence.endswith(said)
    new = {name for name in before if ".conf_conv." in name} if "new" in said else set()
    for name, value in model.state_dict().items():
        expected = before[name] if name in new else source.state[name]
        assert torch.equal(value, expected), name


def test_equal_sizes_of_other_meaning_are_no_fit():
    """Two boxes of six classes have as many rows as four boxes of three, and mean something else."""
    model = models.ssd_small(3, (64, 64))
    state = dict(model.state_dict())
    for level in range(4):
        for kind in ("weight", "bias"):
            name = f"heads.{level}.loc_conv.{kind}"
            state[name] = state[name][:8]
    before = copied(model)
    sentence = Pretrained("x.pt", state).load_into(model)
    assert "new are all heads (a cell has other boxes)" in sentence
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items() if n.startswith("heads."))


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda s: {"x": torch.zeros(1)}, "must be of the model's backbone, got names like x"),
        (
            lambda s: {**s, "backbone.stages.0.0.0.weight": torch.zeros(24, 3, 5, 5)},
            "must fit the model, got",
        ),
        (
            lambda s: {**s, "heads.0.loc_conv.bias": torch.full((16,), torch.nan)},
            "must be finite, got another number in heads.0.loc_conv.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(damage, finding):
    model = SPEC.build()
    before = copied(model)
    with pytest.raises(ValueError, match=r"weights of x\.pt") as caught:
        Pretrained("x.pt", damage(before)).load_into(model)
    assert finding in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ([1], "must hold a state dict, got list"),
        ({"a.b": torch.zeros(1)}, "weights must be of this package, amdegroot"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, content, finding):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=finding):
        read_pretrained(tmp_path / "x.pt")


# VGG-16 as a classification network


@pytest.fixture(scope="module")
def vgg():
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    features = make_layers(cfgs["D"])
    return features, {f"features.{name}": value for name, value in features.state_dict().items()}


def test_vgg16_of_torchvision_gives_the_same_features(vgg):
    """Images of unit variance there, of 0 to 255 here: the first convolution takes the difference in."""
    features, state = vgg
    classifier = {
        "classifier.0.weight": torch.zeros(1).expand(4096, 25088),
        "classifier.0.bias": torch.zeros(4096),
    }
    classifier |= {
        "classifier.3.weight": torch.zeros(1).expand(4096, 4096),
        "classifier.3.bias": torch.zeros(4096),
    }
    found = from_classification({**state, **classifier}, "vgg16")
    image = torch.rand(1, 3, 64, 64)
    means, stds = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    first = nn.Conv2d(3, 64, 3, padding=1)
    first.load_state_dict({kind: found[f"backbone.vgg.0.{kind}"] for kind in ("weight", "bias")})
    ours = first((image - torch.tensor([0.48235, 0.45882, 0.40784]).view(1, 3, 1, 1)) * 255)
    theirs = features[0]((image - means) / stds)
    # At the border the padding stands for another mean.
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert found["backbone.vgg.31.weight"].shape == (1024, 512, 3, 3)
    assert found["backbone.vgg.28.weight"] is state["features.28.weight"]


def test_fc6_and_fc7_are_thinned_out():
    """By hand: channel 4 of fc6 becomes channel 1, its rows and columns 0, 3 and 6 stay."""
    fc6 = torch.zeros(1).expand(4096, 25088).clone()
    fc6.view(4096, 512, 7, 7)[4, 2, 3, 6] = 5.0
    fc7 = torch.zeros(4096, 4096)
    fc7[8, 12] = 3.0
    state = {"features.0.weight": torch.ones(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
    state |= {"classifier.0.weight": fc6, "classifier.0.bias": torch.arange(4096.0)}
    state |= {"classifier.3.weight": fc7, "classifier.3.bias": torch.zeros(4096)}
    found = from_classification(state, "vgg16")
    assert found["backbone.vgg.31.weight"][1, 2].tolist() == [[0, 0, 0], [0, 0, 5], [0, 0, 0]]
    assert found["backbone.vgg.31.bias"][:3].tolist() == [0, 4, 8]
    assert found["backbone.vgg.33.weight"].nonzero().tolist() == [[2, 3, 0, 0]]


def test_weights_without_a_classifier_are_of_images_from_0_to_255(vgg):
    """IMAGENET1K_FEATURES has nan there."""
    state = dict(vgg[1])
    for number, shape in ((0, (4096, 1)), (3, (4096, 1))):
        state[f"classifier.{number}.weight"] = torch.full(shape, torch.nan)
    found = from_classification(state, "vgg16")
    assert set(found) == {name.replace("features", "backbone.vgg") for name in vgg[1]}
    assert found["backbone.vgg.0.weight"] is state["features.0.weight"]


def test_the_reduced_vgg_of_caffe_fills_the_backbone(tmp_path, vgg):
    state = {name.removeprefix("features."): value for name, value in vgg[1].items()}
    state |= {"31.weight": torch.zeros(1024, 512, 3, 3), "31.bias": torch.ones(1024)}
    state |= {"33.weight": torch.zeros(1024, 1024, 1, 1), "33.bias": torch.ones(1024)}
    torch.save(state, tmp_path / "vgg16_reducedfc.pth")
    model = models.ssd300_vgg16(3)
    sentence = read_pretrained(tmp_path / "vgg16_reducedfc.pth").load_into(model, ("cat", "dog"))
    assert "30 of 71 tensors; new are the heads and backbone.extras.conv10_1" in sentence
    assert torch.equal(model.backbone.vgg[28].weight, vgg[0][28].weight)
    assert torch.equal(model.backbone.vgg[33].bias, torch.ones(1024))


# Freezing and rates


def test_frozen_stages_keep_their_weights_and_their_norms():
    model = SPEC.build()
    before = copied(model)
    trainer = trained(model, replace(CONFIG, freeze=4))
    stages = {name.split(".")[2] for name in changed(model, before) if name.startswith("backbone.")}
    assert stages == {"4", "5"}
    assert {name.split(".")[0] for name in changed(model, before)} == {"backbone", "heads"}
    assert not changed(trainer.average, before) & {name for name in before if "stages.0." in name}
    assert model.training and not model.backbone.stages[3].training and model.backbone.stages[4].training


def test_a_frozen_backbone_leaves_the_heads():
    model = SPEC.build()
    before = copied(model)
    trained(model, replace(CONFIG, freeze=len(model.stages())))
    learned = changed(model, before)  # of a level without an object, a bias that is 0 may stay so
    assert {name.partition(".")[0] for name in learned} == {"heads"} and len(learned) > 4


def test_frozen_norms_stay_and_the_convolutions_learn():
    model = SPEC.build()
    before = copied(model)
    trained(model, replace(CONFIG, freeze_norms=True))
    norms = {name for name in before if ".1." in name.partition("stages.")[2] or "num_batches" in name}
    for name in changed(model, before):
        assert (name.endswith(("weight", "bias")) and before[name].dim() == 4) or name.startswith("heads."), (
            name
        )
    assert norms and not any(module.training for module in model.batch_norms())


def test_the_stages_of_vgg_are_its_five_and_fc():
    with torch.device("meta"):
        model = models.ssd300_vgg16(3)
    counts = [sum(isinstance(module, nn.Conv2d) for module in stage) for stage in model.stages()]
    assert counts == [2, 2, 3, 3, 3, 2]
    model.freeze(6)
    assert all(p.requires_grad == (not n.startswith("backbone.vgg")) for n, p in model.named_parameters())
    with pytest.raises(ValueError, match="stages must be a number from 0 to 6, got 7"):
        model.freeze(7)
    with pytest.raises(ValueError, match="freeze must be at most 6, the stages of the model, got 7"):
        Trainer(model, TrainConfig(freeze=7), 1)
    model.freeze(0)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "stages", "free"),
    [
        ("mb1_ssd", 14, {"extras"}),
        ("ssdlite320_mobilenet_v3", 2, {"extra"}),
        ("ssd300_resnet50", 7, {"additional_blocks"}),
        ("retinaface_mobilenet", 3, {"fpn", "ssh"}),
    ],
)
def test_a_backbone_that_names_no_stages_has_those_of_its_first_part(name, stages, free):
    with torch.device("meta"):
        model = models.build_model(name, 3, models.MODELS[name][1] or (320, 320))
    model.freeze(len(model.stages()))
    assert len(model.stages()) == stages
    assert {
        n.split(".")[1] for n, p in model.named_parameters() if p.requires_grad and n[:4] == "back"
    } == free


def test_each_part_has_its_rate():
    model = SPEC.build()
    config = replace(CONFIG, optimizer="sgd", backbone_lr=0.1, bias_lr=2.0, weight_decay=0.5)
    optimizer = make_optimizer(model, config)
    set_rate(optimizer, 1.0)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert len(found) == sum(1 for _ in model.parameters())
    for name, parameter in model.named_parameters():
        part = 0.1 if name.startswith("backbone.") else 1.0
        expected = (part * (2.0 if name.endswith("bias") else 1.0), 0.5 if parameter.dim() > 1 else 0.0)
        assert found[id(parameter)] == pytest.approx(expected), name
    (group,) = parameter_groups(model, replace(CONFIG, decay_all=True, freeze=6))[1:]
    assert group["weight_decay"] == CONFIG.weight_decay and all(p.dim() == 1 for p in group["params"])


def test_a_backbone_that_does_not_learn_stays():
    model = SPEC.build()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(model, replace(CONFIG, backbone_lr=0.0, weight_decay=0.0))
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"heads"}
