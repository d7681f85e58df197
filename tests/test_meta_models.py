"""Models made without memory first, as FSDP, accelerate and large loaders make them; and in other dtypes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from ssd_cuda import models, ops


def small():
    return models.ssd_small(3, (64, 64))


def assert_constants(model, reference):
    for name in ("priors", "mean", "std"):
        assert torch.equal(getattr(model, name), getattr(reference, name)), name


def on_meta():
    with torch.device("meta"):
        model = small()
    assert model.priors.is_meta and model.mean.is_meta and model.backbone.stages[0][0][0].weight.is_meta
    return model


def assert_same_detections(model, reference):
    images = torch.rand(2, 3, 64, 64)
    found, expected = model.eval().detect(images), reference.eval().detect(images)
    assert expected.counts.sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(found[:5], expected[:5], strict=True))


def test_to_empty_then_load():
    reference, model = small(), on_meta()
    model.to_empty(device="cpu")
    assert_constants(model, reference)
    model.load_state_dict(reference.state_dict())
    assert_constants(model, reference)
    assert_same_detections(model, reference)


def test_load_by_assignment():
    reference, model = small(), on_meta()
    model.load_state_dict(reference.state_dict(), assign=True)
    assert_constants(model, reference)
    assert_same_detections(model, reference)


def test_inside_another_module():
    reference, outer = small(), nn.Sequential(on_meta())
    outer.to_empty(device="cpu")
    assert_constants(outer[0], reference)
    outer = nn.Sequential(on_meta())
    outer.load_state_dict(nn.Sequential(reference).state_dict(), assign=True)
    assert_constants(outer[0], reference)


def test_to_empty_of_a_model_that_has_memory():
    model = small()
    for name in ("priors", "mean", "std"):
        getattr(model, name).fill_(torch.nan)
    model.to_empty(device="cpu")
    assert_constants(model, small())


def test_other_dtypes_make_the_constants_anew():
    """Rounded to half and back, priors are off by a quarter of a pixel of 300."""
    reference = small()
    assert_constants(small().half().float(), reference)
    half = small().half()
    assert half.mean.dtype == torch.float16 and torch.equal(half.priors, reference.priors)
    double = small().double()
    assert torch.equal(double.priors, ops.generate_priors(double.spec, dtype=torch.float64))
    assert double.mean.dtype == torch.float64
    vgg_mean = (0.48235, 0.45882, 0.40784)
    with torch.device("meta"):
        vgg = models.ssd300_vgg16(2)
    assert vgg.double().to_empty(device="cpu").mean.flatten().tolist() == list(vgg_mean)


def test_a_model_of_float64_computes_in_it():
    model = small().double().eval()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    found = model.detect(images)
    assert found.boxes.dtype == found.scores.dtype == torch.float64
    gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.6, 0.7]])], [torch.tensor([1])])
    assert model.loss(images, gt).localization.dtype == torch.float64


def test_the_constants_lie_where_the_parameters_do(device):
    with torch.device(device):
        model = small()
    assert {model.priors.device.type, model.mean.device.type, model.std.device.type} == {device.type}


def test_copies_and_pickles_keep_their_constants():
    model = small()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_constants(twin, model)
        twin.load_state_dict(model.state_dict())
        assert_constants(twin, model)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="a torch without distributed")
def test_fsdp2_takes_a_model_made_on_meta(tmp_path):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        reference, model = small(), on_meta()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        model.to_empty(device="cpu")
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(model, reference.state_dict(), options=options)
        assert_constants(model, reference)
        loc, conf = model.eval()(torch.zeros(1, 3, 64, 64))
        loc.sum().backward()
        expected = reference.eval()(torch.zeros(1, 3, 64, 64))
        assert torch.equal(loc, expected[0]) and torch.equal(conf, expected[1])
        # What docs/train.md says of a loop of one's own: detect itself goes round the wrapper.
        images = torch.rand(2, 3, 64, 64)
        found, right = model.detections_of(*model(images)), reference.detect(images)
        assert torch.equal(found.scores, right.scores) and torch.equal(found.boxes, right.boxes)
        gt = ops.GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.6, 0.7]])] * 2, [torch.tensor([1])] * 2)
        assert torch.equal(
            model.loss_of(*model(images), gt).localization, reference.loss(images, gt).localization
        )
    finally:
        torch.distributed.destroy_process_group()
