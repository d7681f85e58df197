"""``--json -``: standard output holds JSON alone, of every command that writes some."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from layouts import photo, write_checkpoint, write_coco

from ssd_cuda import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lines(tmp_path):
    """The commands, and what each says beside its results."""
    root, checkpoint = write_coco(tmp_path), write_checkpoint(tmp_path / "x.pt", ("bicycle", "brush"))
    photo(tmp_path / "a.png")
    run = ["--device", "cpu", "--workers", "0"]
    return {
        "detect": ([tmp_path / "a.png", "-c", checkpoint, "-o", tmp_path / "out", *run], "wrote 1 picture"),
        "eval": ([checkpoint, "--data", root, *run], "mAP 50-95"),
        "data": ([root, "--size", 64, 64, "-o", tmp_path / "data.png"], "drawn in "),
    }


@pytest.mark.parametrize("place", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("command", ["detect", "eval", "data"])
def test_standard_output_is_json_alone(capsys, lines, tmp_path, monkeypatch, command, place):
    monkeypatch.chdir(tmp_path)
    given, said = lines[command]
    assert cli.main([command, *map(str, given), "--json", place]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) and said in err and not Path("-").exists()
    assert cli.main([command, *map(str, given), "--json", "x.json"]) == 0
    again, err = capsys.readouterr()  # where it is a file, what is said is as ever
    assert said in again and said not in err and json.loads(Path("x.json").read_text())


def test_coco_goes_there_too_but_not_both(capsys, lines):
    given = [*map(str, lines["detect"][0]), "--threshold", "0"]
    assert cli.main(["detect", *given, "--coco", "-"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["image_id"] == "a"
    assert cli.main(["detect", *given, "--coco", "-", "--json", "/dev/stdout"]) == 1
    out, err = capsys.readouterr()
    assert not out and "--coco must be a place of its own, got -, which is that of --json" in err


def test_standard_output_in_a_file_keeps_what_is_there(lines, tmp_path):
    """``>>`` appends; to open /dev/stdout would begin at the first byte of the file."""
    (tmp_path / "log").write_text("before\n")
    command = [sys.executable, "-m", "ssd_cuda", "detect", *map(str, lines["detect"][0])]
    with open(tmp_path / "log", "a") as log:
        subprocess.run([*command, "--json", "/dev/stdout"], cwd=ROOT, stdout=log, check=True)
    first, _, rest = (tmp_path / "log").read_text().partition("\n")
    assert first == "before" and json.loads(rest)
