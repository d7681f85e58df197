"""What the programs print: no raw control character, one sentence a failure, an end without tracebacks."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from children import child

from ssd_cuda._names import check_distinct, name_list, printable
from ssd_cuda.engine import console
from ssd_cuda.engine.console import (
    HungUp,
    StopOnInterrupt,
    Terminated,
    complain,
    interruption,
    run_safely,
    say,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Ärger, 猫, \N{CAT FACE}", "plain, Ärger, 猫, \N{CAT FACE}"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines\r\ttab\x00\x7f\x9b", "two\\nlines\\r\\ttab\\x00\\x7f\\x9b"),
        ("turned \u202egpj.exe", "turned \\u202egpj.exe"),
        ("line\u2028paragraph\u2029", "line\\u2028paragraph\\u2029"),
        ("bytes \udcff", "bytes \\udcff"),
        ("نم\u200cد", "نم\u200cد"),  # a joiner that the script needs
    ],
)
def test_printable_escapes_what_a_terminal_would_obey(text, shown):
    assert printable(text) == shown
    assert printable(printable(text)) == shown


def test_every_line_that_is_said_is_printable(capsys):
    say("cat\x1b[31m", Path("a\nb.jpg"), 3)
    complain("image \x1b]0;x\x07.jpg cannot\nbe read")
    captured = capsys.readouterr()
    assert captured.out == "cat\\x1b[31m\na\\nb.jpg\n3\n"
    assert captured.err == "ssd-cuda: error: image \\x1b]0;x\\x07.jpg cannot be read\n"


def test_a_stream_without_the_letters_gets_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(console.sys, "stdout", stream)
    say("猫")
    assert stream.buffer.getvalue() == b"\\u732b\n"


def test_long_lists_are_cut():
    assert name_list(["a", "b"]) == "a, b"
    assert name_list([f"c{i}" for i in range(20_000)]).endswith("c11, ... (20000)")


def test_names_are_distinct():
    check_distinct("classes", ["a", "b"])
    with pytest.raises(ValueError, match="classes must name each class once, got 'a' for labels 1 and 3"):
        check_distinct("classes", ["a", "b", "a"])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("x must be 1,\n got 2"), "x must be 1, got 2"),
        (OSError(28, "No space left on device"), "No space left"),
        (MemoryError(), "too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "too little memory"),
        (RuntimeError("ssd_cuda: not built"), "not built"),
        (torch.cuda.OutOfMemoryError("CUDA"), "lower --batch-size"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(capsys, error, sentence):
    def fail():
        raise error

    assert run_safely(fail) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ssd-cuda: error: ") and sentence in lines[0]


def test_an_interrupt_and_a_mistake_of_the_program(capsys):
    def interrupt(*text):
        raise KeyboardInterrupt(*text)

    def fail():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert run_safely(interrupt) == 130 and "ssd-cuda: interrupted\n" in capsys.readouterr().err
    assert run_safely(interrupt, "wrote x") == 130
    assert "ssd-cuda: interrupted; wrote x\n" in capsys.readouterr().err

    def terminate():
        raise interruption(signal.SIGTERM, "wrote x")

    assert run_safely(terminate) == 143 and capsys.readouterr().err == "ssd-cuda: terminated; wrote x\n"
    with pytest.raises(RuntimeError):  # keeps its traceback
        run_safely(fail)


def test_warnings_are_sentences_and_deprecations_are_not_told(capsys):
    def warn():
        warnings.warn("the split has no objects", UserWarning, stacklevel=1)
        warnings.warn("This process is multi-threaded, use of fork() ...", DeprecationWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_safely(warn) == 0
    assert capsys.readouterr().err == "ssd-cuda: warning: the split has no objects\n"


def test_statuses_are_passed_on():
    assert run_safely(lambda: None) == 0 and run_safely(lambda: 1) == 1


@pytest.mark.parametrize(
    "program",
    [
        ["-m", "ssd_cuda", "--help"],  # which argparse leaves in the buffer
        ["-m", "ssd_cuda.engine.demo", "--help"],
        ["-c", "import sys; from ssd_cuda.engine.console import *; sys.exit(run_safely(say, 'x'))"],
    ],
)
def test_a_reader_that_leaves_first_ends_every_program_quietly(program):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with child([sys.executable, *program], env=buffered) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.skipif(sys.platform == "win32", reason="a shell that closes them")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_without_streams_says_nothing_and_goes_on(closed):
    """And no file that it opens has the number of one, on which libraries print."""
    code = """
import os
import sys
from ssd_cuda.engine.console import complain, run_safely, say

def both():
    say("said")
    complain("told", "warning")
    return 5 if os.open(os.devnull, os.O_RDONLY) <= 2 else 0

sys.exit(run_safely(both))
"""
    with child(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code], text=True) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == ("said\n" if closed == "2>&-" else "")
    assert err == ("ssd-cuda: warning: told\n" if closed == ">&-" else "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("processes", "later", "again"), [("1", 0.1, True), ("2", 0.1, False), ("2", 1.5, True)]
)
def test_what_a_launcher_passes_on_is_the_same_interrupt(monkeypatch, processes, later, again, number):
    """A terminal sends Ctrl-C to all, and torchrun sends it to its processes once more."""
    monkeypatch.setenv("WORLD_SIZE", processes)
    clock = [5.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with StopOnInterrupt() as stop:
        assert not stop() and stop.signal == 0
        os.kill(os.getpid(), number)
        assert stop()
        clock[0] += later
        if again:
            with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Terminated):
                os.kill(os.getpid(), number)
                stop()
        else:
            os.kill(os.getpid(), number)
            assert stop()
        assert stop.signal == number
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_first_signal_counts_and_another_thread_takes_none():
    with StopOnInterrupt() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), signal.SIGINT)
            stop()
        assert caught.type is KeyboardInterrupt and stop.signal == signal.SIGTERM
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def enter():
        with StopOnInterrupt():
            return [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a signal of terminals")
def test_a_terminal_that_goes_stops_a_run_as_ctrl_c_does_unless_nohup_says_no(capsys):
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with StopOnInterrupt() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop() and stop.signal == signal.SIGHUP
            with pytest.raises(HungUp):
                os.kill(os.getpid(), signal.SIGHUP)
                stop()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopOnInterrupt() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)

    def hang_up():
        raise interruption(signal.SIGHUP, "wrote x")

    assert run_safely(hang_up) == 129 and capsys.readouterr().err == "ssd-cuda: hung up; wrote x\n"
