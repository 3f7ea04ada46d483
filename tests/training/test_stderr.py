"""Standard error whose reader leaves, hangs, and reads again."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO

import pytest
from tiny_runs import environment

from pytorch_dl.training.progress import Progress
from pytorch_dl.training.stderr import ENDING_SECONDS, PATIENCE, TEXTS_WAITING, Stderr


@contextlib.contextmanager
def a_pipe_is_stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end to read from. In the test itself: pytest puts its own stream there when a fixture is made."""
    reading, writing = os.pipe()
    with open(writing, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        patched.setattr(sys, "__stderr__", stream)
        yield reading
        Stderr().wait()  # nothing is written to what is no longer open


def fill(writing: int) -> int:
    """Let nothing more go into a pipe; returns how many bytes are in it."""
    os.set_blocking(writing, False)
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    return size


def read(reading: int, size: int) -> bytes:
    content = b""
    while len(content) < size:
        content += os.read(reading, size - len(content))
    return content


def test_a_reader_that_has_gone_is_not_missed(monkeypatch: pytest.MonkeyPatch):
    """And at the end of the process nothing is left to be written, which would change its exit code."""
    with a_pipe_is_stderr(monkeypatch) as reading:
        progress = Progress()
        progress.say("read")
        assert os.read(reading, 9) == b"read\n"
        os.close(reading)
        progress.say("not read")
        Stderr().write("neither")
        sys.stderr.flush()
        assert os.readlink(f"/proc/self/fd/{sys.stderr.fileno()}") == os.devnull


def test_a_reader_that_hangs_is_waited_for_once_and_told_what_it_missed(monkeypatch: pytest.MonkeyPatch):
    with a_pipe_is_stderr(monkeypatch) as reading:
        size = fill(sys.stderr.fileno())
        begin = time.monotonic()
        for number in range(TEXTS_WAITING + 10):
            Stderr().write(f"line {number}\n")
            Stderr().write("\rthe live line")
        assert time.monotonic() - begin < PATIENCE + 1
        read(reading, size)
        lines = "".join(f"line {number}\n" for number in range(TEXTS_WAITING + 1))  # one of them was being written
        assert read(reading, len(lines)).decode() == lines
        Stderr().wait()
        Stderr().write("now\n")
        assert os.read(reading, 200) == b"(9 lines are not shown here, as nobody read them)\nnow\n"
        os.close(reading)


def test_a_stream_in_its_place_is_written_to_by_itself(monkeypatch: pytest.MonkeyPatch):
    """As in a notebook, where the descriptor leads elsewhere."""
    stream = StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    Stderr().write("some")
    assert stream.getvalue() == "some"


HANGS = """
import os, sys, warnings
from pytorch_dl import entry
from pytorch_dl.training.heartbeat import Heartbeat
from pytorch_dl.training.stderr import Stderr
os.set_blocking(2, False)
try:
    while True: os.write(2, b"x" * 4096)
except BlockingIOError: pass
os.set_blocking(2, True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("Stderr().write('a line\\n')", 0),
        ("Stderr().write('a line\\n'); sys.exit(3)", 3),
        ("entry.app = lambda *_, **__: warnings.warn('one'); entry.main()", 0),
        ("Heartbeat(None, rank=0, size=2)._end('rank 1')", 7),
    ],
)
def test_a_process_ends_beside_a_reader_that_hangs(end: str, code: int):
    process = subprocess.Popen([sys.executable, "-c", HANGS.format(end=end)], env=environment(), stderr=subprocess.PIPE)
    try:
        assert process.wait(timeout=30) == code
    finally:
        process.kill()
        process.communicate()


def test_what_a_slow_reader_has_not_read_yet_is_written_before_the_process_ends():
    end = "sys.stdin.read(); Stderr().write('the last words\\n')"
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS.format(end=end)],
        env=environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stderr
    with process:
        process.stdin.close()
        time.sleep(PATIENCE + (ENDING_SECONDS - PATIENCE) / 2)
        assert process.stderr.read().endswith(b"xthe last words\n")
    assert process.returncode == 0
