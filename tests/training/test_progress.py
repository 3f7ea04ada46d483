"""What is told: at once where nobody looks on, above one live line at a terminal."""

import os
import pty
import sys
from typing import IO

import pytest
from rich.console import Console

from pytorch_dl.training.progress import Progress, Sample
from pytorch_dl.training.stderr import Stderr


def test_it_is_told_at_once(capsys):
    Progress().say("one\ntwo")
    assert capsys.readouterr().err == "one\ntwo\n"


def test_a_text_does_not_move_the_cursor(capsys):
    Progress().samples([Sample("a\x1b[2Jb", "\x9b1A", "[red]\u202e")])
    told = "  source       a\\x1b[2Jb\n  reference    \\x9b1A\n  translation  [red]\\u202e\n"
    assert capsys.readouterr().err == told


def test_a_terminal_is_told_what_rich_tells_it(monkeypatch: pytest.MonkeyPatch):
    """The live line, lines above it, and a terminal as it was."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("rich.live._RefreshThread.start", lambda thread: None)  # only what is asked for

    def told(stream: IO[str]) -> bytes:
        with Progress(Console(file=stream, force_terminal=True, width=40, highlight=False, soft_wrap=True)) as progress:
            for step in range(3):
                progress.step(f"step {step} " + 50 * "x")
                progress._live.refresh()
                progress.say(f"line {step}")
        os.write(terminal, b"END")
        content = b""
        while not content.endswith(b"END"):
            content += os.read(looking_on, 1 << 16)
        return content

    looking_on, terminal = pty.openpty()
    with open(terminal, "w") as stream:
        expected = told(stream)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "__stderr__", stream)
        assert Stderr().isatty()
        assert told(Stderr()) == expected
    os.close(looking_on)
    assert expected.count(b"line 2\r\n") == 1
    assert b"\x1b[?25h" in expected, "the cursor is shown again"
