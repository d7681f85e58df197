"""What ``ssd-cuda detect`` is told beside its images: every option holds or is refused, none is ignored."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("PIL")
pytest.importorskip("cv2", reason="needs OpenCV")

from layouts import photo
from test_video import checkpoint, run, video  # noqa: F401 - fixtures

from ssd_cuda import data


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        photo(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{photos} --every 3", "--every must be 1 for images, each of which is detected on, got 3"),
        ("{photos} --json {tmp}/j --coco {tmp}/j", "--coco must be a place of its own, got {tmp}/j"),
        ("{video} --json {tmp}/j --coco {tmp}/j", "{tmp}/j, which is that of --json"),
        ("{photos} --json {tmp}/link --coco {tmp}/file", "{tmp}/file, which is that of --json"),
        ("{photos} --json {tmp}/hard --coco {tmp}/file", "{tmp}/file, which is that of --json"),
        ("{photos} -o {tmp}/o --json {tmp}/x/../o/a.png", "--json must be a place of its own, got"),
        ("{photo} -o {tmp}/x.png --json {tmp}/x.png", "--json must be a place of its own, got"),
        ("{video} -o {tmp}/x.avi --coco {tmp}/x.avi", "--coco must be a place of its own, got"),
        ("{video} -o {tmp}/o --coco {tmp}/o/square.mp4", "--coco must be a place of its own, got"),
        ("{video} -o {tmp}/x.avi --crops {tmp}/x.avi", "{tmp}/x.avi, which is that of --out"),
        ("{photos} -o {tmp}/o --crops {tmp}/o", "--crops must be a place of its own, got {tmp}/o"),
        ("{photos} --json {tmp}/j --crops {tmp}/j", "{tmp}/j, which is that of --json"),
        ("{photos} --crops {photos}", "--crops must leave its inputs as they are, got {photos}"),
        ("{photos} --classes red --class-threshold green=.5", "of classes that are kept, red, got one of"),
    ],
)
def test_what_would_be_ignored_or_lost_is_refused(
    capsys,
    checkpoint,  # noqa: F811
    photos,
    video,  # noqa: F811
    tmp_path,
    line,
    sentence,
):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "hard").hardlink_to(tmp_path / "file")
    names = dict(photos=photos, photo=photos / "a.png", video=video, tmp=tmp_path)
    given = [part.format(**names).replace("green=", "green blue/2=") for part in line.split()]
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    where = [] if "-o" in given else ["-o", tmp_path / "out"]
    status, _, err = run(capsys, *given, *where, "-c", checkpoint)
    assert status == 1 and sentence.format(**names) in err and err.count("\n") == 1, err
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("out", ["x.mp4", "one.xyz", "x.GIF2", "o.mkv", "o.pdf"])
def test_a_picture_is_no_file_of_another_kind(capsys, checkpoint, photos, tmp_path, out):  # noqa: F811
    for images in [photos / "a.png"], [photos]:
        status, _, err = run(capsys, *images, "-c", checkpoint, "-o", tmp_path / out)
        assert status == 1 and err.count("\n") == 1 and not (tmp_path / out).exists()
        assert "--out must be a folder, or for one image a file that ends in .jpg, .jpeg, .png, " in err


@pytest.mark.parametrize("out", ["out.gif", "o.xyz", "o.png", "o.webm", "o.pt"])
def test_a_video_is_no_file_of_another_kind(capsys, checkpoint, video, tmp_path, out):  # noqa: F811
    status, _, err = run(capsys, video, "-c", checkpoint, "-o", tmp_path / out)
    assert status == 1 and err.count("\n") == 1 and not (tmp_path / out).exists()
    assert f"or for a video a file that ends in .mp4, .avi, .mkv, .mov, got {tmp_path / out}" in err


@pytest.mark.parametrize("out", ["v1.2", "runs.2026-11", "there.xyz", "there.mp4"])
def test_a_folder_may_be_called_so(capsys, checkpoint, photos, video, tmp_path, out):  # noqa: F811
    """A number is no ending of a file, and a folder that is there is one."""
    if out.startswith("there"):
        (tmp_path / out).mkdir()
    for source in photos / "a.png", video:
        status, _, err = run(capsys, source, "-c", checkpoint, "-o", tmp_path / out, "--limit", 1)
        assert status == 0, err
    assert {path.name for path in (tmp_path / out).iterdir()} == {"a.png", "square.mp4"}


@pytest.mark.parametrize("threads", [0, 3])
def test_workers_are_threads_that_read(
    capsys,
    checkpoint,  # noqa: F811
    photos,
    tmp_path,
    monkeypatch,
    threads,
):
    real, seen = data.read_image, set()

    def read(path):
        seen.add(threading.current_thread().name)
        return real(path)

    monkeypatch.setattr(data, "read_image", read)
    (photos / "bad.png").write_bytes(b"no image")
    status, said, err = run(capsys, photos, "-c", checkpoint, "-o", tmp_path / "o", "--workers", threads)
    assert status == 1 and "wrote 3 pictures" in said and err.count("it is left out") == 1
    assert (threading.main_thread().name in seen) == (threads == 0)
    assert sorted(path.name for path in Path(tmp_path / "o").iterdir()) == ["a.png", "b.png", "c.png"]
