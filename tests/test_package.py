"""Packages of AOTInductor run in a process that has torch and the extension, and nothing else of ours."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import random_priors

from ssd_cuda import DetectConfig, _extension, export, nn

PROGRAM = """
import sys, torch
extension, package, inputs, out = sys.argv[1:]
torch.ops.load_library(extension)
compiled = torch._inductor.aoti_load_package(package)
found = [compiled(*given) for given in torch.load(inputs)]
assert not any(name.startswith("ssd_cuda") for name in sys.modules)
torch.save((found, compiled.get_metadata()["ssd_cuda"]), out)
"""


@pytest.mark.slow
def test_a_process_without_this_package_gives_equal_bits(tmp_path, device):
    """With a rule that ONNX refuses."""
    module = nn.PostProcess(DetectConfig(soft_nms="gaussian", iou_eps=1e-5, top_k=None)).eval()
    priors = random_priors(60).to(device)
    path = export.to_pt2(module, tmp_path / "post.pt2", priors=priors, num_classes=5)
    inputs = [
        (torch.randn(b, 60, 4, device=device), torch.randn(b, 60, 5, device=device) * 3) for b in (2, 1, 7)
    ]
    torch.save(inputs, tmp_path / "inputs.pt")
    arguments = [_extension._C.__file__, path, tmp_path / "inputs.pt", tmp_path / "out.pt"]
    subprocess.run([sys.executable, "-c", PROGRAM, *map(str, arguments)], check=True, cwd=tmp_path)
    found, facts = torch.load(tmp_path / "out.pt")
    for given, results in zip(inputs, found, strict=True):
        expected = module(*given, priors)
        assert expected.counts.min() > 0
        assert all(torch.equal(a, b) for a, b in zip(results, expected[:5], strict=True))
    assert json.loads(facts)["detect_config"]["soft_nms"] == "gaussian"


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .pt2, got model.onnx"):
        export.to_pt2(nn.PostProcess().eval(), "model.onnx", priors=torch.ones(3, 4), num_classes=2)
    with pytest.raises(ValueError, match="priors must be the"):
        export.to_pt2(nn.PostProcess().eval(), tmp_path / "x.pt2", num_classes=2)
    with pytest.raises(ValueError, match="num_classes must count"):
        export.to_pt2(nn.PostProcess().eval(), tmp_path / "x.pt2", priors=torch.ones(3, 4), num_classes=0)
