"""``ssd-cuda detect http://...``: a video from a server of the test's own."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import threading

import pytest

cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
pytest.importorskip("torchvision")

from test_video import FRAMES, SIZE, checkpoint, frames_of, run, video  # noqa: E402, F401 - fixtures


@pytest.fixture
def address(video):  # noqa: F811
    """Of the folder of the video."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def copyfile(self, source, outputfile):
            with contextlib.suppress(ConnectionError):  # who reads stops when it has what it wants
                super().copyfile(source, outputfile)

    handler = functools.partial(Handler, directory=str(video.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_stream_is_read_to_its_end(capsys, checkpoint, address, tmp_path):  # noqa: F811
    """Nobody is told the password."""
    line = [f"http://me:secret@{address}/square.avi", "-c", checkpoint, "-o", tmp_path / "out"]
    status, said, err = run(capsys, *line, "--json", tmp_path / "rows.json")
    assert status == 0, err
    assert frames_of(tmp_path / "out/stream.mp4") == (FRAMES, SIZE)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == FRAMES and {row["image"] for row in rows} == {f"http://{address}/square.avi"}
    assert "secret" not in said + err


@pytest.mark.parametrize("path", ["none.avi", "none"])
def test_a_stream_that_is_not_there_is_one_sentence(capfd, checkpoint, address, tmp_path, path):  # noqa: F811
    status, _, err = run(
        capfd, f"http://me:secret@{address}/{path}", "-c", checkpoint, "-o", tmp_path / "out"
    )
    assert status == 1 and err.count("ssd-cuda: error") == 1 and "secret" not in err
    assert f"stream http://{address}/{path} must be one that OpenCV can open, got none" in err
    assert not list(tmp_path.glob("out/*"))
