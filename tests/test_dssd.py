"""SSD and DSSD on ResNet: shapes and numbers of the authors' scripts, the modules by hand, training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ssd_cuda import PriorSpec, models, ops, reference
from ssd_cuda.engine.finetune import Pretrained, read_pretrained
from ssd_cuda.export.forms import Detecting
from ssd_cuda.export.network import network_of
from ssd_cuda.models.dssd import DSSDBackbone, ResNetBackbone
from ssd_cuda.ops import GroundTruth

MAPS = {321: (40, 20, 10, 5, 3, 1), 513: (64, 32, 16, 8, 4, 2, 1)}
# First centre of every level in pixels, as the authors' prototxts have them by offset and step.
CENTRES = {321: (2.5, 2.5, 10.5, 26.5, 90.5, 160.5), 513: (2.5, 2.5, 10.5, 26.5, 58.5, 122.5, 256.5)}
SIZES = {321: (32, 64, 121, 179, 237, 295, 353), 513: (20, 51, 138, 225, 312, 400, 487, 574)}


@pytest.mark.parametrize("image, count", [(321, 17_080), (513, 43_688)])
def test_priors_by_hand(image, count):
    spec = PriorSpec.preset(f"dssd{image}")
    priors = ops.generate_priors(spec) * image
    assert spec.num_priors == len(priors) == count
    assert spec.boxes_per_cell() == [8] * len(MAPS[image])
    row = 0
    for cells, centre, size, larger in zip(
        MAPS[image], CENTRES[image], SIZES[image], SIZES[image][1:], strict=False
    ):
        first = priors[row : row + 8]
        torch.testing.assert_close(first[:, :2], torch.full((8, 2), float(centre)))
        shapes = [(size, size), ((size * larger) ** 0.5,) * 2]
        shapes += [(size * r**0.5, size / r**0.5) for ratio in (1.6, 2, 3) for r in (ratio, 1 / ratio)]
        torch.testing.assert_close(first[:, 2:], torch.tensor(shapes))
        row += 8 * cells * cells
    exact = reference.priors.generate_priors(spec)
    torch.testing.assert_close(priors.double() / image, exact, rtol=1e-6, atol=1e-7)


def test_an_offset_a_level_is_that_of_its_level(device):
    """Runs of equal offsets, other options beside them; and with one offset for all as before."""
    small = dict(image_size=(60, 90), feature_maps=((3, 4), 2, 1), steps=(20, 30, (60, 90)))
    small |= dict(sizes=(10, 20, 40), larger_sizes=(20, 40, 60), ratios=((2,), (2, 3), ()))
    for offset in ((0.25, 0.25, 0.5), (0.1, -0.2, 1.5), [0.5, 0.5, 0.5], 0.5):
        spec = PriorSpec(**small, offset=offset)
        exact = reference.priors.generate_priors(spec).to(device)
        torch.testing.assert_close(ops.generate_priors(spec, device).double(), exact, rtol=1e-6, atol=1e-7)
    assert torch.equal(
        ops.generate_priors(PriorSpec(**small, offset=(0.5,) * 3)), ops.generate_priors(PriorSpec(**small))
    )
    with pytest.raises(ValueError, match=r"offset must be one number or one per feature map \(3\), got 2"):
        PriorSpec(**small, offset=(0.5, 0.5))
    with pytest.raises(TypeError, match="offset must be a number, got str"):
        PriorSpec(**small, offset=(0.5, "half", 0.5))


@pytest.mark.parametrize("image", [321, 513])
@pytest.mark.parametrize("backbone", [ResNetBackbone, DSSDBackbone])
def test_maps(image, backbone):
    """On meta tensors: sizes and channels as published, which priors and heads count on."""
    with torch.device("meta"):
        net = backbone(image).eval()
        maps = net(torch.zeros(1, 3, image, image))
    assert [tuple(m.shape[2:]) for m in maps] == [(side, side) for side in MAPS[image]]
    assert [m.shape[1] for m in maps] == net.out_channels
    coarse = len(maps) - 2
    ssd = [512, 2048, *[1024] * coarse]
    assert net.out_channels == (ssd if backbone is ResNetBackbone else [512] * (coarse + 1) + [1024])


def test_the_backbone_is_torchvisions_resnet_by_its_names():
    """Same names and shapes, so its weights load as they are; the same numbers where no stride differs."""
    resnet101 = pytest.importorskip("torchvision.models").resnet101
    with torch.device("meta"):
        theirs, ours = resnet101(), models.ResNet(101)
    shapes = {name: value.shape for name, value in theirs.state_dict().items() if "fc." not in name}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    block = pytest.importorskip("torchvision.models.resnet").Bottleneck
    torch.manual_seed(0)
    down = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16))
    reference_block = block(8, 4, dilation=2, downsample=down).eval()
    own = models.resnet.Bottleneck(8, 4, dilation=2, project=True).eval()
    own.load_state_dict(reference_block.state_dict())
    x = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(own(x), reference_block(x))


def _plain(module: nn.Module) -> nn.Module:
    """Convolutions of ones and norms that change nothing: outputs that can be counted by hand."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.ones_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
    return module.eval()


def test_the_deconvolution_module_multiplies():
    """One channel of ones: 9 * 9 of the lateral side at the centre, times 9 of the deconvolution's."""
    module = _plain(models.DeconvolutionModule(1, 1, 2, 2, width=1))
    fine, coarse = torch.ones(1, 1, 6, 6), torch.full((1, 1, 3, 3), 2.0)
    assert module(fine, coarse)[0, 0, 3, 3] == 81 * 18
    coarse.neg_()
    assert module(fine, coarse).max() == 0  # the ReLU is behind the product


def test_the_prediction_module_adds():
    """1x1, 3x3, 1x1 of ones on one side, a projection on the other."""
    module = _plain(models.PredictionModule(1, 1))
    out = module(torch.ones(1, 1, 3, 3))
    assert out.shape == (1, 4, 3, 3) and (out[0, :, 1, 1] == 9 + 1).all()


@pytest.mark.parametrize("name", ["ssd321", "dssd321"])
def test_a_step_and_a_detection(name):
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=3, depth=50, width=4)
    images = torch.rand(2, 3, 321, 321)
    boxes = [torch.tensor([[0.1, 0.1, 0.5, 0.6]]), torch.zeros(0, 4)]
    gt = GroundTruth.from_list(boxes, [torch.tensor([2]), torch.zeros(0, dtype=torch.int64)])
    losses = model.loss(images, gt)
    (losses.localization + losses.classification).backward()
    assert losses.num_positives > 0 and all(p.grad is not None for p in model.parameters())
    found = model.detect(images)  # by the batch's own means: one step's running ones say nothing yet
    assert found.boxes.shape == (2, 200, 4) and found.boxes.isfinite().all()


def test_the_heads_of_513_have_a_convolution_of_their_own():
    with torch.device("meta"):
        small, large = models.dssd321(), models.dssd513()
    assert [head.loc_conv.kernel_size for head in large.heads] == [(5, 5)] * 2 + [(3, 3)] * 5
    assert [head.conf_conv.in_channels for head in large.heads] == [512] * 7
    assert [head.conf_conv.in_channels for head in small.heads] == [1024] * 6
    assert isinstance(small.heads[0].loc_inter, nn.Identity)


def test_what_is_frozen_in_the_second_part_of_training():
    """SSD with its norms; the deconvolutions, prediction modules and heads are new and train."""
    model = models.dssd321(num_classes=3, depth=50, width=4)
    model.freeze(len(model.stages())).train()
    trains = {
        name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad and "backbone" in name
    }
    assert trains == {"deconvolutions"}
    assert not model.backbone.extras[0].training and not model.backbone.resnet.layer4.training
    assert all(p.requires_grad for p in model.heads.parameters())


def test_weights_of_a_classification_network_and_of_the_part_before(tmp_path):
    """ResNet's go into SSD; SSD's into DSSD, whose heads see other maps and are new."""
    ssd, dssd = (make(num_classes=3, depth=50, width=4) for make in (models.ssd321, models.dssd321))
    state = {name: torch.rand_like(value.float()) for name, value in ssd.backbone.resnet.state_dict().items()}
    torch.save(
        {**state, "fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}, tmp_path / "net.pth"
    )
    told = read_pretrained(tmp_path / "net.pth").load_into(ssd)
    assert "the heads" in told and torch.equal(ssd.backbone.resnet.conv1.weight, state["conv1.weight"])
    told = Pretrained("ssd", ssd.state_dict()).load_into(dssd)
    assert "all heads (they see other maps)" in told and "backbone.deconvolutions.0" in told
    assert torch.equal(
        dssd.backbone.extras[0].branch[0][0].weight, ssd.backbone.extras[0].branch[0][0].weight
    )


class Ours(TorchDispatchMode):
    """The names of this package's ops that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ssd_cuda":
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_loss_and_detection_are_the_ops_of_every_other_model():
    """The loss with its backward, the detection, and what is exported."""
    called = []
    for model in (models.ssd_small(3, (64, 128)), models.dssd321(num_classes=3, depth=50, width=2)):
        images = torch.rand(2, 3, *model.image_size)
        gt = GroundTruth.from_list([torch.tensor([[0.1, 0.1, 0.5, 0.6]])] * 2, [torch.tensor([2])] * 2)
        with Ours() as ours:
            losses = model.loss(images, gt)
            (losses.localization + losses.classification).backward()
            with torch.no_grad():
                model.eval().detect(images)
        called.append(ours.names)
        with torch.no_grad():
            program = torch.export.export(Detecting(network_of(model)).eval(), (images,))
        assert "ssd_cuda.detect" in str(program.graph)
    assert called[0] == called[1]
    assert {name.split(".")[1] for name in called[0]} >= {"multibox_match_loss", "detect"}


def test_priors_with_several_offsets_are_exported():
    """Each run of levels is filled as a tensor of its own, never as a view of one."""

    class Priors(nn.Module):
        def forward(self, x):
            return x + ops.generate_priors(PriorSpec.preset("dssd321"))

    program = torch.export.export(Priors(), (torch.zeros(4),)).run_decompositions()
    expected = ops.generate_priors(PriorSpec.preset("dssd321"))
    assert torch.equal(program.module()(torch.zeros(4)), expected)
    assert "slice" not in str(program.graph)


def test_an_unknown_depth_is_one_sentence():
    with pytest.raises(ValueError, match="depth must be 50 or 101, got 18"):
        models.ssd321(depth=18)
