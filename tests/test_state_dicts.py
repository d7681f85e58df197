"""A state dict behind what programs put around it: prefixes of names, wrappers, averages."""

from __future__ import annotations

import pytest
import torch

from ssd_cuda import cli, models
from ssd_cuda.engine.finetune import read_pretrained
from ssd_cuda.models.state_dicts import read_weights, state_of

STATE = {"backbone.a.weight": torch.ones(2), "heads.0.bias": torch.zeros(1)}
OTHER = {name: value + 5 for name, value in STATE.items()}


def renamed(change) -> dict:
    return {change(name): value for name, value in STATE.items()}


def same(found, expected=STATE) -> bool:
    return found.keys() == expected.keys() and all(found[name] is expected[name] for name in expected)


def slim() -> dict:
    """A state dict under ULFG's names."""
    state = {}
    for name, value in models.ulfg_slim(image_size=(48, 64)).state_dict().items():
        name = name.replace("backbone.base", "base_net").replace("backbone.", "")
        if name.startswith("heads."):
            _, level, kind, rest = name.split(".", 3)
            kind = {"conf_conv": "classification_headers", "loc_conv": "regression_headers"}[kind]
            name = f"{kind}.{level}.{rest}"
        state[name] = value
    return state


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"module.module.{name}",
        lambda name: name.replace("backbone.", "backbone._orig_mod."),  # that part alone is compiled
    ],
)
def test_what_wraps_a_module_is_taken_out_of_names(change):
    assert same(read_weights(renamed(change)))


def test_names_that_only_look_alike_stay():
    state = {"head.module_list.0.module.bias": torch.ones(1), "module": torch.ones(1)}
    assert read_weights(state).keys() == state.keys()


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}}},
        {"model_state_dict": STATE},
        {"ema": STATE},
        {"ema_state_dict": STATE},
        {"state_dict": {"model": STATE}},
        {"model": {"state_dict": STATE}},
        {"ema": {"state_dict": STATE, "decay": 0.99}},
        {"model_ema": {"n_averaged": torch.tensor(3), **renamed(lambda name: f"module.{name}")}},
        {"ema": {"decay": 0.99}, "model": STATE},
        {"model": {}, "ema": STATE},
    ],
)
def test_wrappers_are_taken_off(content):
    state, said = state_of(content)
    assert same(state) and said == ""


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        ({"model": OTHER, "ema": STATE}, "the weights 'ema', not 'model'"),
        ({"ema_state_dict": STATE, "model_state_dict": OTHER}, "the weights 'ema_state_dict', not 'model_st"),
        ({"model": OTHER, "model_ema": renamed(lambda name: f"module.{name}")}, "the weights 'model_ema', n"),
        # an average of the parameters alone lacks what batch norms keep
        ({"model": STATE, "ema": {"heads.0.bias": torch.ones(1)}}, "the weights 'model', not 'ema'"),
    ],
)
def test_of_a_model_and_its_average_it_is_said_which_is_taken(content, taken):
    state, said = state_of(content)
    assert same(state) and said.startswith(taken)


def test_a_dict_that_holds_itself_ends():
    content: dict = {}
    content["model"] = content
    assert state_of(content)[0].keys() == {"model"}


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--mean", "1", "2", "3"], "mean is for a .caffemodel, got "),
        (["--scale", "0"], "scale is for a .caffemodel, got "),
        (["--model", "ulfg_rfb"], "model of weights of ULFG: slim must be ulfg_slim, got ulfg_rfb"),
    ],
)
def test_options_that_torchs_weights_leave_no_choice_in(tmp_path, capsys, option, sentence):
    torch.save(slim(), tmp_path / "slim.pth")
    line = ["import", str(tmp_path / "slim.pth"), "-o", str(tmp_path / "model.pt")]
    assert cli.main([*line, *option]) == 1
    assert f"error: {sentence}" in capsys.readouterr().err
    assert cli.main([*line, "--model", "ulfg_slim"]) == 0


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.tensor(float("nan")), "weights must be finite, got nan in "),
        (torch.tensor(float("-inf")), "weights must be finite, got -inf in "),
        (torch.tensor(1e300, dtype=torch.float64), "weights must be finite, got inf in "),  # as float32
        (torch.tensor(-1.0), "weights must have no negative variance, got -1.0 in "),
    ],
)
def test_weights_that_later_commands_refuse_are_not_imported(tmp_path, capsys, value, sentence):
    name = "base_net.3.1.running_var"
    state = slim()
    state[name] = state[name].to(value.dtype)
    state[name][2] = value
    torch.save(state, tmp_path / "slim.pth")
    line = ["import", str(tmp_path / "slim.pth"), "-o", str(tmp_path / "model.pt")]
    assert cli.main(line) == 1
    assert f"error: {sentence}backbone.base.3.1.running_var\n" in capsys.readouterr().err
    assert not (tmp_path / "model.pt").exists()


# A network that is an attribute of something else


def under(prefix, state) -> dict:
    return {f"{prefix}{name}": value for name, value in state.items()}


def lightning(state) -> dict:
    """What PyTorch Lightning writes beside the weights, as far as it is plain values."""
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"EarlyStopping{'monitor': 'val_loss'}": {"wait_count": 0}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(1)}}}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.001},
    }


@pytest.mark.parametrize("prefix", ["model.", "net.", "detector.", "model.ssd.", "model._orig_mod.module."])
@pytest.mark.parametrize("beside", [{}, {"criterion.priors": torch.ones(2)}])
def test_a_checkpoint_of_lightning_is_imported(tmp_path, capsys, prefix, beside):
    state = slim()
    torch.save(lightning({**beside, **under(prefix, state)}), tmp_path / "last.ckpt")
    line = ["import", str(tmp_path / "last.ckpt"), "-o", str(tmp_path / "model.pt")]
    assert cli.main(line) == 0
    bare = prefix.replace("_orig_mod.", "")
    told = f", the weights under '{bare}', not criterion.priors" if beside else ""
    assert f"recognised ULFG: slim{told}\n" in capsys.readouterr().out
    found = models.load(tmp_path / "model.pt").state_dict()
    assert torch.equal(found["backbone.base.0.0.weight"], state["base_net.0.0.weight"])


def test_each_reader_of_weights_takes_the_prefix_off(tmp_path):
    state = models.ssd300_vgg16(3).state_dict()
    content = lightning({**under("model.", state), "loss_fn.weight": torch.ones(3)})
    assert torch.equal(
        models.ssd300_vgg16(weights=content).backbone.vgg[0].bias, state["backbone.vgg.0.bias"]
    )
    found = models.load(content, model="ssd300_vgg16").state_dict()
    assert found.keys() == state.keys()
    torch.save(content, tmp_path / "x.ckpt")
    told = read_pretrained(tmp_path / "x.ckpt").load_into(models.ssd300_vgg16(3), ("cat", "dog"))
    assert told == (
        f"weights of {tmp_path / 'x.ckpt'} (the weights under 'model.', not loss_fn.weight): 71 of 71 tensors"
    )


@pytest.mark.parametrize("name", ["conv1.weight", "features.0.weight", "0.weight"])
def test_a_classifier_needs_one_prefix_of_all(name):
    """Its names are common ones: beside others it is nobody's."""
    state = {name: torch.ones(1), name.replace("0.", "28."): torch.ones(1)}
    state |= {f"layer{n}.conv3.weight": torch.ones(1) for n in ("1.0", "4.2")} if name[0] == "c" else {}
    assert state_of(under("model.net.", state)) == (state, "")
    beside = {**under("model.net.", state), "head.weight": torch.ones(1)}
    assert state_of(beside) == (beside, "")


def test_of_several_networks_none_is_chosen():
    for other in ("teacher.", "ema_model.module.", "model.part."):
        state = {**under("model.", slim()), **under(other, slim())}
        with pytest.raises(ValueError, match="must be of one network, got several, under ") as caught:
            models.load(lightning(state))
        assert repr(other) in str(caught.value) and "'model.'" in str(caught.value)


def test_weights_of_the_network_outside_of_its_prefix_are_missed():
    state = under("model.", slim())
    state["base_net.0.0.weight"] = state.pop("model.base_net.0.0.weight")
    with pytest.raises(ValueError, match=r"Missing key.*backbone\.base\.0\.0\.weight"):
        models.load(state)


def test_training_says_which_of_two_it_starts_from(tmp_path):
    average = models.ssd_small(3, (64, 64)).state_dict()
    model = models.ssd_small(3, (64, 64)).state_dict()
    torch.save({"model": model, "ema": average}, tmp_path / "x.pth")
    target = models.ssd_small(3, (64, 64))
    told = read_pretrained(tmp_path / "x.pth").load_into(target)
    assert told.startswith(f"weights of {tmp_path / 'x.pth'} (the weights 'ema', not 'model'): 70 of 70 ")
    assert torch.equal(target.state_dict()["heads.0.conf_conv.bias"], average["heads.0.conf_conv.bias"])


def test_ssd300_takes_finite_weights_only():
    state = models.ssd300_vgg16(3).state_dict()
    state["backbone.norm.weight"][5] = float("nan")
    with pytest.raises(ValueError, match=r"weights must be finite, got nan in backbone\.norm\.weight"):
        models.ssd300_vgg16(weights=state)


def test_the_command_says_which_of_two_it_took(tmp_path, capsys):
    state = {f"_orig_mod.module.{name}": value for name, value in slim().items()}
    torch.save({"model_state_dict": state, "ema": state}, tmp_path / "slim.pth")
    line = ["import", str(tmp_path / "slim.pth"), "-o", str(tmp_path / "model.pt")]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "recognised ULFG: slim, the weights 'ema', not 'model_state_dict'\n" in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda value: None, "weights must be tensors, got NoneType for "),
        (lambda value: 0.5, "weights must be tensors, got float for "),
        (lambda value: (value * 50).to(torch.int8), "weights must be floating-point numbers, got int8 for "),
        (lambda value: value > 0, "weights must be floating-point numbers, got bool for "),
        (lambda value: value + 0j, "weights must be floating-point numbers, got complex64 for "),
        (
            lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
            "weights must be floating-point",
        ),
        (lambda value: value.to_sparse(), "weights must be dense numbers, got sparse_coo for "),
        (lambda value: value.to("meta"), "weights must be dense numbers, got none, on meta for "),
    ],
    ids=("None", "number", "int8", "bool", "complex", "quantised", "sparse", "meta"),
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of sparse and quantised tensors in a file
def test_what_is_no_floating_point_tensor_is_no_weight(tmp_path, capsys, change, sentence):
    """Quantised weights without their scales were taken as they are; a value that is no tensor ended in a
    traceback, a sparse one in torch's sentence on two equal shapes."""
    small, name = models.ssd_small(3, (64, 64)).state_dict(), "heads.1.conf_conv.weight"
    for at, state in (("classification_headers.3.weight", slim()), (name, small)):
        torch.save({**state, at: change(state[at])}, tmp_path / "x.pth")
        line = ["import", str(tmp_path / "x.pth"), "-o", str(tmp_path / "y.pt"), "--size", "64", "64"]
        assert cli.main(line) == 1
        assert f"error: {sentence}" in capsys.readouterr().err
    if "tensors" not in sentence:  # what is no tensor is left out there, and said so
        with pytest.raises(ValueError, match=sentence):
            read_pretrained(tmp_path / "x.pth").load_into(models.ssd_small(3, (64, 64)))


@pytest.mark.parametrize("value", [torch.tensor(1.0), torch.zeros(2, 3), 3.0])
def test_ssd300_counts_classes_by_a_list_of_numbers(value):
    state = {"backbone.vgg.0.weight": torch.zeros(1), "heads.0.conf_conv.bias": value}
    with pytest.raises(
        ValueError, match=r"^weights must (hold the heads, got a bias of|be tensors, got float)"
    ):
        models.ssd300_vgg16(weights=state)
