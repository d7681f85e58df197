"""torch.export and AOTInductor: what is saved and loaded gives the same bits, for any batch size."""

from __future__ import annotations

import pytest
import torch
from conftest import random_boxes, random_priors
from torch import nn
from torch.export import Dim, export

from ssd_cuda import DetectConfig, accelerate, models, ops

CONFIG = DetectConfig(score_threshold=0.5, detections_per_image=50)


class Detect(nn.Module):
    """A post-process without bounds: each of None stands for a number in the program."""

    config = DetectConfig(top_k=None)

    def forward(self, loc, conf, priors):
        return ops.detect(loc, conf, priors, self.config)


class Nms(nn.Module):
    def forward(self, boxes, scores, idxs):
        return ops.batched_nms(boxes, scores, idxs, 0.5)


class Loss(nn.Module):
    def forward(self, loc, conf, gt, priors):
        return ops.multibox_loss(loc, conf, gt, priors)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = models.ssd_small(3, (64, 64))

    def forward(self, images):
        return self.model.detect(images)


def head(batch, priors=60):
    return torch.randn(batch, priors, 4), torch.randn(batch, priors, 5) * 3, random_priors(60)


def boxes_of(n):
    return random_boxes(n, size=50), torch.rand(n), torch.randint(0, 3, (n,))


def images_of(batch):
    return (torch.rand(batch, 3, 64, 64),)


# name -> module, its arguments for a size, the dynamic shapes
BATCH, ROWS = Dim("batch", min=1, max=64), Dim("rows")
CASES = {
    "detect": (Detect, head, ({0: BATCH}, {0: BATCH}, None)),
    "nms": (Nms, boxes_of, ({0: ROWS}, {0: ROWS}, {0: ROWS})),
    "ssd_small": (Small, images_of, ({0: BATCH},)),
}


def tensors(result):
    return [part for part in torch.utils._pytree.tree_leaves(result) if isinstance(part, torch.Tensor)]


def assert_same(found, expected):
    assert type(found) is type(expected)
    pairs = zip(tensors(found), tensors(expected), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def exported(name, strict=False):
    make, arguments, shapes = CASES[name]
    module = make().eval()
    return module, export(module, arguments(3), dynamic_shapes=shapes, strict=strict), arguments


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["detect", "nms"])
def test_saved_and_loaded_programs(name, strict, tmp_path):
    module, program, arguments = exported(name, strict)
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    for size in (3, 1, 7):
        inputs = arguments(size)
        assert_same(loaded(*inputs), module(*inputs))


@pytest.mark.slow
def test_the_program_of_a_model(tmp_path):
    with torch.no_grad():
        module, program, arguments = exported("ssd_small")
        torch.export.save(program, tmp_path / "program.pt2")
        loaded = torch.export.load(tmp_path / "program.pt2").module()
        for size in (3, 2):
            inputs = arguments(size)
            assert_same(loaded(*inputs), module(*inputs))


def test_ground_truth_is_an_input(tmp_path):
    loc, conf, priors = head(2)
    labels = [torch.tensor([1, 3]), torch.tensor([])]
    gt = ops.GroundTruth.from_list([random_boxes(2), random_boxes(0)], labels)
    program = export(Loss(), (loc, conf, gt, priors))
    torch.export.save(program, tmp_path / "loss.pt2")
    loaded = torch.export.load(tmp_path / "loss.pt2").module()
    assert_same(loaded(loc, conf, gt, priors), Loss()(loc, conf, gt, priors))


@pytest.mark.parametrize("strict", [False, True])
def test_an_accelerated_model(strict, tmp_path):
    """Images are a list of tensors, so their number and sizes are those of the example."""
    pytest.importorskip("torchvision")
    from test_accelerate import tiny_ssd

    fused = accelerate(tiny_ssd(5)).eval()
    images = [torch.rand(3, 96, 128) for _ in range(2)]
    with torch.no_grad():
        expected = fused(images)
        program = export(fused, (images,), strict=strict)
        torch.export.save(program, tmp_path / "fused.pt2")
        loaded = torch.export.load(tmp_path / "fused.pt2").module()
        assert_same(loaded(images), expected)


def test_no_bound_is_a_finite_number():
    """AOTInductor writes an infinity into a package that it cannot read again."""

    class Decode(nn.Module):
        def forward(self, loc, priors):
            return ops.decode(loc, priors)

    loc, _, priors = head(1)
    programs = [exported("detect")[1], export(Decode(), (loc[0], priors))]
    lowest = DetectConfig(score_threshold=float("-inf"), scores="given")
    module = Detect()
    module.config = lowest
    programs.append(export(module, head(1)))
    seen = 0
    for program in programs:
        for node in program.graph.nodes:
            numbers = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, float)]
            seen += len(numbers)
            assert all(abs(number) < float("inf") for number in numbers), node
    assert seen > 5


@pytest.mark.slow
def test_a_package_of_aotinductor(tmp_path):
    """Of nms; of a post-process and of a model: tests/test_package.py."""
    with torch.no_grad():
        module, program, arguments = exported("nms")
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))
        package = torch._inductor.aoti_load_package(path)
        for size in (3, 6):
            inputs = arguments(size)
            assert_same(package(*inputs), module(*inputs))


@pytest.mark.slow
def test_the_package_of_an_accelerated_model(tmp_path):
    """The smallest of torchvision's kind: what is compiled of a larger one is more of the same layers."""
    pytest.importorskip("torchvision")
    from test_accelerate import tiny_ssd

    fused = accelerate(tiny_ssd(5)).eval()
    images = [torch.rand(3, 96, 128)]
    with torch.no_grad():
        expected = fused(images)
        program = export(fused, (images,))
        torch.export.save(program, tmp_path / "program.pt2")
        assert_same(torch.export.load(tmp_path / "program.pt2").module()(images), expected)
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))
        package = torch._inductor.aoti_load_package(path)  # lives as long as what it gives
        found = package(images)
    assert expected[0]["scores"].unique().numel() > 100
    torch.testing.assert_close(found[0]["scores"], expected[0]["scores"], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_package_has_the_number_of_each_image(tmp_path):
    """Not the one that memory held while it was compiled, where the priors are a constant of the program."""

    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("priors", random_priors(60))

        def forward(self, loc, conf):
            return ops.detect(loc, conf, self.priors, CONFIG).to_list()[0]["scores"] * 2

    loc, conf, _ = head(1)
    with torch.no_grad():
        program = export(Lists(), (loc, conf))
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))
        package = torch._inductor.aoti_load_package(path)
        numbers = set()
        for scale in (0.0, 0.3, 0.6, 1.0):
            expected = ops.detect(loc, conf * scale, program.state_dict["priors"], CONFIG).to_list()[0][
                "scores"
            ]
            assert torch.equal(package(loc, conf * scale), expected * 2)
            numbers.add(len(expected))
    assert len(numbers) > 2
