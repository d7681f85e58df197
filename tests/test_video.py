"""``ssd-cuda detect`` on a video that the test makes; which detections are kept, COCO results, crops."""

from __future__ import annotations

import json
import signal
import struct
import sys
import time

import pytest
import torch
from children import child
from torch import nn

from ssd_cuda import cli
from ssd_cuda.engine.checkpoint import ModelSpec, save_model
from ssd_cuda.engine.selection import ResultIds, Selection, coco_results
from ssd_cuda.engine.video import WRITTEN_SUFFIXES, VideoReader

cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
pytest.importorskip("torchvision")
CLASSES = ("red", "green blue/2")
FRAMES, SIZE = 7, (48, 80)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights that find something everywhere."""
    path = tmp_path_factory.mktemp("video") / "model.pt"
    spec = ModelSpec("ssd_small", CLASSES, (64, 64))
    torch.manual_seed(0)
    model = spec.build()
    for head in model.heads:
        nn.init.normal_(head.conf_conv.weight, std=0.5)
    save_model(path, spec, model.state_dict())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A square that moves, in an AVI of its own frames."""
    import numpy as np

    path = tmp_path_factory.mktemp("video") / "square.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1])
    for k in range(FRAMES):
        frame = np.full((*SIZE, 3), 40, np.uint8)
        frame[10:30, 8 * k : 8 * k + 20] = (0, 0, 250)
        writer.write(frame)
    writer.release()
    return path


def run(capsys, *arguments):
    status = cli.main(["detect", *map(str, arguments), "--device", "cpu"])
    return status, *capsys.readouterr()


def frames_of(path):
    capture, count, size = cv2.VideoCapture(str(path)), 0, None
    while (read := capture.read())[0]:
        count, size = count + 1, read[1].shape[:2]
    return count, size


@pytest.mark.parametrize("ending", WRITTEN_SUFFIXES)
def test_a_video_goes_in_and_out(capsys, checkpoint, video, tmp_path, ending):
    out, rows = tmp_path / f"out{ending}", tmp_path / "rows.json"
    status, said, err = run(
        capsys, video, "-c", checkpoint, "-o", out, "--every", 3, "--json", rows,
        "--coco", tmp_path / "c.json", "--crops", tmp_path / "crops",
    )  # fmt: skip
    assert status == 0, err
    assert frames_of(out) == (FRAMES, SIZE)
    found = json.loads(rows.read_text())
    assert [row["frame"] for row in found] == [0, 3, 6]
    boxes = sum(len(row["detections"]) for row in found)
    assert boxes and f"7 frames, 3 detected on, {boxes} detections" in said
    for part in ("images/s", "read", "network", "post-process", "draw", "write"):
        assert part in said
    results = json.loads((tmp_path / "c.json").read_text())
    assert len(results) == boxes and {r["image_id"] for r in results} <= {0, 3, 6}
    crops = list((tmp_path / "crops").iterdir())
    assert 0 < len(crops) <= boxes and all("green_blue_2" in c.name or "red" in c.name for c in crops)
    assert not list(tmp_path.glob("*partial*"))


def test_a_failure_leaves_no_half_video(tmp_path):
    from PIL import Image

    from ssd_cuda.engine.video import VideoWriter

    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "x.avi", 10) as writer:
        writer.add(Image.new("RGB", (64, 48)))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", WRITTEN_SUFFIXES)
@pytest.mark.parametrize(("frames", "part"), [(1, 0.1), (1, 0.9), (30, 0.1), (30, 0.5), (30, 0.95)])
def test_a_disk_without_room_is_told(tmp_path, ending, frames, part):
    """OpenCV goes on in silence: a file that nothing can play was the video that had been asked for."""
    import numpy as np
    from PIL import Image

    from ssd_cuda.engine.outputs import OutputError
    from ssd_cuda.engine.video import VideoWriter

    resource = pytest.importorskip("resource", reason="needs limits of POSIX")
    pixels = np.random.default_rng(0).integers(0, 256, (frames, 96, 128, 3), np.uint8)

    def write(path):
        with VideoWriter(path, 10) as writer:
            for frame in pixels:
                writer.add(Image.fromarray(frame))

    write(tmp_path / f"whole{ending}")
    room = int((tmp_path / f"whole{ending}").stat().st_size * part)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OutputError, match="cannot be written: not every frame arrived"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            write(tmp_path / f"x{ending}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [f"whole{ending}"]


def test_an_input_that_is_called_like_a_partial_file_stays(capsys, checkpoint, video, tmp_path):
    """It was written over while it was read, and gone at the end."""
    source, out = tmp_path / "x.partial.avi", tmp_path / "x.avi"
    source.write_bytes(video.read_bytes())
    assert run(capsys, source, "-c", checkpoint, "-o", out)[0] == 0
    assert source.read_bytes() == video.read_bytes() and frames_of(out) == (FRAMES, SIZE)
    assert sorted(tmp_path.iterdir()) == [out, source]


@pytest.mark.parametrize("name", ["old.avi", "new.avi", "deep/new", "old"])
def test_a_link_to_a_video_stays(capsys, checkpoint, video, tmp_path, name):
    """As of every other file that is written, wherever it leads."""
    (tmp_path / "far").mkdir()
    far, link = tmp_path / "far" / name, tmp_path / "link.avi"
    if "old" in name:
        far.write_text("old")
    link.symlink_to(far)
    assert run(capsys, video, "-c", checkpoint, "-o", link)[0] == 0
    assert link.is_symlink() and frames_of(far) == (FRAMES, SIZE)
    assert list(far.parent.iterdir()) == [far]


def test_a_limit_and_a_folder(capsys, checkpoint, video, tmp_path):
    status, said, _ = run(capsys, video, "-c", checkpoint, "-o", tmp_path, "--limit", 2)
    assert status == 0 and "2 frames, 2 detected on" in said
    assert frames_of(tmp_path / "square.mp4") == (2, SIZE)


def test_the_network_sees_red_as_red(checkpoint, video):
    """OpenCV's frames are BGR: the first frame's square must arrive as red."""
    reader = VideoReader(str(video))
    frame = next(iter(reader))
    assert frame.shape == (3, *SIZE) and reader.rate == 10
    red, green, blue = frame[:, 15:25, 5:15].float().mean((1, 2))
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["VIDEO", "VIDEO"], "a video, a camera or a stream must be the only input, got 2"),
        (["no.mp4"], "video no.mp4 does not exist"),
        (["BROKEN"], "must be one that OpenCV can open"),
        (["VIDEO", "--every", "0"], "--every must be at least 1, got 0"),
        (["VIDEO", "--limit", "0"], "--limit must be at least 1, got 0"),
        (["VIDEO", "--classes", "blue"], "classes must be of the checkpoint, red, green blue/2, got 'blue'"),
        (["VIDEO", "--class-threshold", "red"], "--class-threshold must be NAME=SCORE, got red"),
        (["VIDEO", "--class-threshold", "red=7"], "the threshold of red must lie in [0, 1], got 7.0"),
        (["VIDEO", "-o", "VIDEO"], "--out must leave its inputs as they are"),
        (["VIDEO", "--coco", "VIDEO"], "--coco must leave its inputs as they are"),
    ],
)
def test_bad_lines(capsys, checkpoint, video, tmp_path, arguments, sentence):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    names = {"VIDEO": video, "BROKEN": tmp_path / "broken.mp4"}
    given = [names.get(a, a) for a in arguments]
    where = [] if "-o" in arguments else ["-o", tmp_path / "out"]
    status, _, err = run(capsys, *given, "-c", checkpoint, *where)
    assert status == 1 and sentence in err and err.count("ssd-cuda: error") == 1


@pytest.mark.parametrize("ending", [".ts", ".WMV", ".flv", ".3gp"])
def test_other_containers_are_videos_too(capsys, checkpoint, video, tmp_path, ending):
    """OpenCV looks into the file for what it is."""
    renamed = tmp_path / f"a{ending}"
    renamed.write_bytes(video.read_bytes())
    status, said, err = run(capsys, renamed, "-c", checkpoint, "-o", tmp_path / "out.mp4", "--every", 7)
    assert status == 0 and f"{FRAMES} frames, 1 detected on" in said, err


def test_classes_and_their_thresholds():
    found = {
        "boxes": torch.arange(12.0).view(3, 4),
        "scores": torch.tensor([0.9, 0.6, 0.5]),
        "labels": torch.tensor([1, 2, 1]),
    }
    assert Selection(CLASSES).of(found)["scores"].tolist() == found["scores"].tolist()  # 0.5 is enough
    assert Selection(CLASSES, only=["red"]).of(found)["labels"].tolist() == [1, 1]
    chosen = Selection(CLASSES, 0.55, {"red": 0.95}, ["red", "green blue/2"])
    (row,) = chosen.rows(chosen.of(found))
    assert row == {"box": [4.0, 5.0, 6.0, 7.0], "score": 0.6, "class": "green blue/2"}
    ids = ResultIds(chosen, ModelSpec("ssd_small", CLASSES, (64, 64)), ["x/000042.png"])
    (result,) = coco_results([{"image": "x/000042.png", "detections": [row]}], ids)
    assert result == {"image_id": 42, "category_id": 2, "bbox": [4.0, 5.0, 2.0, 2.0], "score": 0.6}


def test_pictures_take_the_same_options(capsys, checkpoint, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("a.png", "b.png", "c.png"):
        image.new("RGB", (60, 40), (200, 10, 10)).save(tmp_path / name)
    status, said, err = run(
        capsys, tmp_path, "-c", checkpoint, "-o", tmp_path / "out", "--limit", 2, "--classes", "red",
        "--threshold", 0, "--crops", tmp_path / "crops", "--coco", tmp_path / "c.json",
    )  # fmt: skip
    assert status == 0, err
    assert "wrote 2 pictures" in said
    results = json.loads((tmp_path / "c.json").read_text())
    assert (
        results
        and {r["category_id"] for r in results} == {1}
        and {r["image_id"] for r in results} == {"a", "b"}
    )
    assert any((tmp_path / "crops").glob("a-*-red.png"))


@pytest.mark.parametrize("ending", [".avi", ".mkv"])
def test_a_video_that_was_cut_off_is_told(capsys, checkpoint, tmp_path, ending):
    """OpenCV reads what is left of it and says that it is over."""
    whole, cut = write_video(tmp_path / f"whole{ending}", 64, 48, 20), tmp_path / f"cut{ending}"
    content = whole.read_bytes()
    lost = len(content) // 10
    cut.write_bytes(content[:-lost])
    left = frames_of(cut)[0]
    assert 0 < left < 20
    status, said, err = run(capsys, cut, "-c", checkpoint, "-o", tmp_path / "out.avi")
    assert status == 0 and f"{left} frames, " in said
    assert err == (
        f"ssd-cuda: warning: video {cut} was cut off: its file ends {lost} bytes too early, "
        f"after {left} frames\n"
    )
    for source, given in (cut, ["--limit", left]), (cut, ["--limit", 1]), (whole, []):
        assert run(capsys, source, "-c", checkpoint, "-o", tmp_path / "out.avi", *given)[::2] == (0, "")


def test_frames_that_an_edit_list_hides_are_not_lost(capsys, checkpoint, tmp_path):
    """As where a telephone has trimmed a video: the frames before the new start stay in the file."""
    path = write_video(tmp_path / "a.mp4", 64, 48, 20, code="mp4v")
    content = bytearray(path.read_bytes())
    entry = content.index(b"elst") + 12  # after version and number of entries: duration, start, rate
    duration, _ = struct.unpack_from(">II", content, entry)
    ticks = struct.unpack_from(">I", content, content.index(b"mdhd") + 20)[0]  # of the track's clock
    struct.pack_into(">II", content, entry, duration * 3 // 4, ticks // 4)
    path.write_bytes(content)
    assert frames_of(path)[0] < VideoReader(str(path)).frames == 20
    assert run(capsys, path, "-c", checkpoint, "-o", tmp_path / "out.avi")[::2] == (0, "")


@pytest.mark.parametrize(
    ("name", "said", "frames"),
    [("a.avi", 7, 7), ("a.MP4", 7, 7), ("a.mkv", 7, None), ("a.avi", 0, None), ("a.avi", -9e18, None)]
    + [("a.avi", float("nan"), None), ("a.avi", 1e18, None)],
)
def test_a_count_of_frames_is_believed_where_the_file_holds_it(monkeypatch, tmp_path, name, said, frames):
    from ssd_cuda.engine import video

    class Capture:
        isOpened = staticmethod(lambda: True)
        get = staticmethod(lambda what: said if what == cv2.CAP_PROP_FRAME_COUNT else 10.0)

    (tmp_path / name).touch()
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: Capture)
    assert video.VideoReader(str(tmp_path / name)).frames == frames


def write_video(path, width, height, frames=2, backend=cv2.CAP_FFMPEG, code="MJPG"):
    import numpy as np

    writer = cv2.VideoWriter(str(path), backend, cv2.VideoWriter_fourcc(*code), 10.0, (width, height))
    for k in range(frames):
        writer.write(np.full((height, width, 3), 40 + k % 200, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("ending", WRITTEN_SUFFIXES)
@pytest.mark.parametrize("size", [(64, 600), (600, 64), (16, 512), (65, 301)])
def test_a_written_video_has_the_size_of_its_source(capsys, checkpoint, tmp_path, ending, size):
    """Its boxes are told in these pixels."""
    width, height = size
    out = tmp_path / f"out{ending}"
    source = write_video(tmp_path / "in.avi", width, height, backend=cv2.CAP_OPENCV_MJPEG)
    status, _, err = run(capsys, source, "-c", checkpoint, "-o", out)
    assert status == 0, err
    if width % 2 == 0 or ending == ".avi":
        assert frames_of(out) == (2, (height, width)) and not err
    else:  # what FFmpeg makes of it is told, once
        assert frames_of(out) == (2, (height - 1, width - 1))
        assert "is written in 64x300 pixels, without the last" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupt_keeps_what_was_done(checkpoint, tmp_path, number, status, word):
    """As a terminal does it, to a process: a video that plays, a row for each of its frames."""
    source = write_video(tmp_path / "long.avi", 64, 48, frames=20_000)
    out, rows = tmp_path / "out.avi", tmp_path / "rows.json"
    command = [sys.executable, "-m", "ssd_cuda", "detect", source, "-c", checkpoint, "-o", out]
    command += ["--json", rows, "--device", "cpu"]
    with child(command) as process:
        partial = out.with_name("out.partial.avi")
        while not partial.exists() or not partial.stat().st_size:  # frames are being written
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        err = process.communicate(timeout=300)[1].decode()
    assert process.returncode == status and "Traceback" not in err, err
    done, size = frames_of(out)
    assert err.splitlines()[-1] == f"ssd-cuda: {word}; wrote {out} after {done} frames"
    assert 0 < done < 20_000 and size == (48, 64) and len(json.loads(rows.read_text())) == done
    assert not partial.exists()


def test_a_second_ctrl_c_leaves_whole_frames(tmp_path):
    """It comes while a frame is at work."""
    from PIL import Image

    from ssd_cuda.engine.video import VideoWriter

    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "x.avi", 10) as writer:
        writer.add(Image.new("RGB", (64, 48)))
        raise KeyboardInterrupt
    assert frames_of(tmp_path / "x.avi") == (1, (48, 64)) and len(list(tmp_path.iterdir())) == 1
