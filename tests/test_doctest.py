"""Every public function and class shows how it is called, and the example gives what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import ssd_cuda
from ssd_cuda import compat, data, export, models, nn, ops

CODEBASES = [m.name for m in pkgutil.iter_modules(compat.__path__) if not m.name.startswith("_")]
CODEBASES.remove("torchvision")  # what it gives, compat names
MODULES = (
    "ssd_cuda",
    *(f"ssd_cuda.{name}" for name in ("ops", "nn", "models", "data", "compat", "export")),
    *(f"ssd_cuda.compat.{name}" for name in CODEBASES),
    *(f"ssd_cuda.engine.{name}" for name in ("recipe", "train", "evaluate", "metrics", "checkpoint", "draw")),
    *(
        f"ssd_cuda.engine.{name}"
        for name in ("finetune", "optimizer", "processes", "progress", "step", "validation", "curves")
    ),
    *(f"ssd_cuda.engine.{name}" for name in ("selection", "video")),
    "ssd_cuda.recipes",
)
# What the examples may use without saying so; docs/api.md names the same.
NAMES = {"torch": torch, "ssd_cuda": ssd_cuda, "ops": ops, "nn": nn, "models": models, "data": data}
NAMES["export"] = export
# Read a folder, or are what others are made of: the pages of docs/ show them at work.
NO_EXAMPLE = {"CachedDataset", "CocoDataset", "DataError", "DetectionDataset", "TransformedDataset"}
NO_EXAMPLE |= {"VocDataset", "read_image", "Detections", "FusedBoxes", "MultiBoxLosses", "TopK"}
NO_EXAMPLE |= {"CheckpointError", "load_checkpoint", "load_model", "save_checkpoint", "save_model", "train"}
NO_EXAMPLE |= {"TrainStep", "read_pretrained", "ONNXExportError", "Imported"}
NO_EXAMPLE |= {"VideoReader", "VideoWriter", "save_crops"}
NO_EXAMPLE |= {"save_grid", "save_loss_curve", "save_picture"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public() -> dict[str, object]:
    """Name of the definition to the object, for all that a user imports and that can be called."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        own = [name for name, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", [name for name in own if name[0] != "_"]):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_of_a_docstring(name):
    value = PUBLIC[name]
    names = {**NAMES, **vars(inspect.getmodule(value)), **NAMES}
    ran = 0
    for test in doctest.DocTestFinder(recurse=True).find(value, value.__name__, globs=names):
        for needed in ("torchvision", "onnxscript"):
            if needed in test.docstring:
                pytest.importorskip(needed)
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        report: list[str] = []
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)
        ran += runner.tries
    assert ran or value.__name__ in NO_EXAMPLE, f"the docstring of {name} must show an example"


def test_no_example_is_excused_that_there_is():
    names = {value.__name__: value for value in PUBLIC.values()}
    assert set(names) >= NO_EXAMPLE
    assert not [name for name in NO_EXAMPLE if ">>>" in (names[name].__doc__ or "")]
