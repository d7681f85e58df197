"""Options cross from Python to the kernels by name: each table in csrc against what the wrapper passes."""

from __future__ import annotations

import re
import typing

import pytest
import torch
from multibox_cases import with_zeros
from torch.utils._python_dispatch import TorchDispatchMode

from ssd_cuda import DetectConfig, FocalConfig, MatchConfig, MiningConfig, MultiBoxConfig, PriorSpec, nn, ops
from ssd_cuda.export.network import network_of
from ssd_cuda.export.package import _Checked
from ssd_cuda.ops.priors import _generate

BOXES, PRIORS = torch.rand(3, 4).cumsum(1), torch.rand(3, 4)
SCORES = torch.rand(3)
LOC, CONF = torch.rand(1, 3, 4), torch.rand(1, 3, 2)
CODES = torch.zeros(1, 3, dtype=torch.int32)
GT = ops.GroundTruth.from_list([BOXES[:1]], [torch.tensor([1])])
SPEC = PriorSpec(feature_maps=(1,), sizes=(30,), larger_sizes=(60,), ratios=((2,),), steps=None)


def differentiate(fn, *inputs):
    inputs = [t.clone().requires_grad_() for t in inputs]
    result = fn(*inputs)
    # Twice: a factor of 1 may find its gradients made by the forward.
    torch.autograd.backward([2 * t.sum() for t in (result if isinstance(result, tuple) else (result,))][:2])


CALLS = {
    "box_iou": lambda: ops.box_iou(BOXES, BOXES),
    "box_encode": lambda: ops.encode(BOXES, PRIORS),
    "box_encode_backward": lambda: differentiate(lambda b: ops.encode(b, PRIORS), BOXES),
    "box_decode": lambda: ops.decode(LOC, PRIORS),
    "box_decode_backward": lambda: differentiate(lambda x: ops.decode(x, PRIORS), LOC),
    "checked_input": lambda: _Checked(network_of(nn.PostProcess().eval(), priors=PRIORS, num_classes=2))(
        LOC, CONF
    ),
    "detect": lambda: ops.detect(LOC, CONF, PRIORS),
    "diou_nms": lambda: ops.diou_nms(BOXES, SCORES, 0.5),
    "focal_loss": lambda: ops.focal_loss(LOC, CONF, GT, PRIORS),
    "focal_loss_backward": lambda: differentiate(lambda x, y: ops.focal_loss(x, y, GT, PRIORS), LOC, CONF),
    "fill_priors": lambda: _generate(SPEC, torch.device("cpu"), torch.float32),
    "match": lambda: ops.match(GT, PRIORS),
    "matrix_nms": lambda: ops.matrix_nms(BOXES, SCORES),
    "multibox_loss": lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS, codes=CODES),
    "multibox_match_loss": lambda: ops.multibox_loss(LOC, CONF, GT, PRIORS),
    "multibox_loss_backward": lambda: differentiate(
        lambda x, y: ops.multibox_loss(x, y, GT, PRIORS), LOC, CONF
    ),
    "multibox_loss_backward_into": lambda: with_zeros(
        lambda: differentiate(lambda x, y: ops.multibox_loss(x, y, GT, PRIORS), LOC, CONF)
    ),
    "nms": lambda: ops.nms(BOXES, SCORES, 0.5),
    "nms_padded": lambda: ops.nms_padded(BOXES, SCORES, 0.5),
    "select_hard_negatives": lambda: ops.select_hard_negatives(SCORES[None], SCORES[None] > 1),
    "soft_nms": lambda: ops.soft_nms(BOXES, SCORES),
    "weighted_boxes_fusion": lambda: ops.weighted_boxes_fusion(BOXES[None, None], SCORES[None, None]),
    "top_k_threshold": lambda: ops.top_k_threshold(SCORES[None], torch.tensor([1])),
}


class Recorder(TorchDispatchMode):
    """The tensors and options of every call of an op of ours."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == "ssd_cuda":
            self.calls[op._schema.name.removeprefix("ssd_cuda::")] = (op, args, kwargs or {})
        return op(*args, **(kwargs or {}))


def recorded(name):
    with Recorder() as recorder:
        CALLS[name]()
    return recorder.calls[name]


def defined_ops():
    names = (schema.name for schema in torch._C._jit_get_all_schemas())
    return sorted({name.removeprefix("ssd_cuda::") for name in names if name.startswith("ssd_cuda::")})


def test_every_op_is_called_here():
    assert defined_ops() == sorted(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_the_wrapper_passes_what_the_table_names(name):
    op, _, options = recorded(name)
    table = {a.name: str(a.type) for a in op._schema.arguments if a.kwarg_only}
    positional = {str(a.type) for a in op._schema.arguments if not a.kwarg_only}
    assert positional <= {"Tensor", "Optional[Tensor]"}, "an option is passed by name, never by its place"
    assert set(options) == set(table)
    spelled = {bool: "bool", int: "int", float: "float", str: "str", list: "List"}
    for option, value in options.items():
        assert table[option].startswith(spelled[type(value)]), option


@pytest.mark.parametrize("name", [name for name in CALLS if name != "top_k_threshold"])
def test_an_unknown_and_a_missing_option_are_refused(name):
    op, tensors, options = recorded(name)
    with pytest.raises(RuntimeError, match=r"at most|no_such_option"):
        op(*tensors, **options, no_such_option=1)
    for missing in options:
        with pytest.raises(RuntimeError, match=missing):
            op(*tensors, **{key: value for key, value in options.items() if key != missing})


WORDS = [
    ("detect", "scores", DetectConfig, "scores"),
    ("detect", "clip", DetectConfig, "clip"),
    ("match", "forced", MatchConfig, "forced"),
    ("select_hard_negatives", "cap", MiningConfig, "cap"),
    ("select_hard_negatives", "scope", MiningConfig, "scope"),
    ("multibox_loss", "cap", MiningConfig, "cap"),
    ("multibox_loss", "key", MiningConfig, "key"),
    ("multibox_loss", "scope", MiningConfig, "scope"),
    ("multibox_loss", "loc_loss", MultiBoxConfig, "loc_loss"),
    ("multibox_loss", "zero_label", MultiBoxConfig, "zero_label"),
    ("multibox_loss", "normalizer", MultiBoxConfig, "normalizer"),
    ("multibox_loss_backward", "normalizer", MultiBoxConfig, "normalizer"),
    ("fill_priors", "clip", PriorSpec, "clip"),
    ("focal_loss", "form", FocalConfig, "form"),
    ("focal_loss", "background", FocalConfig, "background"),
    ("focal_loss", "zero_label", FocalConfig, "zero_label"),
    ("focal_loss", "normalizer", FocalConfig, "normalizer"),
    ("weighted_boxes_fusion", "conf_type", ops.weighted_boxes_fusion, "conf_type"),
]


@pytest.mark.parametrize("name, option, config, field", WORDS)
def test_the_words_of_the_table_are_those_of_the_config(name, option, config, field):
    op, tensors, options = recorded(name)
    with pytest.raises(RuntimeError) as told:
        op(*tensors, **{**options, option: "no such word"})
    pattern = rf"{option} must be one of (.*), got no such word"
    words = re.fullmatch(pattern, str(told.value).splitlines()[0])
    assert words, str(told.value)
    assert set(words[1].split(", ")) == set(typing.get_args(typing.get_type_hints(config)[field]))


def test_every_word_of_every_table_is_compared():
    tables = {name: recorded(name)[0]._schema.arguments for name in CALLS}
    texts = {(name, a.name) for name, table in tables.items() for a in table if str(a.type) == "str"}
    compared = {(name, option) for name, option, *_ in WORDS}
    words = ("cap", "key", "loc_loss", "scope", "zero_label")
    shared = {("multibox_loss_backward", option) for option in words}
    shared |= {("multibox_loss_backward_into", option) for option in (*words, "normalizer")}
    shared |= {("multibox_match_loss", option) for option in (*words, "normalizer", "forced")}
    shared |= {("focal_loss_backward", o) for o in ("form", "background", "zero_label", "normalizer")}
    shared |= {("checked_input", option) for option in INPUTS}
    assert texts == compared | shared


INPUTS = {"name": "images, loc, conf", "dtype": "float32, float16, bfloat16, uint8"}


@pytest.mark.parametrize("option", INPUTS)
def test_the_words_of_an_input(option):
    """No config has these: names of the inputs of exported programs, and what they may hold."""
    op, tensors, options = recorded("checked_input")
    with pytest.raises(RuntimeError, match=f"^{option} must be one of {INPUTS[option]}, got no such word"):
        op(*tensors, **{**options, option: "no such word"})


@pytest.mark.parametrize("numbers", [[], [0.1], [0.1] * 3, [0.1] * 5])
def test_a_list_has_the_length_of_the_table(numbers):
    op, tensors, options = recorded("box_encode")
    with pytest.raises(RuntimeError, match=f"^variance must hold 4 numbers, got {len(numbers)}"):
        op(*tensors, **{**options, "variance": numbers})
