"""The types of the public surface, as a user's ``mypy --strict`` sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("typed_user.py")
ROOT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False
    )


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "ssd_cuda" / "py.typed").exists()
    assert 'ssd_cuda = ["py.typed"]' in (ROOT / "pyproject.toml").read_text(), (
        "an installed package has it too"
    )


def test_a_users_script_runs():
    done = run(str(SCRIPT))
    assert done.returncode == 0, done.stderr


def test_mypy_strict_takes_the_script_and_refuses_a_wrong_one(tmp_path):
    """Silent about the package itself, as mypy is about what is installed. One run: it reads all of torch."""
    pytest.importorskip("mypy", reason="make lint installs it")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import ssd_cuda\nssd_cuda.ops.nms('boxes', 1, 0.5)\nssd_cuda.ops.nothing\n")
    options = ["--strict", "--follow-imports=silent", "--config-file=", "--cache-dir"]
    done = run("-m", "mypy", *options, str(ROOT / ".mypy_cache" / "user"), str(SCRIPT), str(wrong))
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) >= 3, done.stdout + done.stderr
    assert [line for line in errors if "wrong.py:" not in line] == []
