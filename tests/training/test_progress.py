"""What is told on stderr, also when nobody reads it any more."""

import os
import sys

import pytest

from pytorch_dl.training.progress import Progress, Stderr


def test_it_is_told_at_once(capsys):
    Progress().say("one\ntwo")
    assert capsys.readouterr().err == "one\ntwo\n"


def test_a_reader_that_has_gone_is_not_missed(monkeypatch: pytest.MonkeyPatch):
    """And at the end of the process nothing is left to be written, which would change its exit code."""
    reading, writing = os.pipe()
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        progress = Progress()
        progress.say("read")
        assert os.read(reading, 9) == b"read\n"
        os.close(reading)
        progress.say("not read")
        Stderr().write("neither")
        stream.flush()
        assert os.readlink(f"/proc/self/fd/{writing}") == os.devnull
