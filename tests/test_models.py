"""Models: shapes, the seed's classes as oracles, torchvision's SSD300 as an oracle of the network."""

import itertools
from dataclasses import asdict, replace

import pytest
import torch
from oracles import seed
from torch import nn

from ssd_cuda import DetectConfig, models, ops, reference
from ssd_cuda.config import PriorSpec


@pytest.mark.parametrize("in_channels", [1024, 512])
def test_extra_layers_are_the_seeds(in_channels):
    torch.manual_seed(0)
    oracle, ours = seed.SSDExtraLayers(in_channels), models.SSDExtraLayers(in_channels)
    assert list(oracle.state_dict()) == list(ours.state_dict())
    ours.load_state_dict(oracle.state_dict())
    x = torch.randn(2, in_channels, 19, 19)
    expected = oracle(x)
    assert [f.shape[-1] for f in expected] == [10, 5, 3, 1]
    for one, other in zip(expected, ours(x), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 16, 5, 7), (1, 16, 1, 1)])
def test_head_is_the_seeds(shape):
    torch.manual_seed(0)
    oracle, ours = seed.SSDHead(16, 6, 21), models.SSDHead(16, 6, 21)
    assert list(oracle.state_dict()) == list(ours.state_dict())
    ours.load_state_dict(oracle.state_dict())
    x = torch.randn(shape)
    for one, other in zip(oracle(x), ours(x), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_head_takes_an_empty_batch():
    loc, conf = models.SSDHead(8, 4, 3)(torch.zeros(0, 8, 2, 2))
    assert (loc.shape, conf.shape) == ((0, 16, 4), (0, 16, 3))


def test_l2_norm_gives_every_position_the_length_of_its_scale():
    x = torch.randn(2, 16, 3, 4) * 7
    length = models.L2Norm(16)(x).norm(dim=1)
    torch.testing.assert_close(length, torch.full_like(length, 20.0))
    assert models.L2Norm(16)(torch.zeros(1, 16, 1, 1)).abs().max() == 0


@pytest.fixture(scope="module")
def torchvision_model():
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    return detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=5).eval()


def test_torchvisions_weights_give_torchvisions_logits_and_detections(torchvision_model, tmp_path):
    theirs = torchvision_model
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = models.ssd300_vgg16(weights=tmp_path / "weights.pth").eval()
    assert ours.num_classes == 5
    image = torch.rand(1, 3, 300, 300)
    with torch.no_grad():
        loc, conf = ours(image)
        features = theirs.backbone(theirs.transform([image[0]])[0].tensors)
        expected = theirs.head(list(features.values()))
        (found,) = theirs([image[0]])
    assert loc.shape == (1, 8732, 4) and conf.shape == (1, 8732, 5)
    torch.testing.assert_close(loc, expected["bbox_regression"])
    torch.testing.assert_close(conf, expected["cls_logits"])
    (mine,) = ours.detect(image).to_list()
    assert len(found["scores"]) > 0
    torch.testing.assert_close(mine["scores"], found["scores"], rtol=1e-5, atol=1e-6)
    # The last bit of a softmax may swap two rows of nearly equal score: each row has its twin.
    distance = (mine["boxes"][:, None] * 300 - found["boxes"]).abs().amax(2)
    distance[mine["labels"][:, None] != found["labels"]] = 300
    assert distance.amin(1).max() < 1e-3 and distance.amin(0).max() < 1e-3


def test_torchvisions_ssdlite_gives_torchvisions_logits_and_detections():
    """ssdlite320_mobilenet_v3_large, whose norms have an epsilon of their own."""
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    theirs = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    image = torch.rand(2, 3, 320, 320)
    for module in theirs.modules():  # as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        theirs.train().head(list(theirs.backbone((image - 0.5) / 0.5).values()))
        ours = models.load(theirs.eval().state_dict()).eval()
        loc, conf = ours(image)
        features = theirs.backbone(theirs.transform(list(image))[0].tensors)
        expected = theirs.head(list(features.values()))
        found = theirs(list(image))
        mine = ours.detect(image).to_list()
    torch.testing.assert_close(loc, expected["bbox_regression"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(conf, expected["cls_logits"], rtol=1e-4, atol=1e-5)
    for own, other in zip(mine, found, strict=True):
        assert len(own["scores"]) == len(other["scores"]) > 50
        torch.testing.assert_close(own["scores"], other["scores"], rtol=1e-4, atol=1e-5)
        distance = (own["boxes"][:, None] * 320 - other["boxes"]).abs().amax(2)
        distance[own["labels"][:, None] != other["labels"]] = 320
        assert distance.amin(1).max() < 1e-2 and distance.amin(0).max() < 1e-2


def test_torchvisions_weights_give_torchvisions_loss(torchvision_model):
    ours = models.ssd300_vgg16(weights=torchvision_model.state_dict()).eval()
    image = torch.rand(1, 3, 300, 300)
    boxes, labels = torch.tensor([[30.0, 40.0, 200.0, 250.0]]), torch.tensor([3])
    torchvision_model.train()
    with torch.no_grad():
        expected = torchvision_model([image[0]], [{"boxes": boxes, "labels": labels}])
        found = ours.loss(image, ops.GroundTruth.from_list([boxes / 300], [labels]))
    torchvision_model.eval()
    torch.testing.assert_close(found.localization, expected["bbox_regression"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.classification, expected["classification"], rtol=1e-4, atol=1e-5)


class WeightEnum:
    """Has the one method of torchvision's weight enum that is used."""

    def __init__(self, state):
        self.state = state

    def get_state_dict(self, progress, check_hash):
        return self.state


def amdegroot_state(num_classes):
    """Names and shapes of amdegroot/ssd.pytorch, from its published configuration; a number per tensor."""
    state = {}

    def conv(name, out, inside, kernel):
        state[f"{name}.weight"] = torch.full((out, inside, kernel, kernel), float(len(state)))
        state[f"{name}.bias"] = torch.full((out,), float(len(state)))

    channels = 3
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
    widths |= dict.fromkeys((17, 19, 21, 24, 26, 28), 512)
    for index, width in widths.items():
        conv(f"vgg.{index}", width, channels, 3)
        channels = width
    conv("vgg.31", 1024, 512, 3)
    conv("vgg.33", 1024, 1024, 1)
    state["L2Norm.weight"] = torch.full((512,), 20.5)
    channels = 1024
    for index, width in enumerate((256, 512, 128, 256, 128, 256, 128, 256)):
        conv(f"extras.{index}", width, channels, 3 if index % 2 else 1)
        channels = width
    for index, (width, boxes) in enumerate(
        zip((512, 1024, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4), strict=True)
    ):
        conv(f"loc.{index}", boxes * 4, width, 3)
        conv(f"conf.{index}", boxes * num_classes, width, 3)
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_amdegroots_weights_land_where_they_belong(prefix):
    state = amdegroot_state(3)
    wrapped = WeightEnum({prefix + key: value for key, value in state.items()})
    model = models.ssd300_vgg16(3, weights=wrapped)
    assert torch.equal(model.backbone.vgg[31].weight, state["vgg.31.weight"])
    assert torch.equal(model.backbone.norm.weight, state["L2Norm.weight"])
    assert torch.equal(model.backbone.extras.conv8_1.weight, state["extras.0.weight"])
    assert torch.equal(model.backbone.extras.conv11_2.bias, state["extras.7.bias"])
    assert torch.equal(model.heads[5].conf_conv.bias, state["conf.5.bias"])
    assert torch.equal(model.heads[1].loc_conv.weight, state["loc.1.weight"])
    assert model.detect_config.top_k == 200
    total = sum(value.numel() for value in state.values())
    assert sum(value.numel() for value in model.state_dict().values()) == total


def test_amdegroots_weights_of_coco_come_with_its_priors_of_coco():
    state = amdegroot_state(81)
    model = models.ssd300_vgg16(weights=state)
    assert torch.equal(model.priors, models.load(state).priors) and model.spec.sizes[0] == (21,)


def test_own_weights_come_back(tmp_path):
    model = models.ssd300_vgg16(2)
    torch.save({"model": model.state_dict()}, tmp_path / "own.pt")
    again = models.ssd300_vgg16(weights=tmp_path / "own.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_weights_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    state = amdegroot_state(3)
    cases = [
        (tmp_path / "none.pt", ValueError, "weights file .*none.pt does not exist"),
        (tmp_path / "text.pt", ValueError, "text.pt must be a state dict that torch.save wrote, got a text"),
        (tmp_path / "list.pt", ValueError, "weights file .*list.pt must hold a state dict, got list"),
        (17, TypeError, "weights must be a file, a weight enum or a state dict, got int"),
        ({1: torch.zeros(1)}, ValueError, "must be a state dict, whose keys are names, got the key 1"),
        ({"layer1.0.weight": torch.zeros(1)}, ValueError, "got names like layer1.0.weight"),
        ({"vgg.0.weight": torch.zeros(1)}, ValueError, "weights must hold the heads, got none"),
        ({**state, "vgg.0.weight": torch.zeros(1)}, ValueError, "weights must fit SSD300, got others"),
    ]
    for weights, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            models.ssd300_vgg16(weights=weights)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"num_classes must be that of the weights \(3\), got 21"):
        models.ssd300_vgg16(21, weights=state)


def test_ssd512_has_the_papers_maps():
    model = models.ssd512_vgg16(3)
    assert model.priors.shape == (24564, 4)
    with torch.no_grad():
        features = model.backbone.extras(torch.zeros(1, 1024, 32, 32))
    assert [f.shape[-1] for f in features] == [16, 8, 4, 2, 1]
    boxes = [head.num_boxes for head in model.heads]
    assert sum(n * m * m for n, m in zip(boxes, (64, 32, 16, 8, 4, 2, 1), strict=True)) == 24564


def test_ssd300_priors_are_the_papers_for_voc():
    """Rows worked out by hand: conv4_3 has s = 30, s' = sqrt(30 * 60); the last map has one cell."""
    priors = models.ssd300_vgg16(2).priors
    size, between = 30 / 300, (30 * 60) ** 0.5 / 300
    centre = 0.5 * 8 / 300
    root = 2**0.5
    expected = [(size, size), (between, between), (size * root, size / root), (size / root, size * root)]
    for row, (w, h) in zip(priors[:4], expected, strict=True):
        torch.testing.assert_close(row, torch.tensor([centre, centre, w, h]))
    torch.testing.assert_close(priors[-4], torch.tensor([0.5, 0.5, 264 / 300, 264 / 300]))
    assert priors.min() >= 0 and priors.max() <= 1


@pytest.mark.parametrize("size", [(240, 320), (96, 64), (65, 131), (1, 1)])
def test_small_takes_any_size(size):
    model = models.ssd_small(4, size).eval()
    loc, conf = model(torch.zeros(2, 3, *size, dtype=torch.uint8))
    count = 4 * sum(-(-size[0] // s) * -(-size[1] // s) for s in (8, 16, 32, 64))
    assert loc.shape == (2, count, 4) and conf.shape == (2, count, 4) and model.priors.shape == (count, 4)


def test_small_priors_are_square_in_pixels_and_cover_the_cells():
    model = models.ssd_small(2, (240, 320))
    pixels = model.priors * torch.tensor([320, 240, 320, 240])
    torch.testing.assert_close(pixels[0], torch.tensor([4.0, 4.0, 21.6, 21.6]))
    torch.testing.assert_close(pixels[4, :2], torch.tensor([12.0, 4.0]))  # the next cell is to the right
    torch.testing.assert_close(pixels[2, 2] / pixels[2, 3], torch.tensor(2.0))
    torch.testing.assert_close(pixels[2, 2] * pixels[2, 3], pixels[0, 2] * pixels[0, 3])


def test_small_has_about_a_million_parameters():
    count = sum(p.numel() for p in models.ssd_small(4).parameters())
    assert 0.8e6 < count < 1.2e6


def test_uint8_and_float_images_give_the_same():
    model = models.ssd_small(3, (64, 64)).eval()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    for one, other in zip(model(image), model(image.float() / 255), strict=True):
        torch.testing.assert_close(one, other)


def test_priors_move_with_the_model_but_are_not_in_the_state_dict():
    model = models.ssd_small(3, (64, 64))
    assert not any(key in model.state_dict() for key in ("priors", "mean", "std"))
    assert model.double().priors.dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: models.ssd_small(1), ValueError, "num_classes must count the background .* got 1"),
        (lambda: models.ssd_small(True), ValueError, "num_classes must count .* got True"),
        (lambda: models.ssd_small(3, (0, 5)), ValueError, r"image_size must be .* got \(0, 5\)"),
        (lambda: models.ssd_small(3, sizes=(0.1, 0.2)), ValueError, "sizes must be five ascending"),
        (lambda: models.ssd_small(3, sizes=(0.1, 0.2, 0.2, 0.4, 0.5)), ValueError, "sizes must be five"),
        (
            lambda: models.ssd_small(3, (64, 64))(torch.zeros(1, 3, 64, 65)),
            ValueError,
            r"images must have shape \[B, 3, 64, 64\], got \[1, 3, 64, 65\]",
        ),
        (
            lambda: models.ssd_small(3, (64, 64))(torch.zeros(1, 3, 64, 64, dtype=torch.int32)),
            TypeError,
            "images must be uint8 or floating point, got torch.int32",
        ),
        (
            lambda: models.ssd_small(3, (64, 64)).half()(torch.zeros(1, 3, 64, 64)),
            TypeError,
            "images must be uint8 or torch.float16, as the model is, got torch.float32",
        ),
        (lambda: models.ssd_small(3, (64, 64))([1]), TypeError, "images must be a tensor, got list"),
    ],
)
def test_bad_input_gets_one_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_spec_must_fit_the_maps():
    model = models.ssd_small(3, (64, 64))
    with pytest.raises(ValueError, match=r"one level per feature map \(4\), got 6"):
        models.SSD(
            model.backbone, PriorSpec(), 3, mean=(0,) * 3, std=(1,) * 3,
            loss_config=model.loss_config, detect_config=model.detect_config,
        )  # fmt: skip


def test_initial_scores_are_even():
    """Small head weights: no class of no prior starts out sure of itself."""
    torch.manual_seed(0)
    model = models.ssd_small(4, (64, 64)).eval()
    _, conf = model(torch.rand(1, 3, 64, 64))
    probabilities = conf.softmax(-1)
    spread = [abs(p - 0.25) for p in itertools.chain(*probabilities[0].tolist())]
    assert max(spread) < 0.2


@pytest.fixture
def batch(device):
    """Four images, the second without objects, and a model with predictions that differ per prior."""
    model = models.ssd_small(4, (64, 96)).to(device)
    for head in model.heads:
        nn.init.normal_(head.conf_conv.weight, std=0.2)
    boxes = [torch.tensor([[0.1, 0.2, 0.4, 0.6], [0.5, 0.1, 0.9, 0.9]]), torch.zeros(0, 4)]
    boxes += [torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.3, 0.3, 0.35, 0.36]])]
    labels = [torch.tensor(row, dtype=torch.int64) for row in ([1, 3], [], [2], [1])]
    images = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8, device=device)
    return model, images, ops.GroundTruth.from_list(boxes, labels, device=device)


def test_loss_is_the_reference_on_the_raw_predictions(batch):
    model, images, gt = batch
    losses = model.loss(images, gt)
    loc, conf = model(images)
    rows = (gt.boxes, gt.labels, gt.offsets)
    expected = reference.multibox.multibox_loss(loc, conf, *rows, model.priors, **asdict(model.loss_config))
    for one, other in zip(losses, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert losses.num_positives >= 4  # every object is owed a prior


def test_loss_reaches_every_parameter(batch):
    model, images, gt = batch
    losses = model.loss(images, gt)
    (losses.localization + losses.classification).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if name.startswith("backbone"):
            assert parameter.grad.abs().sum() > 0, name


def test_detect_follows_its_config(batch):
    model, images, _ = batch
    model.eval()
    found = model.detect(images)
    assert found.boxes.shape == (4, 200, 4) and not found.boxes.requires_grad
    assert found.counts.min() > 0
    assert found.boxes.min() >= 0 and found.boxes.max() <= 1  # clipped to the image
    few = model.detect(images, DetectConfig(detections_per_image=3, clip="before"))
    assert few.boxes.shape == (4, 3, 4)
    torch.testing.assert_close(few.scores, found.scores[:, :3])
    none = model.detect(images, replace(model.detect_config, score_threshold=1.0))
    assert none.counts.tolist() == [0, 0, 0, 0]


def test_a_prior_without_offset_is_detected_where_it_lies(device):
    """By hand: offsets 0 decode to the prior itself; one class of one prior stands out."""
    model = models.ssd_small(3, (64, 64)).to(device).eval()
    for head in model.heads:
        for conv in (head.loc_conv, head.conf_conv):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
            if conv is head.conf_conv:
                conv.bias.data[0::3] = 9.0  # background
    model.heads[3].conf_conv.bias.data[:3] = torch.tensor([0.0, 0.0, 9.0])  # first prior of the last cell
    (found,) = model.detect(torch.zeros(1, 3, 64, 64, device=device)).to_list()
    assert found["labels"].tolist() == [2]
    cx, cy, w, h = model.priors[-4].tolist()
    expected = torch.tensor([[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]]).clamp(0, 1)
    torch.testing.assert_close(found["boxes"].cpu(), expected)


def test_one_step_of_descent_lowers_the_loss(batch):
    model, images, gt = batch
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    values = []
    for _ in range(3):
        losses = model.loss(images, gt)
        total = losses.localization + losses.classification
        values.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert values[2] < values[0]
