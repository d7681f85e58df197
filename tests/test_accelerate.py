"""accelerate: a torchvision SSD gives the same losses, gradients and detections with the fused core in it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import ssd_cuda
from ssd_cuda.compat.torchvision import _FusedForward, _pixel_priors

pytest.importorskip("torchvision")
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD


class TinyBackbone(nn.Module):
    """Three feature maps of 16 channels at strides 8, 16, 32."""

    out_channels = (16, 16, 16)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, stride=8)
        self.down = nn.ModuleList(nn.Conv2d(16, 16, 3, stride=2, padding=1) for _ in range(2))

    def forward(self, x):
        maps = [self.stem(x)]
        for layer in self.down:
            maps.append(layer(maps[-1].relu()))
        return OrderedDict((str(i), m) for i, m in enumerate(maps))


def tiny_ssd(num_classes=21, **options) -> SSD:
    generator = options.pop("generator", None) or DefaultBoxGenerator([[2], [2, 3], [2]], steps=None)
    torch.manual_seed(3)
    return SSD(TinyBackbone(), generator, (96, 128), num_classes, **options)


def batch(sizes=((90, 120), (150, 100), (64, 64)), counts=(3, 0, 7), num_classes=21, seed=0):
    g = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for (h, w), n in zip(sizes, counts, strict=True):
        images.append(torch.rand(3, h, w, generator=g))
        a = torch.rand(n, 2, generator=g)
        corner = a * torch.tensor([w * 0.7, h * 0.7])
        size = (0.1 + 0.2 * torch.rand(n, 2, generator=g)) * torch.tensor([w, h])
        labels = torch.randint(1, num_classes, (n,), generator=g)
        targets.append({"boxes": torch.cat([corner, corner + size], 1), "labels": labels})
    return images, targets


def pair(model):
    """The plain model and an accelerated copy with the same weights."""
    return model, ssd_cuda.accelerate(copy.deepcopy(model))


def clone(targets):
    return [{k: v.clone() for k, v in target.items()} for target in targets]


def train_step(model, images, targets):
    model.train()
    model.zero_grad()
    losses = model([image.clone() for image in images], clone(targets))
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}


def assert_same_training(plain, fused, images, targets, rtol=1e-4):
    expected, expected_grads = train_step(plain, images, targets)
    losses, grads = train_step(fused, images, targets)
    assert list(losses) == list(expected)
    for key in expected:
        torch.testing.assert_close(losses[key], expected[key], rtol=1e-5, atol=1e-6)
    for name, grad in expected_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=rtol, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_detections(plain, fused, images):
    plain.eval(), fused.eval()
    with torch.no_grad():
        expected, found = plain(images), fused(images)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert set(a) == set(b)
        assert a["labels"].dtype == b["labels"].dtype and a["boxes"].shape == b["boxes"].shape
        torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-5, atol=1e-6)
        distinct = torch.ones_like(b["scores"], dtype=torch.bool)  # equal scores may stand in another order
        distinct[1:] &= b["scores"].diff().abs() > 2e-6
        distinct[:-1] &= b["scores"].diff().abs() > 2e-6
        assert torch.equal(a["labels"][distinct], b["labels"][distinct])
        torch.testing.assert_close(a["boxes"][distinct], b["boxes"][distinct], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("num_classes", [2, 21, 91])
@pytest.mark.parametrize("counts", [(3, 0, 7), (0, 0, 0), (1, 1, 1), (40, 2, 0)])
def test_training_is_torchvisions(num_classes, counts):
    plain, fused = pair(tiny_ssd(num_classes))
    assert_same_training(plain, fused, *batch(counts=counts, num_classes=num_classes))


@pytest.mark.parametrize("num_classes", [2, 21, 91])
def test_evaluation_is_torchvisions(num_classes):
    plain, fused = pair(tiny_ssd(num_classes))
    for model in (plain, fused):  # logits with a spread, as after training
        for head in model.head.classification_head.module_list:
            torch.manual_seed(1)
            nn.init.normal_(head.weight, std=0.6)
    assert_same_detections(plain, fused, batch()[0])


def test_no_candidates():
    plain, fused = pair(tiny_ssd(5, score_thresh=0.999))
    assert_same_detections(plain, fused, batch(num_classes=5)[0])
    assert fused(batch()[0])[0]["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    "generator",
    [
        DefaultBoxGenerator([[2], [2], [2]], min_ratio=0.1, max_ratio=0.8, clip=False),
        DefaultBoxGenerator([[2, 3], [3], []], scales=[0.1, 0.3, 0.6, 0.9], steps=[8, 16, 32]),
    ],
)
def test_custom_anchors(generator):
    plain, fused = pair(tiny_ssd(7, generator=generator))
    images, targets = batch(num_classes=7)
    assert_same_training(plain, fused, images, targets)
    assert_same_detections(plain, fused, images)


class JitteredBoxes(DefaultBoxGenerator):
    """A generator that accelerate does not know: it is asked on every call."""

    def forward(self, image_list, feature_maps):
        return [boxes + 0.25 for boxes in super().forward(image_list, feature_maps)]


class WideHead(nn.Module):
    """A head of the user's own."""

    def __init__(self, anchors: int, classes: int):
        super().__init__()
        self.loc = nn.Conv2d(16, anchors * 4, 1)
        self.conf = nn.Conv2d(16, anchors * classes, 1)
        self.classes = classes

    def forward(self, features):
        def rows(maps, width):
            return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, width) for m in maps], 1)

        return {
            "bbox_regression": rows([self.loc(f) for f in features], 4),
            "cls_logits": rows([self.conf(f) for f in features], self.classes),
        }


def test_an_unknown_generator_and_a_custom_head():
    generator = JitteredBoxes([[2], [2], [2]])
    plain, fused = pair(tiny_ssd(6, generator=generator, head=WideHead(4, 6)))
    images, targets = batch(num_classes=6)
    assert_same_training(plain, fused, images, targets)
    assert_same_detections(plain, fused, images)


def test_other_options():
    options = dict(
        iou_thresh=0.4, positive_fraction=0.2, nms_thresh=0.3, topk_candidates=20, detections_per_img=7
    )
    plain, fused = pair(tiny_ssd(9, **options))
    images, targets = batch(num_classes=9)
    assert_same_training(plain, fused, images, targets)
    assert_same_detections(plain, fused, images)


def test_it_is_the_same_object_with_the_same_state():
    model = tiny_ssd()
    keys = list(model.state_dict())
    fused = ssd_cuda.accelerate(model)
    assert fused is model and isinstance(fused, SSD)
    fused.train()(*batch())
    assert list(fused.state_dict()) == keys
    assert ssd_cuda.accelerate(fused) is fused
    plain = ssd_cuda.restore(fused)
    assert plain is model and type(plain) is SSD and not isinstance(plain, _FusedForward)
    assert_same_training(plain, ssd_cuda.accelerate(copy.deepcopy(plain)), *batch())


def test_priors_follow_the_image_size_and_the_generator():
    fused = ssd_cuda.accelerate(tiny_ssd(4)).eval()
    images, _ = batch(num_classes=4)
    fused(images)
    before = len(fused.__dict__["_ssd_cuda_priors"])
    fused(images)
    assert len(fused.__dict__["_ssd_cuda_priors"]) == before == 1
    fused.anchor_generator.clip = not fused.anchor_generator.clip
    assert_same_detections(ssd_cuda.restore(copy.deepcopy(fused)), fused, images)
    fused.anchor_generator._wh_pairs = [2 * pairs for pairs in fused.anchor_generator._wh_pairs]
    assert_same_detections(ssd_cuda.restore(copy.deepcopy(fused)), fused, images)


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [lambda: FakeTensorMode(allow_non_fake_inputs=True), Watching])
def test_priors_made_under_a_mode_are_not_kept(mode):
    """Fake tensors would be those of every later call."""
    generator = DefaultBoxGenerator([[2]] * 2, steps=[8, 16])
    model = SimpleNamespace(anchor_generator=generator)

    def priors():
        images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)])
        return _pixel_priors(model, images, [torch.zeros(1, 4, n, n) for n in (4, 2)])

    with mode():
        made = priors()
    assert "_ssd_cuda_priors" not in vars(model)
    kept = priors()
    assert type(kept) is torch.Tensor and kept is priors() and kept.shape == made.shape


def test_priors_made_within_a_transform_are_not_kept():
    fused = ssd_cuda.accelerate(tiny_ssd(4)).train()
    weights = {name: value.detach() for name, value in fused.named_parameters()}

    def loss(weights):
        return sum(torch.func.functional_call(fused, weights, batch(num_classes=4)).values())

    with pytest.raises(NotImplementedError, match="has a derivative by autograd alone"):
        torch.func.grad(loss)(weights)
    fused(*batch(num_classes=4))
    (kept,) = fused.__dict__["_ssd_cuda_priors"].values()
    assert kept.tensor.untyped_storage().nbytes()


def test_priors_of_the_last_sizes_are_kept(monkeypatch):
    """A transform of many sizes: each had its own for ever."""
    from ssd_cuda.compat import torchvision as compat

    fused, made = ssd_cuda.accelerate(tiny_ssd(4)).eval(), compat.SharedTensor.made_by
    calls = []
    monkeypatch.setattr(compat.SharedTensor, "made_by", lambda make: calls.append(make) or made(make))
    for width in [*range(64, 264, 8), 256]:
        fused.transform.fixed_size = (width, 64)
        fused([torch.rand(3, 64, width)])
    assert len(fused.__dict__["_ssd_cuda_priors"]) == compat._MOST_SIZES and len(calls) == 25


def test_under_autocast():
    plain, fused = pair(tiny_ssd(11))
    images, targets = batch(num_classes=11)
    plain.train(), fused.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, losses = plain(images, clone(targets)), fused(images, clone(targets))
    for key, value in expected.items():
        assert losses[key].dtype == torch.float32
        torch.testing.assert_close(losses[key], value.float(), rtol=1e-4, atol=1e-5)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fused.parameters())


def test_under_compile():
    _, fused = pair(tiny_ssd(5))
    images, targets = batch(num_classes=5)
    expected = fused.train()(images, clone(targets))
    compiled = torch.compile(fused, backend="aot_eager")
    losses = compiled(images, clone(targets))
    for key in expected:
        torch.testing.assert_close(losses[key], expected[key], rtol=1e-5, atol=1e-6)


def test_degenerate_targets_raise_as_in_torchvision():
    _, fused = pair(tiny_ssd())
    images, targets = batch()
    targets[0]["boxes"][1, 2:] = targets[0]["boxes"][1, :2]
    box = r"x1 < x2 and y1 < y2, got \[.*\] as box 1 of image 0"
    with pytest.raises(AssertionError, match=box):
        fused.train()(images, targets)
    for bad in (torch.nan, torch.inf):
        targets[0]["boxes"] = batch()[1][0]["boxes"]
        targets[0]["boxes"][1, 2] = bad
        with pytest.raises(AssertionError, match=box):
            fused(images, targets)
    with pytest.raises(AssertionError, match="targets must be given in training mode"):
        fused(images)
    targets[0]["boxes"] = torch.zeros(3, 5)
    with pytest.raises(
        AssertionError, match=r"boxes of target 0 must be a tensor of shape \[N, 4\], got \[3, 5\]"
    ):
        fused(images, targets)


def test_a_model_first_used_in_inference_mode_trains():
    """Its priors are shared by later calls, and an inference tensor could not be saved for a backward."""
    _, fused = pair(tiny_ssd())
    images, targets = batch()
    with torch.inference_mode():
        fused.eval()(images)
    losses, grads = train_step(fused.train(), images, targets)
    assert all(value.isfinite() for value in losses.values()) and grads


def test_a_used_model_is_copied_without_its_priors():
    _, fused = pair(tiny_ssd())
    fused.eval()(batch()[0])
    copied = copy.deepcopy(fused)
    assert not any("priors" in name for name in vars(copied))
    assert_same_detections(fused, copied, batch()[0])


@pytest.mark.parametrize("factory", [ssd300_vgg16, ssdlite320_mobilenet_v3_large])
def test_the_models_people_have(factory):
    torch.manual_seed(0)
    plain, fused = pair(factory(weights=None, weights_backbone=None, num_classes=21))
    images, targets = batch(sizes=((200, 300), (320, 240)), counts=(4, 2))
    assert_same_detections(plain, fused, images)
    plain.train(), fused.train()
    with torch.no_grad():
        torch.manual_seed(5)
        expected = plain(images, clone(targets))
        torch.manual_seed(5)
        losses = fused(images, clone(targets))
    for key in expected:
        torch.testing.assert_close(losses[key], expected[key], rtol=1e-4, atol=1e-5)


def _ddp_worker(rank, path, results):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    model = ssd_cuda.accelerate(tiny_ssd(5)).train()
    wrapped = nn.parallel.DistributedDataParallel(model)
    images, targets = batch(num_classes=5, seed=rank)
    sum(wrapped(images, targets).values()).backward()
    results.put((rank, {name: p.grad.tolist() for name, p in model.named_parameters()}))
    dist.barrier()
    dist.destroy_process_group()


def test_under_distributed_data_parallel(tmp_path):
    """Two processes; the averaged gradient is the mean of what each batch gives torchvision alone."""
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    args = (str(tmp_path / "store"), results)
    spawned = torch.multiprocessing.spawn(_ddp_worker, args=args, nprocs=2, join=False)
    grads = dict(results.get() for _ in range(2))
    while not spawned.join():
        pass
    assert grads[0] == grads[1]
    alone = [train_step(tiny_ssd(5), *batch(num_classes=5, seed=rank))[1] for rank in range(2)]
    for name, grad in grads[0].items():
        expected = (alone[0][name] + alone[1][name]) / 2
        torch.testing.assert_close(torch.tensor(grad), expected, rtol=1e-4, atol=1e-6)
