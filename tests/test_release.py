"""What a release says about itself in several places is one thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ssd_cuda

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_version_is_one():
    assert re.search(r'^version = "(.+)"$', text("pyproject.toml"), re.M)[1] == ssd_cuda.__version__
    assert re.search(r"^version: (.+)$", text("CITATION.cff"), re.M)[1] == ssd_cuda.__version__
    dated = re.search(r"^## \[(\d.+)\] - \d{4}-\d\d-\d\d$", text("CHANGELOG.md"), re.M)
    assert dated[1] == ssd_cuda.__version__


def test_changes_since_a_release_have_their_place():
    headings = re.findall(r"^## \[(.+?)\]", text("CHANGELOG.md"), re.M)
    assert headings[0] == "Unreleased" and len(headings) == len(set(headings))


def test_forms_are_yaml():
    yaml = pytest.importorskip("yaml")
    forms = [*(ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"), ROOT / "CITATION.cff"]
    assert len(forms) > 1 and all(isinstance(yaml.safe_load(path.read_text()), dict) for path in forms)
    for path in forms:
        content = yaml.safe_load(path.read_text())
        assert path.parent == ROOT or path.stem == "config" or {"name", "body"} <= content.keys()
