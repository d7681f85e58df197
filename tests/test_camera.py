"""``ssd-cuda detect 0``: a stand-in for the camera, since machines that test have none."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
pytest.importorskip("torchvision")

from test_video import SIZE, checkpoint, frames_of, run  # noqa: E402, F401 - a fixture


class Camera:
    """What detect uses of ``cv2.VideoCapture``: frames without end, or none from some point on.

    Args:
        frames: after so many nothing comes; None: without end.
        interrupted: Ctrl-C is pressed while this frame is read.
    """

    opened: list
    released = 0

    def __init__(self, frames=None, interrupted=None, rate=0.0, there=True):
        self.frames, self.interrupted, self.rate, self.there = frames, interrupted, rate, there
        self.opened, self.count = [], 0

    def __call__(self, source):
        self.opened.append(source)
        return self

    def isOpened(self):
        return self.there

    def get(self, what):
        assert what == cv2.CAP_PROP_FPS
        return self.rate

    def read(self):
        if self.count == self.frames:
            return False, None
        if self.count == self.interrupted:
            signal.raise_signal(signal.SIGINT)
        self.count += 1
        return True, np.full((*SIZE, 3), (40, 60, 7 * self.count % 256), np.uint8)

    def release(self):
        self.released += 1


@pytest.fixture
def plug_in(monkeypatch, tmp_path):
    """Puts a stand-in at the place of OpenCV's class, in a folder that has no file ``0``."""
    monkeypatch.chdir(tmp_path)

    def plug(**behaviour):
        camera, real = Camera(**behaviour), cv2.VideoCapture
        monkeypatch.setattr(cv2, "VideoCapture", lambda s: camera(s) if isinstance(s, int) else real(s))
        return camera

    return plug


def test_frames_of_a_camera_are_drawn(capsys, checkpoint, plug_in, tmp_path):  # noqa: F811
    camera = plug_in()
    status, said, err = run(
        capsys, "2", "-c", checkpoint, "-o", "out", "--limit", 5, "--every", 2, "--json", "rows.json"
    )
    assert status == 0, err
    assert camera.opened == [2] and type(camera.opened[0]) is int and camera.released == 1
    assert "5 frames, 3 detected on" in said and "images/s" in said
    assert frames_of(tmp_path / "out/camera2.mp4") == (5, SIZE)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["image"], row["frame"]) for row in rows] == [("2", 0), ("2", 2), ("2", 4)]
    assert any(row["detections"] for row in rows)


def test_a_camera_without_a_rate_is_written_at_25(plug_in):
    from ssd_cuda.engine.video import VideoReader

    plug_in()
    assert VideoReader("0").rate == 25.0
    plug_in(rate=15.0)
    assert VideoReader("0").rate == 15.0


def test_ctrl_c_ends_a_camera_well(capsys, checkpoint, plug_in, tmp_path):  # noqa: F811
    """The frame that was being read is the last, and all that was asked for is written."""
    camera, before = plug_in(interrupted=3), signal.getsignal(signal.SIGINT)
    line = ["0", "-c", checkpoint, "-o", "seen.avi", "--json", "rows.json", "--coco", "coco.json"]
    status, said, err = run(capsys, *line)
    assert status == 0 and not err.count("ssd-cuda: error"), err
    assert "4 frames, 4 detected on" in said and "wrote seen.avi" in said
    assert frames_of(tmp_path / "seen.avi") == (4, SIZE) and camera.released == 1
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 4 and (tmp_path / "coco.json").exists()
    assert not list(tmp_path.glob("*partial*")) and signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("behaviour", "source", "sentence"),
    [
        (dict(there=False), "0", "camera 0 must be one that OpenCV can open, got none"),
        (dict(frames=0), "1", "camera 1 must have frames, got none"),
        (None, "99999999999", "camera 99999999999 must be one that OpenCV can open, got none"),
    ],
    ids=["not there", "no frames", "beyond an int"],
)
def test_a_camera_that_gives_nothing_is_one_sentence(
    capfd,
    checkpoint,  # noqa: F811
    plug_in,
    tmp_path,
    behaviour,
    source,
    sentence,
):
    if behaviour is not None:
        plug_in(**behaviour)
    status, _, err = run(capfd, source, "-c", checkpoint, "-o", "out")
    assert status == 1 and sentence in err and err.count("ssd-cuda: error") == 1
    assert not list(tmp_path.glob("out/*"))


def test_a_file_named_like_a_camera_is_a_file(capsys, checkpoint, plug_in, tmp_path):  # noqa: F811
    """The picture 0 is no camera 0."""
    image = pytest.importorskip("PIL.Image")
    camera = plug_in()
    image.new("RGB", SIZE[::-1], (200, 10, 10)).save(tmp_path / "0", format="PNG")
    status, said, err = run(capsys, "0", "-c", checkpoint, "-o", "found.png")
    assert status == 0 and "wrote 1 picture" in said, err
    assert not camera.opened
