"""accelerate among the other things that are done to a model: copies, pickles, wrappers, other dtypes."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch

pytest.importorskip("torchvision")
from test_accelerate import assert_same_detections, assert_same_training, batch, pair, tiny_ssd
from torch import nn
from torchvision import tv_tensors
from torchvision.models.detection.ssd import SSD

import ssd_cuda
from ssd_cuda.compat.torchvision import _FusedForward


def spread(model):
    """The model with logits that differ, as after training."""
    torch.manual_seed(1)
    for head in model.head.classification_head.module_list:
        nn.init.normal_(head.weight, std=0.6)
    return model


def test_copies_and_pickles_give_the_same_detections():
    fused = ssd_cuda.accelerate(spread(tiny_ssd(5))).eval()
    images, _ = batch(num_classes=5)
    expected = fused(images)
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    loaded = ssd_cuda.accelerate(tiny_ssd(5)).eval()
    loaded.load_state_dict(fused.state_dict())
    for twin in (copy.deepcopy(fused), torch.load(buffer, weights_only=False), loaded):
        assert isinstance(twin, _FusedForward)
        for ours, theirs in zip(twin(images), expected, strict=True):
            assert len(theirs["boxes"]) > 5 and ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class OwnState(SSD):
    def __getstate__(self):
        return {**super().__getstate__(), "pickled": True}


def test_a_model_that_compiled_itself_is_saved_as_a_plain_one_is():
    """torch leaves what model.compile() made out of a pickle, and a model's own rule says what is in it."""
    fused = tiny_ssd(5)
    fused.__class__ = OwnState
    ssd_cuda.accelerate(fused).compile(backend="eager")
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(fused), torch.load(buffer, weights_only=False)):
        assert isinstance(twin, _FusedForward) and twin.pickled and twin._compiled_call_impl is None


class OwnLoss(SSD):
    def compute_loss(self, *args):
        return {}


class OwnOutputs(SSD):
    def eager_outputs(self, losses, detections):
        return losses, detections


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls torch.jit.script deprecated
        return torch.jit.script(tiny_ssd())


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager"), lambda _: scripted()]
)
def test_a_wrapped_model_gets_a_hint(wrap):
    with pytest.raises(TypeError, match="accelerate the model itself, before it is wrapped, compiled or scr"):
        ssd_cuda.accelerate(wrap(tiny_ssd()))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_restoring_a_wrapper_says_so(wrap):
    """It came back as it was, with the fused core inside."""
    fused = ssd_cuda.accelerate(tiny_ssd())
    with pytest.raises(
        TypeError, match=r"model must be the accelerated model itself, got .*, which wraps it"
    ):
        ssd_cuda.restore(wrap(fused))
    assert type(ssd_cuda.restore(fused)) is SSD is type(ssd_cuda.restore(fused))
    wrapped = wrap(fused)
    assert ssd_cuda.restore(wrapped) is wrapped


def test_a_class_that_torch_made_of_the_accelerated_one_is_not_undone():
    """fully_shard derives one in this way; with torchvision's class the sharding went."""
    fused = ssd_cuda.accelerate(tiny_ssd())
    fused.scale = nn.Parameter(torch.ones(1))
    nn.utils.parametrize.register_parametrization(fused, "scale", nn.Identity())
    with pytest.raises(TypeError, match="as accelerate left it, got ParametrizedFusedSSD, made of it since"):
        ssd_cuda.restore(fused)
    nn.utils.parametrize.remove_parametrizations(fused, "scale")
    assert type(ssd_cuda.restore(fused)) is SSD


def test_unsupported_models_get_one_sentence():
    with pytest.raises(
        TypeError, match=r"model must be a torchvision\.models\.detection\.ssd\.SSD, got Linear$"
    ):
        ssd_cuda.accelerate(nn.Linear(1, 1))
    for kind, name in ((OwnLoss, "compute_loss"), (OwnOutputs, "eager_outputs")):
        model = tiny_ssd()
        model.__class__ = kind
        with pytest.raises(TypeError, match=f"model must use torchvision's own {name}"):
            ssd_cuda.accelerate(model)
    model = tiny_ssd()
    model.eager_outputs = lambda losses, detections: losses
    with pytest.raises(TypeError, match="model must use torchvision's own eager_outputs"):
        ssd_cuda.accelerate(model)
    model = tiny_ssd()
    model.proposal_matcher = object()
    with pytest.raises(TypeError, match="proposal_matcher must be torchvision's SSDMatcher, got object"):
        ssd_cuda.accelerate(model)


def test_scripting_says_to_restore_first():
    fused = ssd_cuda.accelerate(tiny_ssd())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TypeError, match=r"torch\.jit\.script cannot take: call restore\(model\) first"):
            torch.jit.script(fused)
        torch.jit.script(ssd_cuda.restore(fused))


def test_a_double_model_stays_double():
    """Priors of float32 would assign others: see tests/test_matching_dtypes.py."""
    plain, fused = pair(tiny_ssd(6).double())
    images, targets = batch(num_classes=6)
    images = [image.double() for image in images]
    for target in targets:
        target["boxes"] = target["boxes"].double()
    assert_same_training(plain, fused, images, targets, rtol=1e-9)
    assert fused(images, targets)["bbox_regression"].dtype == torch.float64
    assert fused.__dict__["_ssd_cuda_priors"]
    assert all(shared.tensor.dtype == torch.float64 for shared in fused.__dict__["_ssd_cuda_priors"].values())
    assert_same_detections(spread(plain), spread(fused), images)


@pytest.mark.parametrize("layout", ["XYWH", "CXCYWH"])
def test_targets_that_are_not_corners_are_converted(layout):
    from torchvision.transforms.v2.functional import convert_bounding_box_format

    plain, fused = pair(tiny_ssd(6))
    images, targets = batch(num_classes=6)
    expected = plain.train()(images, [dict(target) for target in targets])
    for target, image in zip(targets, images, strict=True):
        corners = tv_tensors.BoundingBoxes(
            target["boxes"], format="XYXY", canvas_size=tuple(image.shape[-2:])
        )
        target["boxes"] = convert_bounding_box_format(corners, new_format=layout)
    losses = fused.train()(images, targets)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)
    fused.eval()(images, targets)  # looks at the boxes too, of which w is no x2
