"""Packages of AOTInductor run in a process that has torch and the extension, and nothing else of ours."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import onnx_cases as cases
import pytest
import torch
from conftest import random_priors

from ssd_cuda import DetectConfig, _extension, export, nn
from ssd_cuda.engine.outputs import OutputError

PROGRAM = """
import sys, torch
extension, package, inputs, out = sys.argv[1:]
torch.ops.load_library(extension)
compiled = torch._inductor.aoti_load_package(package)
right, wrong = torch.load(inputs)
found = [compiled(*given) for given in right]
assert all(result is not None for results in found for result in results)  # torch 2.11: an op has failed
for given in wrong:
    try:
        assert all(result is None for result in compiled(*given)), "taken"
    except RuntimeError as error:
        print(error, file=sys.stderr)
assert not any(name.startswith("ssd_cuda") for name in sys.modules)
torch.save((found, compiled.get_metadata()["ssd_cuda"]), out)
"""


PLAIN = """
import sys, torch
compiled = torch._inductor.aoti_load_package(sys.argv[1])
print(compiled(torch.rand(2, 5, device=sys.argv[2])))
"""


class Distances(torch.nn.Module):
    """One call of torch's own, as ours is one: no kernel of Triton's, which needs more of the machine."""

    def forward(self, x):
        return (torch.ops.aten._cdist_forward(x, x, 2.0, 2),)


def run(program, folder, *arguments):
    command = [sys.executable, "-X", "faulthandler", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def torch_dies_alone(device, folder) -> bool:
    """Whether a package without anything of ours kills its process: seen of packages that an H200's machine
    had compiled itself (torch 2.11, g++ 13); one compiled elsewhere, with g++ 12, ran there."""
    program = torch.export.export(Distances(), (torch.rand(2, 5, device=device),))
    made = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "plain.pt2"))
    return run(PLAIN, folder, made, device).returncode < 0


def run_elsewhere(path, inputs, folder, wrong=()):
    """What the package gives for each of ``inputs`` in a process of its own, and its metadata; it refuses
    each of ``wrong``, by what the second of its pair says."""
    torch.save((inputs, [given for given, _ in wrong]), folder / "inputs.pt")
    arguments = [_extension._C.__file__, path, folder / "inputs.pt", folder / "out.pt"]
    done = run(PROGRAM, folder, *arguments)
    device = inputs[0][0].device
    if done.returncode < 0 and device.type == "cuda" and torch_dies_alone(device, folder):
        pytest.skip("a package of torch's own ops dies here as well")
    assert done.returncode == 0, done.stderr
    assert all(message in done.stderr for _, message in wrong), done.stderr
    found, facts = torch.load(folder / "out.pt")
    return found, json.loads(facts)


def wants_executable_stack(library: bytes) -> bool:
    """Whether an ELF file asks for one: glibc 2.41 and later do not load it then."""
    start, size, count = (
        int.from_bytes(library[at:end], "little") for at, end in ((32, 40), (54, 56), (56, 58))
    )
    headers = [library[start + size * i : start + size * (i + 1)] for i in range(count)]
    (stack,) = (h for h in headers if int.from_bytes(h[:4], "little") == 0x6474E551)  # PT_GNU_STACK
    return int.from_bytes(stack[4:8], "little") & 1 != 0


@pytest.mark.slow
def test_a_process_without_this_package_gives_equal_bits(tmp_path, device):
    """With a rule that ONNX refuses."""
    module = nn.PostProcess(DetectConfig(soft_nms="gaussian", iou_eps=1e-5, top_k=None)).eval()
    priors = random_priors(60).to(device)
    path = export.to_pt2(module, tmp_path / "post.pt2", priors=priors, num_classes=5)
    inputs = [
        (torch.randn(b, 60, 4, device=device), torch.randn(b, 60, 5, device=device) * 3) for b in (2, 1, 7)
    ]
    inputs.append(tuple(x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs[0]))
    loc, conf = inputs[0]
    wrong = [
        ((loc.double(), conf), "loc must be float32, got float64"),
        ((loc, conf[:, :59]), "conf must have shape [*, 60, 5], got [2, 59, 5]"),
        ((loc[:0], conf[:0]), "loc must be a batch of 1 to 1024, got 0"),
    ]
    found, facts = run_elsewhere(path, inputs, tmp_path, wrong)
    for given, results in zip(inputs, found, strict=True):
        expected = module(*given, priors)
        assert expected.counts.min() > 0
        assert all(torch.equal(a, b) for a, b in zip(results, expected[:5], strict=True))
    assert facts["detect_config"]["soft_nms"] == "gaussian"
    with zipfile.ZipFile(path) as package:
        libraries = [package.read(name) for name in package.namelist() if name.endswith(".so")]
    assert libraries and not any(map(wants_executable_stack, libraries))


@pytest.mark.slow
def test_a_whole_model_finds_the_same(tmp_path, device):
    """Network and detection, for 1, 2 and 8 images: the same (label, prior), scores and boxes to 1e-5, since
    convolutions are compiled anew. Images of nothing among them."""
    model, config = cases.model().to(device), DetectConfig(score_threshold=0.6)
    path = export.to_pt2(model, tmp_path / "model.pt2", input="uint8", config=config, classes=cases.CLASSES)
    batches = [(cases.images(batch, seed=batch) * 255).byte().to(device) for batch in (1, 2, 8)]
    batches.append(torch.full((2, 3, 64, 64), 127, dtype=torch.uint8, device=device))
    photographs = batches[1].permute(0, 2, 3, 1).contiguous()  # rows of pixels, as files have them
    batches.append(photographs.permute(0, 3, 1, 2))
    wrong = [
        ((batches[0].float(),), "images must be uint8, got float32"),
        ((batches[0][..., :63],), "images must have shape [*, 3, 64, 64], got [1, 3, 64, 63]"),
        ((batches[0][0],), "images must have shape [*, 3, 64, 64], got [3, 64, 64]"),
    ]
    found, facts = run_elsewhere(path, [(images,) for images in batches], tmp_path, wrong)
    for images, results in zip(batches, found, strict=True):
        expected = model.detect(images, config)
        cases.assert_same_detections([r.cpu() for r in results], [e.cpu() for e in expected[:5]])
    assert found[2][4].min() > 3 and found[3][4].max() == 0
    assert facts["classes"] == list(cases.CLASSES) and facts["form"] == "pt2"


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .pt2, got model.onnx"):
        export.to_pt2(nn.PostProcess().eval(), "model.onnx", priors=torch.ones(3, 4), num_classes=2)
    with pytest.raises(ValueError, match="priors must be the"):
        export.to_pt2(nn.PostProcess().eval(), tmp_path / "x.pt2", num_classes=2)
    with pytest.raises(ValueError, match="num_classes must count"):
        export.to_pt2(nn.PostProcess().eval(), tmp_path / "x.pt2", priors=torch.ones(3, 4), num_classes=0)


def test_an_ending_in_capitals_and_a_folder_are_known_before_minutes_of_work(tmp_path, monkeypatch):
    """The command took model.PT2 for a package, to_pt2 did not; a folder was found when all was compiled."""

    def compiled(program, package_path, **_):
        with open(package_path, "wb") as file:
            file.write(b"package")
        return package_path

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compiled)
    post_process, options = nn.PostProcess(), dict(priors=random_priors(6), num_classes=3)
    assert export.to_pt2(post_process, tmp_path / "model.PT2", **options).read_bytes() == b"package"

    def fails(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(torch.export, "export", fails)
    monkeypatch.setattr(torch.onnx, "export", fails)
    for write, name in ((export.to_pt2, "folder.pt2"), (export.to_onnx, "folder.onnx")):
        (tmp_path / name).mkdir()
        with pytest.raises(OutputError, match=rf"{name} cannot be written: it is a folder$"):
            write(post_process, tmp_path / name, **options)
