"""What ended a command becomes one line and an exit code; with --debug, also a traceback."""

import errno
import io
import subprocess
import sys

import pytest
import torch
import typer
from tiny_runs import call, environment

from pytorch_dl.entry import execute
from pytorch_dl.errors import DataError, NonFiniteError, PeerLostError
from pytorch_dl.failures import told

CASES = [
    (DataError("bad", where="a:1", fix="mend it"), 3, "a:1: bad. Fix: mend it."),
    (NonFiniteError("loss nan at step 7"), 5, "loss nan at step 7"),
    (PeerLostError("rank 1 is gone"), 7, "rank 1 is gone"),
    (typer.BadParameter("must be 3"), 2, "Invalid value: must be 3. Fix: see `pytorch-dl --help`."),
    (KeyboardInterrupt(), 75, "interrupted before anything had to be saved. Fix: run it again."),
    (typer.Abort(), 75, "interrupted before anything had to be saved. Fix: run it again."),
    (MemoryError(), 6, "out of memory. Fix: lower data.max_tokens_per_batch"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 6, "out of memory"),
    (ImportError("x needs y: pip install z"), 2, "x needs y: pip install z"),
    (OSError(errno.ENOSPC, "No space left on device", "f"), 6, "f: no space left on the disk"),
    (PermissionError(errno.EACCES, "Permission denied", "f"), 6, "f: Permission denied"),
    (ZeroDivisionError("division by zero"), 1, "internal error, please report it: ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("error", "code", "beginning"), CASES, ids=lambda value: type(value).__name__)
def test_each_end_has_its_line_and_code(error, code, beginning):
    line, found = told(error)
    assert found == code
    assert line.startswith(beginning)


def test_memory_that_torch_cannot_have():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert told(caught.value)[1] == 6


@pytest.mark.parametrize("debug", [False, True])
def test_our_own_bugs_are_one_line_too(debug, monkeypatch, capsys):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the middle\nof two lines")

    monkeypatch.setattr("pytorch_dl.commands.check_texts", broken)
    assert execute(["check", "--src", "a.tsv"], debug=debug) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("pytorch-dl: error: internal error, please report it: ZeroDivisionError")
    assert ("Traceback" in err) == debug


def test_a_line_with_half_a_character_is_shown():
    """A file of JSON can hold one, and no encoding has it."""
    code = "import pytorch_dl.entry as e\ndef app(*_, **__): raise e.ConfigError('a \\ud800')\ne.app = app\ne.main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True)
    assert (done.returncode, done.stderr) == (2, b"pytorch-dl: error: a \\ud800\n")


def test_a_closed_pipe_is_no_error(tiny_run, monkeypatch):
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Closed())
    monkeypatch.setattr("sys.stderr", io.StringIO())  # typer wraps both
    assert execute(["translate", str(tiny_run), "-t", "ab", "--beam", "1"]) == 0


def test_usage_errors_name_the_command(capsys):
    result = call(capsys, "translate")
    assert result.err == "pytorch-dl: error: Missing argument 'RUN'. Fix: see `pytorch-dl translate --help`.\n"
